"""Metrics against a slow, plain oracle written from the definition, against MONAI, and by properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpanoptic.errors import DataError
from medpanoptic.metrics import (
    PanopticQuality,
    average_precision,
    binary_quality,
    dice,
    mean_pq,
    overlap,
    panoptic_quality,
    pooled,
)

THING, STUFF = 1, 2


def oracle(pred, pred_classes, true, true_classes, c):
    """COCO's rules, one pair of masks after the other."""
    tp = fp = fn = 0
    iou_sum = 0.0
    void = true == 0
    hit_pred, hit_true = set(), set()
    for p, pc in pred_classes.items():
        for t, tc in true_classes.items():
            a, b = pred == p, true == t
            shared = (a & b).sum()
            union = (a | b).sum() - (a & void).sum()
            if pc == tc == c and union and shared / union > 0.5:
                tp, iou_sum = tp + 1, iou_sum + shared / union
                hit_pred.add(p)
                hit_true.add(t)
    for p, pc in pred_classes.items():
        mask = pred == p
        if pc == c and p not in hit_pred and mask.any() and (mask & void).sum() / mask.sum() <= 0.5:
            fp += 1
    for t, tc in true_classes.items():
        if tc == c and t not in hit_true and (true == t).any():
            fn += 1
    return tp, fp, fn, iou_sum


@st.composite
def panoptic_map(draw, shape):
    """Blocky id maps with void, gaps in the numbering and two classes; ids 1.. things, one stuff segment."""
    count = draw(st.integers(0, 4))
    ids = [int(i) for i in draw(st.lists(st.integers(1, 70_000), min_size=count, max_size=count, unique=True))]
    classes = {i: draw(st.sampled_from([THING, 3])) for i in ids}
    cells = draw(st.lists(st.integers(0, count + 1), min_size=math.prod(shape), max_size=math.prod(shape)))
    values = np.array([0, *ids, 99_999])
    classes[99_999] = STUFF
    return values[np.array(cells)].reshape(shape), classes


def pairs_of(shape):
    return st.tuples(panoptic_map(shape), panoptic_map(shape))


@settings(max_examples=150, deadline=None)
@given(st.one_of(pairs_of((4, 6)), pairs_of((2, 3, 4))))
def test_equals_the_definition(case):
    (pred, pred_classes), (true, true_classes) = case
    found = panoptic_quality(pred, pred_classes, true, true_classes, [THING, STUFF, 3])
    for c in (THING, STUFF, 3):
        tp, fp, fn, iou_sum = oracle(pred, pred_classes, true, true_classes, c)
        assert (found[c].tp, found[c].fp, found[c].fn) == (tp, fp, fn)
        assert found[c].iou_sum == pytest.approx(iou_sum, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(panoptic_map((5, 5)))
def test_perfect_is_one(case):
    ids, classes = case
    for quality in panoptic_quality(ids, classes, ids, classes, [THING, STUFF, 3]).values():
        assert quality.is_empty or quality.pq == quality.sq == quality.rq == 1


@settings(max_examples=60, deadline=None)
@given(pairs_of((4, 6)), st.permutations(range(1, 8)))
def test_numbering_does_not_matter(case, numbers):
    (pred, pred_classes), (true, true_classes) = case
    new = dict(zip(pred_classes, numbers, strict=False))
    moved = np.vectorize(lambda i: new.get(int(i), 0))(pred)
    before = panoptic_quality(pred, pred_classes, true, true_classes, [THING, STUFF])
    after = panoptic_quality(moved, {new[i]: c for i, c in pred_classes.items()}, true, true_classes, [THING, STUFF])
    for c in before:
        assert (after[c].tp, after[c].fp, after[c].fn) == (before[c].tp, before[c].fp, before[c].fn)
        assert after[c].iou_sum == pytest.approx(before[c].iou_sum)  # a sum in another order


@settings(max_examples=60, deadline=None)
@given(pairs_of((4, 6)), pairs_of((4, 6)))
def test_two_images_beside_each_other_count_as_their_sum(one, two):
    def joined(a, b):
        shift = 100_000
        ids = np.concatenate([a[0], np.where(b[0] > 0, b[0] + shift, 0)], axis=1)
        return ids, {**a[1], **{i + shift: c for i, c in b[1].items()}}

    pred, true = joined(one[0], two[0]), joined(one[1], two[1])
    whole = panoptic_quality(*pred, *true, [THING])[THING]
    parts = [panoptic_quality(*p, *t, [THING])[THING] for p, t in (one, two)]
    total = pooled(parts)
    assert (whole.tp, whole.fp, whole.fn) == (total.tp, total.fp, total.fn)
    assert whole.iou_sum == pytest.approx(total.iou_sum)


def test_half_is_not_enough():
    true = np.array([[1, 1, 2, 2]])
    pred = np.array([[1, 0, 2, 2]])  # IoU of 1 is exactly 1/2
    quality = panoptic_quality(pred, {1: 1, 2: 1}, true, {1: 1, 2: 1}, [1])[1]
    assert (quality.tp, quality.fp, quality.fn) == (1, 1, 1)


def test_void_in_the_truth_costs_nothing_and_background_does():
    true = np.array([[1, 1, 0, 0, 0, 0]])
    pred = np.array([[1, 1, 1, 2, 2, 2]])
    unknown = panoptic_quality(pred, {1: 1, 2: 1}, true, {1: 1}, [1])[1]
    assert (unknown.tp, unknown.fp, unknown.fn, unknown.iou_sum) == (1, 0, 0, 1.0)
    background = panoptic_quality(pred, {1: 1, 2: 1}, true, {1: 1}, [1], void=None)[1]
    assert (background.tp, background.fp, background.fn) == (1, 1, 0)
    assert background.iou_sum == pytest.approx(2 / 3)


def test_wrong_class_is_one_false_positive_and_one_miss():
    ids = np.array([[1, 1]])
    found = panoptic_quality(ids, {1: 3}, ids, {1: 1}, [1, 3])
    assert (found[1].fn, found[3].fp, found[1].tp + found[3].tp) == (1, 1, 0)
    assert binary_quality(ids, {1: 3}, ids, {1: 1}, [1, 3]).pq == 1


def test_means_leave_empty_images_out_but_count_false_alarms():
    perfect, empty, alarm = PanopticQuality(1, 1, 0, 0, 1.0), PanopticQuality(1), PanopticQuality(1, 0, 2, 0)
    assert mean_pq([perfect, empty]) == 1
    assert mean_pq([perfect, empty, alarm]) == 0.5
    assert math.isnan(mean_pq([empty]))
    assert math.isnan(empty.pq)
    assert pooled([perfect, alarm]) == PanopticQuality(1, 1, 2, 0, 1.0)
    with pytest.raises(DataError, match="METRIC-EMPTY"):
        pooled([])


@pytest.mark.parametrize("seed", range(4))
def test_equals_monai_in_2d(seed):
    from monai.metrics.panoptic_quality import compute_panoptic_quality
    from torch import from_numpy

    rng = np.random.default_rng(seed)
    true = np.kron(rng.integers(0, 6, (6, 6)), np.ones((4, 4), int))
    pred = np.where(rng.random(true.shape) < 0.8, true, rng.integers(0, 7, true.shape))
    ours = panoptic_quality(pred, dict.fromkeys(range(7), 1), true, dict.fromkeys(range(7), 1), [1], void=None)[1]
    # MONAI takes IoU >= threshold as a match: keep a hair above one half
    tp, fp, fn, iou_sum = compute_panoptic_quality(
        from_numpy(pred), from_numpy(true), metric_name="PQ", match_iou_threshold=0.5001, output_confusion_matrix=True
    ).tolist()
    assert (ours.tp, ours.fp, ours.fn) == (tp, fp, fn)
    assert ours.iou_sum == pytest.approx(iou_sum, abs=1e-4)


def test_average_precision_counts_by_hand():
    true = np.array([[1] * 10 + [0] * 5 + [2] * 10])
    pred = np.array([[7] * 8 + [0] * 7 + [9] * 10])  # IoU 0.8 and 1
    found = average_precision(pred, true)
    assert found[:6].tolist() == [1] * 6  # 0.5 to 0.75
    assert found[6:].tolist() == [pytest.approx(1 / 3)] * 4  # 0.8 (not above it) to 0.95
    assert np.isnan(average_precision(np.zeros((2, 2), int), np.zeros((2, 2), int))).all()


def test_huge_ids_and_other_dtypes_are_fine():
    ids = np.array([[0, 2_000_000_000, 5]], np.int32)
    pairs = overlap(ids, ids.astype(np.uint32))
    assert pairs.pred_sizes == {5: 1, 2_000_000_000: 1}
    assert pairs.iou.tolist() == [1, 1]


def test_dice():
    a = np.zeros((4, 4, 4), bool)
    a[:2] = True
    assert dice(a, a) == 1
    assert dice(a, ~a) == 0
    assert dice(a, np.ones_like(a)) == pytest.approx(2 / 3)
    assert math.isnan(dice(~(a | ~a), a & ~a))


def test_errors_name_the_cause():
    ids = np.ones((2, 2), int)
    with pytest.raises(DataError, match="METRIC-SHAPE"):
        panoptic_quality(ids, {1: 1}, ids[:1], {1: 1}, [1])
    with pytest.raises(DataError, match="METRIC-IDS"):
        panoptic_quality(ids, {}, ids, {1: 1}, [1])
    with pytest.raises(DataError, match="METRIC-SHAPE"):
        dice(ids, ids[0])
    with pytest.raises(DataError, match="METRIC-CLASS"):
        PanopticQuality(1) + PanopticQuality(2)


@settings(max_examples=60, deadline=None)
@given(pairs_of((4, 6)))
def test_prediction_and_truth_may_change_places_where_nothing_is_unknown(case):
    (pred, pred_classes), (true, true_classes) = case
    for c in (THING, 3):
        one = panoptic_quality(pred, pred_classes, true, true_classes, [c], void=None)[c]
        other = panoptic_quality(true, true_classes, pred, pred_classes, [c], void=None)[c]
        assert (one.tp, one.fp, one.fn) == (other.tp, other.fn, other.fp)
        assert one.iou_sum == pytest.approx(other.iou_sum)
        assert one.is_empty or one.tp == 0 or one.pq == pytest.approx(one.sq * one.rq)
