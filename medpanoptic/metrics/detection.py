"""Detection of lesions: who found what at a low IoU, and at how many false alarms.

A lesion that is found but badly outlined is not missed. So detection asks for IoU > 0.1 only, as nnDetection does
(Baumgartner et al., MICCAI 2021). At such an IoU one segment may overlap several, and matching is an assignment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medpanoptic.metrics.contingency import Overlap
from medpanoptic.metrics.quality import classes_of

DETECTION_IOU = 0.1


@dataclass(frozen=True, eq=False)
class Detections:
    """One class in one case.

    tp_scores, fp_scores : scores of the predictions that found a true segment, and of the false alarms.
    n : true segments.
    """

    tp_scores: NDArray[np.float64]
    fp_scores: NDArray[np.float64]
    n: int


def assign(
    pairs: Overlap, pred_segments: Mapping[int, int], true_segments: Mapping[int, int], threshold: float = DETECTION_IOU
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices into ``pairs`` of the one-to-one assignment with the largest sum of IoU, and each one's class.

    Only pairs of one class with IoU > ``threshold``, strictly. pred_segments, true_segments : {id: class}.
    Source: Kuhn 1955 (the "Hungarian" assignment), here for each group of segments that touch.
    """
    pred_class = classes_of(pairs.pred, pred_segments)
    fits = np.flatnonzero((pred_class == classes_of(pairs.true, true_segments)) & (pairs.iou > threshold))
    if len(fits) == 0:
        return fits, pred_class[fits]
    _, rows = np.unique(pairs.pred[fits], return_inverse=True)
    _, columns = np.unique(pairs.true[fits], return_inverse=True)
    iou = pairs.iou[fits]
    height, size = int(rows.max()) + 1, int(rows.max() + columns.max()) + 2
    graph = coo_array((np.ones(len(fits)), (rows, columns + height)), shape=(size, size))
    group = connected_components(graph, directed=False)[1][rows]
    order = np.argsort(group, kind="stable")
    chosen = []
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        chosen += _assign_group(members, rows, columns, iou)
    chosen.sort()
    return fits[chosen], pred_class[fits[chosen]]


def _assign_group(
    members: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64], iou: NDArray[np.float64]
) -> list[int]:
    if len(members) == 1:
        return members.tolist()
    _, r = np.unique(rows[members], return_inverse=True)
    _, c = np.unique(columns[members], return_inverse=True)
    gain, number = np.zeros((r.max() + 1, c.max() + 1)), np.full((r.max() + 1, c.max() + 1), -1)
    gain[r, c], number[r, c] = iou[members], members
    return [int(i) for i in number[linear_sum_assignment(gain, maximize=True)] if i >= 0]


def detections(
    pairs: Overlap,
    pred_segments: Mapping[int, int],
    true_segments: Mapping[int, int],
    scores: Mapping[int, float],
    class_id: int,
) -> Detections:
    """Sort the predictions of a class into hits and false alarms; those mostly in true void are neither.

    scores : {predicted id: score}; 1 where one is missing.
    """
    found, classes = assign(pairs, pred_segments, true_segments)
    hits = set(pairs.pred[found[classes == class_id]].tolist())
    alone = [i for i in pairs.pred_sizes if pred_segments[i] == class_id and i not in hits and not pairs.in_void(i)]
    return Detections(
        np.array([scores.get(i, 1.0) for i in sorted(hits)], float),
        np.array([scores.get(i, 1.0) for i in alone], float),
        sum(true_segments[i] == class_id for i in pairs.true_sizes),
    )


def sensitivity(cases: Sequence[Detections]) -> float:
    """Return the part of all true segments that was found; NaN without any."""
    n = sum(c.n for c in cases)
    return sum(len(c.tp_scores) for c in cases) / n if n else float("nan")


def froc(cases: Sequence[Detections]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return thresholds (falling), false positives per case and sensitivity at each: a free-response curve.

    The assignment is that of all predictions; a threshold leaves out what scores below it. Scores under the fusion's
    own threshold are not in a result, so the curve ends there.
    """
    hits, alarms = (
        np.concatenate([np.zeros(0), *parts])
        for parts in zip(*((c.tp_scores, c.fp_scores) for c in cases), strict=True)
    )
    thresholds = np.unique(np.concatenate((hits, alarms)))[::-1]
    n = sum(c.n for c in cases)
    found, false = ((values >= thresholds[:, None]).sum(1) for values in (hits, alarms))
    return thresholds, false / max(1, len(cases)), found / n if n else np.full(len(thresholds), np.nan)
