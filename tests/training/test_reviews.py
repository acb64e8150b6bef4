"""Signed reviews become training data as they are."""

import json

import numpy as np
import pytest
from tiny_training import blobs, tiny_bundle

from medpanoptic.classes import ClassTable
from medpanoptic.errors import DataError, ReviewError
from medpanoptic.geometry import spatial_affine
from medpanoptic.io import write_result
from medpanoptic.io.nifti import write_nifti
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.review import ReviewSession, sign
from medpanoptic.training.layouts import VOID, read_layout
from medpanoptic.volume import ChannelSpec

CHANNELS = (ChannelSpec("image"),)
SHAPE = (16, 24, 24)
AFFINE = spatial_affine((2, 1, 1))


def signed_case(root, number, classes, image=True, verdicts=()):
    """A model's result of which one blob was wrong; read and signed. Returns the true ids."""
    ids, pixels = blobs(SHAPE, number, count=3)
    place = root / "images" / f"p{number}.nii.gz"
    place.parent.mkdir(exist_ok=True, parents=True)
    write_nifti(place, pixels, AFFINE)
    found = ids + 1
    segments = tuple(Segment(int(i), 1 if i == 1 else 2) for i in np.unique(found))
    result = PanopticResult(found.astype(np.int32), segments, classes, AFFINE, stuff=np.ones(SHAPE, np.uint8))
    case = root / "out" / f"case{number}"
    write_result(result, case, formats=["csv"])
    session = ReviewSession.open(case, reader="A. Reader")
    session.set_verdicts(session.things, "accepted")
    for lesion, verdict in verdicts:
        session.set_verdict(lesion, verdict)
    sign(session, image=place if image else None, formats=["csv"])
    return found


@pytest.fixture
def classes(tmp_path):
    bundle = tiny_bundle(tmp_path / "bundle", 3, [16, 16, 16])
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    return ClassTable.from_json(metadata["medpanoptic"]["classes"])


def test_verdicts_become_truth(tmp_path, classes):
    found = signed_case(tmp_path, 0, classes, verdicts=[(2, "rejected"), (3, "unsure")])
    (tmp_path / "out" / "unsigned").mkdir()
    (case,) = read_layout(tmp_path / "out", CHANNELS, {})
    assert case.id == "case0"
    assert set(np.unique(case.instances)) == {0, 4}
    assert (case.codes[found == 2] == 1).all()
    assert (case.codes[found == 3] == VOID).all()
    assert (case.codes[found == 4] == 2).all()
    assert case.code_names == {1: "background", 2: "blob"}
    assert np.array_equal(case.volume.array[0], blobs(SHAPE, 0, count=3)[1])


def test_a_model_trains_on_signed_reviews_as_they_are(tmp_path, classes):
    from medpanoptic.training.loop import train

    for number in range(6):
        signed_case(tmp_path, number, classes)
    made = train(tmp_path / "bundle", tmp_path / "out", tmp_path / "run", steps=2, threads=1, progress=False)
    assert (made / "models" / "model.safetensors").is_file()


def test_what_cannot_be_trained_on_is_named_without_a_path(tmp_path, classes):
    signed_case(tmp_path, 0, classes, image=False)
    with pytest.raises(DataError, match="DATA-MISSING"):
        list(read_layout(tmp_path / "out", CHANNELS, {}))
    signed_case(tmp_path / "b", 0, classes)
    (tmp_path / "b" / "images" / "p0.nii.gz").unlink()
    with pytest.raises(DataError, match="DATA-MISSING") as caught:
        list(read_layout(tmp_path / "b" / "out", CHANNELS, {}))
    assert "p0" not in str(caught.value)
    write_nifti(tmp_path / "b" / "images" / "p0.nii.gz", np.zeros((4, 4, 4), np.uint8), AFFINE)
    with pytest.raises(DataError, match="DATA-SHAPE"):
        list(read_layout(tmp_path / "b" / "out", CHANNELS, {}))


def test_a_tampered_review_is_not_trained_on(tmp_path, classes):
    signed_case(tmp_path, 0, classes)
    table = tmp_path / "out" / "case0" / "review" / "v1" / "segments.json"
    table.write_text(table.read_text().replace('"accepted"', '"rejected"'))
    with pytest.raises(ReviewError, match="REVIEW-TAMPERED"):
        list(read_layout(tmp_path / "out", CHANNELS, {}))
