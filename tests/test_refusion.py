"""A kept prediction, fused again, is what a full run with the same settings gives; no network, no MONAI."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from test_segmenter import RESAMPLED, BrightThings, ChannelSpec, bundle, picture, study

from medpanoptic.errors import ReadError, ResultError
from medpanoptic.geometry import spatial_affine
from medpanoptic.io import read_result, write_result
from medpanoptic.refusion import fuse_case, fuse_prediction
from medpanoptic.segmenter import Segmenter, segment_file
from medpanoptic.stored import FILE, read_prediction, write_prediction
from medpanoptic.volume import Volume


def flat(shape, seed=0):
    """Blobs of many brightnesses, so that each threshold finds others."""
    rng = np.random.default_rng(seed)
    array = np.zeros((1, *shape), np.float32)
    for _ in range(25):
        start = [int(rng.integers(0, n - 5)) for n in shape]
        array[(0, *(slice(a, a + int(rng.integers(2, 5))) for a in start))] = rng.uniform(52, 100)
    return array


def cases():
    plain = Volume.from_array(flat((60, 70)), spatial_affine((0.5, 0.5)))
    resampled = bundle(3, preprocessing=RESAMPLED, channels=(ChannelSpec("ct", "CT", "HU"),))
    solid = study()
    return {
        "2D": (bundle(), BrightThings(), plain),
        "3D on another grid": (resampled, BrightThings(3), Volume(flat((14, 30, 36)), solid.affine, solid.channels)),
    }


def same(one, other):
    assert one.ids.tobytes() == other.ids.tobytes()
    assert one.stuff.tobytes() == other.stuff.tobytes()
    assert one.segments == other.segments
    assert one.provenance == other.provenance
    assert [(d.class_id, d.score, d.reason, d.box) for d in one.dropped] == [
        (d.class_id, d.score, d.reason, d.box) for d in other.dropped
    ]
    np.testing.assert_array_equal(one.affine, other.affine)


@pytest.mark.parametrize("name", ["2D", "3D on another grid"])
@pytest.mark.parametrize("score", [None, 0.05, 0.8, 0.97])
def test_equal_to_a_full_run(tmp_path, name, score):
    model, network, volume = cases()[name]
    segmenter = Segmenter(model, network)
    stored = segmenter.predict(volume)
    write_prediction(stored, tmp_path)
    read = read_prediction(tmp_path)
    again = fuse_prediction(read, score_threshold=score)
    same(again, segmenter(volume, score=score))
    assert bool(again.things) == (score != 0.97)


def test_a_case_folder_gets_a_new_result_and_keeps_its_prediction(tmp_path):
    Image.fromarray(picture()[0][0]).save(tmp_path / "cells.png")
    segmenter = Segmenter(bundle(), BrightThings())
    full = segment_file(tmp_path / "cells.png", segmenter, tmp_path / "a", keep_prediction=True, pixel_size_um=500)
    assert len(full.things) == 2
    again = fuse_case(tmp_path / "a", tmp_path / "b", score=0.9, image=tmp_path / "cells.png", formats=("csv", "png"))
    assert len(again.things) == 1
    assert read_result(tmp_path / "b").provenance.parameters["fusion"]["score_threshold"] == 0.9
    assert (tmp_path / "b" / "overlay.png").is_file()
    assert (tmp_path / "b" / FILE).read_bytes() == (tmp_path / "a" / FILE).read_bytes()
    # in mm2, as in the bundle: the small lesion has 0.5
    assert len(fuse_case(tmp_path / "b", min_thing_mm=0.75, score=0.05).things) == 1
    assert len(fuse_case(tmp_path / "b").things) == 2  # each time from the prediction, in place
    # a run that keeps nothing leaves no prediction of another run behind
    segment_file(tmp_path / "cells.png", segmenter, tmp_path / "b")
    with pytest.raises(ReadError, match=r"PREDICTION-MISSING.*--keep-prediction"):
        fuse_case(tmp_path / "b")


def test_what_was_reviewed_is_not_replaced(tmp_path):
    from dataclasses import replace

    array, affine = picture()
    segmenter = Segmenter(bundle(), BrightThings())
    stored = segmenter.predict(Volume.from_array(array, affine))
    result = fuse_prediction(stored)
    first, *others = result.segments
    write_result(replace(result, segments=(replace(first, verdict="accepted"), *others)), tmp_path / "a")
    write_prediction(stored, tmp_path / "a")
    with pytest.raises(ResultError, match=r"FUSE-REVIEWED.*--output"):
        fuse_case(tmp_path / "a", score=0.9)
    fuse_case(tmp_path / "a", tmp_path / "b", score=0.9)
    assert read_result(tmp_path / "a").segments[0].verdict == "accepted"


def test_errors_say_what_to_do(tmp_path):
    array, affine = picture()
    stored = Segmenter(bundle(), BrightThings()).predict(Volume.from_array(array, affine))
    with pytest.raises(ResultError, match=r"FUSE-FLOOR.*0\.05"):
        fuse_prediction(stored, score_threshold=0.01)
    path = write_prediction(stored, tmp_path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-10], whole.replace(b"medpanoptic-prediction", b"medpanoptic-predictiom")):
        path.write_bytes(damaged)
        with pytest.raises(ReadError, match="PREDICTION-DAMAGED"):
            read_prediction(tmp_path)


def test_the_file_holds_no_uid_and_no_path_of_the_source(tmp_path):
    from medpanoptic.volume import Source

    array, affine = picture()
    source = Source("1.2.3.4", "1.2.3.5", "1.2.3.6", ("1.2.3.7",), (tmp_path / "secret.dcm",))
    volume = Volume(array, affine, Volume.from_array(array).channels, source)
    segmenter = Segmenter(bundle(), BrightThings())
    content = write_prediction(segmenter.predict(volume), tmp_path).read_bytes()
    assert b"1.2.3." not in content
    assert b"secret" not in content
    assert content == write_prediction(segmenter.predict(volume), tmp_path).read_bytes()


def test_fusing_again_builds_no_network_and_loads_no_monai(tmp_path):
    array, affine = picture()
    segmenter = Segmenter(bundle(), BrightThings())
    stored = segmenter.predict(Volume.from_array(array, affine))
    write_result(fuse_prediction(stored), tmp_path / "a")
    write_prediction(stored, tmp_path / "a")
    code = (
        "import sys; from medpanoptic.cli import main\n"
        f"try: main(['fuse', {str(tmp_path / 'a')!r}, '--score', '0.9'])\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "print([m for m in sys.modules if m.split('.')[0] == 'monai' or m.startswith('medpanoptic.networks.n')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "1 lesion" in done.stdout
