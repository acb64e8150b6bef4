"""Panoptic quality, average precision and Dice, n-D, from one contingency table.

Sources: Kirillov et al. 2019, "Panoptic Segmentation", section 4 (PQ, void rules as in COCO's evaluation);
Data Science Bowl 2018 (AP = TP / (TP + FP + FN), mean over IoU 0.50 to 0.95).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medpanoptic.errors import DataError
from medpanoptic.metrics.contingency import Overlap, overlap

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
    return count_matches(match_segments(pairs, pred_segments, true_segments), pred_segments, true_segments, classes)


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of every segment that has pixels, as ids.

    pred, true, iou : (M,) the matched pairs, in the order of their ids. false_pred : false alarms. false_true :
    misses. ignored : predictions of which more than half lies in true void, not counted.
    """

    pred: NDArray[np.int64]
    true: NDArray[np.int64]
    iou: NDArray[np.float64]
    false_pred: tuple[int, ...]
    false_true: tuple[int, ...]
    ignored: tuple[int, ...]


def match_segments(pairs: Overlap, pred_segments: Mapping[int, int], true_segments: Mapping[int, int]) -> Matches:
    """Pair segments {id: class} of one class with IoU > 0.5, strictly; see ``panoptic_quality``.

    Raises DataError (METRIC-IDS) if the map holds an id without a class.
    """
    _check_ids(pairs.pred_sizes, pred_segments, "prediction")
    _check_ids(pairs.true_sizes, true_segments, "truth")
    same = classes_of(pairs.pred, pred_segments) == classes_of(pairs.true, true_segments)
    matched = same & (2 * pairs.shared > pairs.union)
    pred, true = pairs.pred[matched], pairs.true[matched]
    hit_pred, hit_true = set(pred.tolist()), set(true.tolist())
    alone = [i for i in pairs.pred_sizes if i not in hit_pred]
    return Matches(
        pred,
        true,
        pairs.iou[matched],
        tuple(i for i in alone if not pairs.in_void(i)),
        tuple(i for i in pairs.true_sizes if i not in hit_true),
        tuple(i for i in alone if pairs.in_void(i)),
    )


def count_matches(
    matches: Matches, pred_segments: Mapping[int, int], true_segments: Mapping[int, int], classes: Iterable[int]
) -> dict[int, PanopticQuality]:
    """Return the counts of each class in ``classes``."""
    pred_class = classes_of(matches.pred, pred_segments)
    false_pred, false_true = (
        Counter(segments[i] for i in ids)
        for ids, segments in ((matches.false_pred, pred_segments), (matches.false_true, true_segments))
    )
    return {
        c: PanopticQuality(
            c, int((pred_class == c).sum()), false_pred[c], false_true[c], float(matches.iou[pred_class == c].sum())
        )
        for c in classes
    }


def _check_ids(sizes: Mapping[int, int], segments: Mapping[int, int], what: str) -> None:
    unknown = [i for i in sizes if i not in segments]
    if unknown:
        raise DataError("METRIC-IDS", f"the {what} map holds ids without a class, the first are {unknown[:5]}")


def classes_of(ids: NDArray[np.int64], segments: Mapping[int, int]) -> NDArray[np.int64]:
    """Return the class of each id."""
    return np.array([segments[i] for i in ids.tolist()], np.int64)


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
    return precision_at(pairs.iou, len(pairs.pred_sizes) + len(pairs.true_sizes), thresholds)


def precision_at(iou: NDArray[np.float64], segments: int, thresholds: Sequence[float]) -> NDArray[np.float64]:
    """Return AP at each threshold >= 0.5 from the IoU of all pairs and the number of segments on both sides."""
    tp = np.array([int((iou > t).sum()) for t in thresholds], float)
    total = segments - tp
    return np.divide(tp, total, out=np.full(len(tp), np.nan), where=total > 0)


def dice(a: ArrayLike, b: ArrayLike) -> float:
    """Return 2 |A and B| / (|A| + |B|) of two masks (*S); NaN if both are empty."""
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    if first.shape != second.shape:
        raise DataError("METRIC-SHAPE", f"masks {first.shape} and {second.shape} differ in shape")
    return _ratio(2 * int((first & second).sum()), int(first.sum()) + int(second.sum()))
