"""A lesion from a click, cut out of the probability that segment --keep-prediction left in the case."""

import numpy as np
import pytest
from tiny_case import CLASSES, Clock, tiny_result

from medpanoptic.errors import ReadError
from medpanoptic.io import write_result
from medpanoptic.native import Grids
from medpanoptic.result import Provenance
from medpanoptic.review import ReviewSession
from medpanoptic.stored import FILE, StoredPrediction, write_prediction


@pytest.fixture
def kept(tmp_path):
    """A case and a prediction on a grid of half the resolution; the network saw a tumour where the result has none."""
    result = tiny_result()
    write_result(result, tmp_path / "case", formats=["csv"])
    coarse = result.affine.copy()
    coarse[:3, :3] *= 2
    coarse[:3, 3] += result.affine[:3, :3].sum(axis=1) / 2  # voxels of two lie on the edges of one
    logits = np.zeros((4, 6, 8, 9), np.float16)
    logits[1] = 4
    logits[2, 4:6, 1:3, 6:9] = 8
    boxes, none = np.zeros((0, 6), np.int64), np.zeros(0, np.int64)
    grids = Grids(result.ids.shape, result.affine, coarse)
    stored = StoredPrediction(
        logits, boxes, none, none.astype(np.float32), (), CLASSES, grids, True, {}, 1.0, "", Provenance("tiny", "1")
    )
    write_prediction(stored, tmp_path / "case")
    return tmp_path / "case"


def test_a_click_takes_what_the_model_saw(kept):
    session = ReviewSession.open(kept, reader="A. Reader", clock=Clock())
    probability = session.probability[3]
    whole = probability[tuple(slice(0, n) for n in session.ids.shape)]
    expected = np.exp(8.0) / (np.exp(8.0) + np.exp(4.0) + 2)
    assert whole.shape == session.ids.shape
    assert whole[10, 4, 15] == pytest.approx(expected, abs=1e-3)
    part = (slice(9, 12), slice(3, 6), slice(13, 18))
    np.testing.assert_allclose(probability[part], whole[part], atol=1e-6)
    edit = session.add_at((10, 4, 15), 3)  # no image is open: only the prediction can have grown it
    grown = session.ids == edit.segment
    assert (grown & (whole < 0.2)).sum() == 0
    assert grown[9:11, 3:5, 13:17].all()
    with pytest.raises(KeyError):
        session.probability[9]


def test_without_a_prediction_there_is_none_and_a_damaged_one_is_named(kept):
    (kept / FILE).write_bytes(b"x" * 40)
    session = ReviewSession.open(kept, reader="A. Reader", clock=Clock())
    with pytest.raises(ReadError, match="PREDICTION-DAMAGED"):
        session.add_at((10, 4, 15), 3)
    (kept / FILE).unlink()
    assert len(ReviewSession.open(kept, reader="A. Reader", clock=Clock()).probability) == 0
