"""Panoptic quality, average precision and Dice, n-D, from one contingency table.

Sources: Kirillov et al. 2019, "Panoptic Segmentation", section 4 (PQ, void rules as in COCO's evaluation);
Data Science Bowl 2018 (AP = TP / (TP + FP + FN), mean over IoU 0.50 to 0.95).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medpanoptic.errors import DataError

_BLOCK = 1 << 18  # pixels counted at a time
_MOST_CELLS = 1 << 20  # of a table to count into: above, sorting is cheaper
AP_THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


@dataclass(frozen=True)
class PanopticQuality:
    """Counts of one class. They add: the quality of a set is the quality of the sum ("pooled").

    iou_sum : sum of IoU over the matched pairs. pq, sq and rq are NaN where nothing is there to judge, see each.
    """

    class_id: int
    tp: int = 0
    fp: int = 0
    fn: int = 0
    iou_sum: float = 0.0

    def __add__(self, other: PanopticQuality) -> PanopticQuality:
        if self.class_id != other.class_id:
            raise DataError("METRIC-CLASS", f"counts of class {self.class_id} and class {other.class_id} do not add")
        return PanopticQuality(
            self.class_id, self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.iou_sum + other.iou_sum
        )

    @property
    def n(self) -> int:
        """Number of true segments that count."""
        return self.tp + self.fn

    @property
    def is_empty(self) -> bool:
        """True if neither truth nor prediction holds the class: such an image is left out of means."""
        return self.tp + self.fp + self.fn == 0

    @property
    def pq(self) -> float:
        """Panoptic quality in [0, 1]; NaN if empty."""
        return _ratio(self.iou_sum, self.tp + 0.5 * self.fp + 0.5 * self.fn)

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the matched pairs; NaN without a match."""
        return _ratio(self.iou_sum, self.tp)

    @property
    def rq(self) -> float:
        """Recognition quality: F1 of the segments; NaN if empty."""
        return _ratio(self.tp, self.tp + 0.5 * self.fp + 0.5 * self.fn)


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("nan")


@dataclass(frozen=True, eq=False)
class Overlap:
    """All pairs of a predicted and a true segment that share pixels, and the size of every segment.

    pred, true : (P,) ids of each pair, never void. shared, union : (P,) pixel counts.
    pred_sizes, true_sizes : {id: pixels}; pred_in_void : {id: pixels of the prediction that lie in true void}.
    """

    pred: NDArray[np.int64]
    true: NDArray[np.int64]
    shared: NDArray[np.int64]
    union: NDArray[np.int64]
    pred_sizes: dict[int, int]
    true_sizes: dict[int, int]
    pred_in_void: dict[int, int]

    @property
    def iou(self) -> NDArray[np.float64]:
        """(P,) intersection over union."""
        return self.shared / self.union


def overlap(pred_ids: NDArray[np.integer], true_ids: NDArray[np.integer], void: int | None = 0) -> Overlap:
    """Count shared pixels of two id maps (*S), any number of dimensions, in one pass.

    void : the id without a segment in both maps. True void was not annotated and is left out of unions. None: 0 has
    no segment either, but is annotated background, so that it stays in unions (a plain instance map).
    Raises DataError (METRIC-SHAPE) if the shapes differ.
    """
    if pred_ids.shape != true_ids.shape:
        raise DataError("METRIC-SHAPE", f"prediction {pred_ids.shape} and truth {true_ids.shape} differ in shape")
    rows, columns, counts, pred_values, true_values = _pairs(pred_ids.reshape(-1), true_ids.reshape(-1))
    pred, true = pred_values[rows], true_values[columns]
    pred_totals = np.bincount(rows, counts, len(pred_values)).astype(np.int64)
    true_totals = np.bincount(columns, counts, len(true_values)).astype(np.int64)
    empty = 0 if void is None else void
    left_out = counts * (true == empty) if void is not None else np.zeros_like(counts)
    in_void = np.bincount(rows, left_out, len(pred_values)).astype(np.int64)
    kept = (pred != empty) & (true != empty)
    rows, columns, shared = rows[kept], columns[kept], counts[kept]
    return Overlap(
        pred[kept],
        true[kept],
        shared,
        pred_totals[rows] + true_totals[columns] - shared - in_void[rows],
        _table(pred_values, pred_totals, empty),
        _table(true_values, true_totals, empty),
        _table(pred_values, in_void, empty),
    )


def _pairs(pred: NDArray[np.integer], true: NDArray[np.integer]) -> tuple[NDArray[np.int64], ...]:
    """Return row, column and pixel count of each pair of values that occurs, and the values of rows and columns."""
    # by blocks: what is counted stays in the cache, and a volume needs no copies of its own size
    starts = range(0, max(1, pred.size), _BLOCK)
    blocks = [_count_pairs(pred[i : i + _BLOCK], true[i : i + _BLOCK]) for i in starts]
    pred_found, true_found, counts = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    pred_values, rows = np.unique(pred_found, return_inverse=True)
    true_values, columns = np.unique(true_found, return_inverse=True)
    keys, index = np.unique(rows * len(true_values) + columns, return_inverse=True)
    totals = np.bincount(index, counts, len(keys)).astype(np.int64)
    return keys // len(true_values), keys % len(true_values), totals, pred_values, true_values


def _count_pairs(pred: NDArray[np.integer], true: NDArray[np.integer]) -> tuple[NDArray[np.int64], ...]:
    """Return the pairs of values (pred, true) of one block and how often each occurs."""
    if pred.size == 0:
        return (np.zeros(0, np.int64),) * 3
    pred_values, rows = _compact(pred)
    true_values, columns = _compact(true)
    width = len(true_values)
    keys = rows * width + columns
    if len(pred_values) * width <= _MOST_CELLS:
        table = np.bincount(keys, minlength=1)
        cells = np.flatnonzero(table)
        counts = table[cells]
    else:
        cells, counts = np.unique(keys, return_counts=True)
    return pred_values[cells // width], true_values[cells % width], counts


def _compact(ids: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted distinct ids of a block and, per pixel, the index into them."""
    low, high = int(ids.min()), int(ids.max())
    if high - low >= _MOST_CELLS:
        values, index = np.unique(ids, return_inverse=True)
        return values.astype(np.int64), index
    # counting is ten times faster than sorting
    shifted = ids.astype(np.int64) - low
    present = np.flatnonzero(np.bincount(shifted))
    lookup = np.zeros(high - low + 1, np.int64)
    lookup[present] = np.arange(len(present))
    return present + low, lookup[shifted]


def _table(values: NDArray[np.int64], counts: NDArray[np.int64], empty: int) -> dict[int, int]:
    return {int(v): int(n) for v, n in zip(values, counts, strict=True) if v != empty}


# ---- panoptic quality


def panoptic_quality(
    pred_ids: NDArray[np.integer],
    pred_segments: Mapping[int, int],
    true_ids: NDArray[np.integer],
    true_segments: Mapping[int, int],
    classes: Iterable[int],
    void: int | None = 0,
) -> dict[int, PanopticQuality]:
    """Compare a panoptic map with the truth; return the counts of each class in ``classes``.

    pred_ids, true_ids : (*S) ids; pred_segments, true_segments : {id: class}, the ids in the map apart from ``void``.
    A pair matches if the class is the same and IoU > 0.5, strictly: then no segment has two partners. Pixels in true
    void leave the union; an unmatched prediction with more than half in true void is not counted. Pass ``void=None``
    where 0 in the truth is annotated background and not "unknown", as in instance maps of nuclei.
    A segment that is listed but has no pixel is not there. Raises DataError: METRIC-SHAPE, METRIC-IDS.
    """
    pairs = overlap(pred_ids, true_ids, void)
    _check_ids(pairs.pred_sizes, pred_segments, "prediction")
    _check_ids(pairs.true_sizes, true_segments, "truth")
    same = _classes_of(pairs.pred, pred_segments) == _classes_of(pairs.true, true_segments)
    matched = same & (2 * pairs.shared > pairs.union)
    pred_class, iou = _classes_of(pairs.pred[matched], pred_segments), pairs.iou[matched]
    hit_pred, hit_true = set(pairs.pred[matched].tolist()), set(pairs.true[matched].tolist())
    false_pred = [pred_segments[i] for i in pairs.pred_sizes if i not in hit_pred and not _in_void(pairs, i)]
    false_true = [true_segments[i] for i in pairs.true_sizes if i not in hit_true]
    return {
        c: PanopticQuality(
            c,
            int((pred_class == c).sum()),
            false_pred.count(c),
            false_true.count(c),
            float(iou[pred_class == c].sum()),
        )
        for c in classes
    }


def _check_ids(sizes: Mapping[int, int], segments: Mapping[int, int], what: str) -> None:
    unknown = [i for i in sizes if i not in segments]
    if unknown:
        raise DataError("METRIC-IDS", f"the {what} map holds ids without a class, the first are {unknown[:5]}")


def _classes_of(ids: NDArray[np.int64], segments: Mapping[int, int]) -> NDArray[np.int64]:
    return np.array([segments[int(i)] for i in ids], np.int64)


def _in_void(pairs: Overlap, pred_id: int) -> bool:
    return 2 * pairs.pred_in_void[pred_id] > pairs.pred_sizes[pred_id]


def binary_quality(
    pred_ids: NDArray[np.integer],
    pred_segments: Mapping[int, int],
    true_ids: NDArray[np.integer],
    true_segments: Mapping[int, int],
    thing_classes: Iterable[int],
    void: int | None = 0,
) -> PanopticQuality:
    """Compare things whatever their class ("binary PQ" of the nuclei literature). The class of the result is 1."""
    things = set(thing_classes)
    pred = {i: 1 if c in things else 2 for i, c in pred_segments.items()}
    true = {i: 1 if c in things else 2 for i, c in true_segments.items()}
    return panoptic_quality(pred_ids, pred, true_ids, true, [1], void)[1]


def pooled(counts: Sequence[PanopticQuality]) -> PanopticQuality:
    """Add the counts of many images. Raises DataError (METRIC-EMPTY) for none."""
    if not counts:
        raise DataError("METRIC-EMPTY", "no image to pool")
    return sum(counts[1:], counts[0])


def mean_pq(counts: Iterable[PanopticQuality]) -> float:
    """Return the mean over images of their own PQ; images without the class in truth and prediction are left out.

    An image without truth but with predictions counts as 0: false positives cost something. NaN if nothing is left.
    """
    values = [c.pq for c in counts if not c.is_empty]
    return float(np.mean(values)) if values else float("nan")


# ---- average precision and Dice


def average_precision(
    pred_ids: NDArray[np.integer],
    true_ids: NDArray[np.integer],
    thresholds: Sequence[float] = AP_THRESHOLDS,
) -> NDArray[np.float64]:
    """Return TP / (TP + FP + FN) at each IoU threshold (a pair matches if IoU > t), as in the Data Science Bowl 2018.

    Instance maps (*S) of one class, 0 = background. Thresholds >= 0.5. NaN where both maps are empty.
    """
    pairs = overlap(pred_ids, true_ids, void=None)
    tp = np.array([int((pairs.iou > t).sum()) for t in thresholds], float)
    total = len(pairs.pred_sizes) + len(pairs.true_sizes) - tp
    return np.divide(tp, total, out=np.full(len(tp), np.nan), where=total > 0)


def dice(a: ArrayLike, b: ArrayLike) -> float:
    """Return 2 |A and B| / (|A| + |B|) of two masks (*S); NaN if both are empty."""
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    if first.shape != second.shape:
        raise DataError("METRIC-SHAPE", f"masks {first.shape} and {second.shape} differ in shape")
    return _ratio(2 * int((first & second).sum()), int(first.sum()) + int(second.sum()))
