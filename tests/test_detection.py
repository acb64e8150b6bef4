"""Detection, surfaces, calibration, intervals and sizes: by hand, by properties, and against MONAI."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medpanoptic.errors import DataError
from medpanoptic.metrics.calibration import calibration, fit_calibration
from medpanoptic.metrics.contingency import overlap
from medpanoptic.metrics.detection import (
    Detections,
    assign,
    detections,
    froc,
    sensitivity,
)
from medpanoptic.metrics.intervals import interval, means, medians, resample
from medpanoptic.metrics.surfaces import hausdorff_95
from medpanoptic.metrics.tables import size_table

maps = st.integers(0, 2**32 - 1).map(
    lambda seed: np.kron(np.random.default_rng(seed).integers(0, 5, (4, 4)), np.ones((2, 3), int))
)


def same_class(ids):
    return {int(i): 1 for i in np.unique(ids)}


@settings(max_examples=60, deadline=None)
@given(maps, maps)
def test_the_assignment_is_the_best_of_all(pred, true):
    pairs = overlap(pred, true)
    found, classes = assign(pairs, same_class(pred), same_class(true))
    assert len(set(pairs.pred[found])) == len(set(pairs.true[found])) == len(found)
    assert (pairs.iou[found] > 0.1).all()
    assert (classes == 1).all()
    good = [i for i in range(len(pairs.iou)) if pairs.iou[i] > 0.1]
    best = 0.0
    for size in range(1, min(5, len(good)) + 1):
        for some in itertools.combinations(good, size):
            chosen = list(some)
            if len(set(pairs.pred[chosen])) == len(set(pairs.true[chosen])) == size:
                best = max(best, pairs.iou[chosen].sum())
    assert pairs.iou[found].sum() == pytest.approx(best)


def lesions():
    """Two true lesions of 4 x 4; one outlined too wide and one cut in two, a false alarm, one of another class."""
    true = np.ones((12, 30), int)
    true[2:6, 2:6], true[2:6, 12:16] = 2, 3
    pred = np.ones_like(true)
    pred[0:9, 0:10], pred[2:6, 12:15], pred[2:6, 15:16] = 4, 5, 6
    pred[10:12, 20:24], pred[8:10, 26:30] = 7, 8
    return pred, {1: 9, 4: 1, 5: 1, 6: 1, 7: 1, 8: 2}, true, {1: 9, 2: 1, 3: 1}


def test_a_badly_outlined_lesion_is_found_and_a_split_one_has_a_false_alarm():
    pred, pred_classes, true, true_classes = lesions()
    scores = {4: 0.9, 5: 0.8, 6: 0.3, 7: 0.5, 8: 0.7}
    found = detections(overlap(pred, true), pred_classes, true_classes, scores, 1)
    assert found.n == 2
    assert found.tp_scores.tolist() == [0.9, 0.8]  # IoU 16/90 and 12/16
    assert sorted(found.fp_scores) == [0.3, 0.5]
    empty = detections(overlap(pred, np.ones_like(true)), pred_classes, true_classes, scores, 1)
    assert sensitivity([found, empty]) == 1
    assert len(found.fp_scores) + len(empty.fp_scores) == 2 + 4
    assert math.isnan(sensitivity([empty]))


def test_a_prediction_in_the_unknown_is_no_false_alarm():
    pred, pred_classes, true, true_classes = lesions()
    true[10:12, 20:24] = 0
    found = detections(overlap(pred, true), pred_classes, true_classes, {}, 1)
    assert found.fp_scores.tolist() == [1.0]


def test_the_free_response_curve_counts_by_hand():
    one = Detections(np.array([0.9, 0.4]), np.array([0.6]), 3)
    two = Detections(np.array([]), np.array([0.9]), 1)
    thresholds, alarms, found = froc([one, two])
    assert thresholds.tolist() == [0.9, 0.6, 0.4]
    assert alarms.tolist() == [0.5, 1.0, 1.0]
    assert found.tolist() == [0.25, 0.25, 0.5]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.5, 1.0)])
def test_hd95_equals_monai(seed, spacing):
    from monai.metrics import compute_hausdorff_distance
    from torch import from_numpy

    rng = np.random.default_rng(seed)
    a, b = (ndimage.gaussian_filter(rng.normal(size=(14, 16, 18)), 2) > 0.05 for _ in range(2))
    theirs = compute_hausdorff_distance(
        from_numpy(a[None, None]), from_numpy(b[None, None]), include_background=True, percentile=95, spacing=spacing
    )
    assert hausdorff_95(a, b, spacing) == pytest.approx(float(theirs), abs=1e-4)  # MONAI is float32
    assert hausdorff_95(b, a, spacing) == hausdorff_95(a, b, spacing)


def test_hd95_of_boxes_of_nothing_and_of_other_shapes():
    a = np.zeros((10, 10, 10), bool)
    a[2:5, 2:5, 2:5] = True
    b = np.roll(a, 4, axis=0)
    assert hausdorff_95(a, a, (1, 1, 1)) == 0
    assert hausdorff_95(a, b, (2.5, 1, 1)) == 10  # every surface voxel of the near side is 2 to 4 slices away
    assert math.isnan(hausdorff_95(a & ~a, a & ~a, (1, 1, 1)))
    assert math.isinf(hausdorff_95(a, a & ~a, (1, 1, 1)))
    with pytest.raises(DataError, match="METRIC-SHAPE"):
        hausdorff_95(a, a[1:], (1, 1, 1))


def test_fitted_scores_are_right_as_often_as_they_say():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.02, 0.98, 4000)
    right = rng.random(4000) < truth
    odds = np.log(truth / (1 - truth))
    timid = 1 / (1 + np.exp(-(odds - 0.6) / 2.5))  # what a network might say: too near one half, and too low
    slope, intercept = fit_calibration(timid, right)
    assert (slope, intercept) == (pytest.approx(2.5, abs=0.15), pytest.approx(0.6, abs=0.1))
    fitted = 1 / (1 + np.exp(-(slope * np.log(timid / (1 - timid)) + intercept)))
    assert calibration(fitted, right).ece < 0.02 < calibration(timid, right).ece


def test_a_fit_needs_both_outcomes():
    with pytest.raises(DataError, match="METRIC-SCORE"):
        fit_calibration([0.5, 0.6], [True, True])


def test_calibration_by_hand():
    found = calibration([0.05, 0.85, 0.85, 0.85, 0.85, 1.0], [False, True, True, True, False, True])
    assert found.n.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 4, 1]
    assert found.right[8] == 0.75
    assert math.isnan(found.score[3])
    assert found.ece == pytest.approx((0.05 + 4 * 0.1 + 0) / 6)
    assert math.isnan(calibration([], []).ece)
    with pytest.raises(DataError, match="METRIC-SCORE"):
        calibration([1.2], [True])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_counts_everything_once(pairs):
    scores, right = zip(*pairs, strict=True)
    found = calibration(scores, right, 7)
    assert found.n.sum() == len(pairs)
    assert 0 <= found.ece <= 1
    assert np.nansum(found.right * found.n) == pytest.approx(sum(right))


def test_intervals_are_those_of_the_plain_bootstrap():
    values = np.random.default_rng(1).normal(5, 2, 40)
    draws = resample(40, 4000)
    assert (draws.sum(1) == 40).all()
    assert (draws == resample(40, 4000)).all()
    low, high = interval(means(draws, values))
    half = 1.96 * values.std() / np.sqrt(40)
    assert low == pytest.approx(values.mean() - half, abs=0.08)
    assert high == pytest.approx(values.mean() + half, abs=0.08)
    every = np.ones((1, 40))
    assert means(every, values)[0] == pytest.approx(values.mean())
    assert medians(every, np.array([*values[:-2], np.nan, np.inf]))[0] == np.median([*values[:-2], np.inf])
    assert interval(means(draws, np.full(40, np.nan))) == (pytest.approx(np.nan, nan_ok=True),) * 2


def test_sizes_by_hand():
    rows = [
        ("a", "tp", 0.8, 10.0),
        ("a", "fn", 0.1, 20.0),
        ("a", "fp", 0.1, 12.0),
        ("a", "tp", 0.6, 30.0),
        ("a", "ignored", 0.0, 5.0),
        ("b", "fp", 0.0, 7.0),
    ]
    frame = pd.DataFrame(rows, columns=["class", "outcome", "iou", "diameter"]).assign(unit="px")
    table = size_table(frame, edges=[15.0])
    first, second, alone, none = table.to_dict("records")
    assert (first["n"], first["tp"], first["fp"], first["fn"]) == (1, 1, 1, 0)
    assert first["pq"] == pytest.approx(0.8 / 1.5)
    assert (second["low"], second["high"], second["pq"]) == (15.0, np.inf, pytest.approx(0.6 / 1.5))
    assert (alone["fp"], alone["pq"]) == (1, 0)
    assert math.isnan(none["pq"])
    quarters = size_table(frame[frame["class"] == "a"])
    assert quarters["n"].sum() == 3
    assert quarters[["tp", "fp", "fn"]].to_numpy().sum() == 4
