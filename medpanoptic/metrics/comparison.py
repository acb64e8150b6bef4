"""One case against its truth: the score of every class, and one row for every thing."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from medpanoptic.geometry import voxel_size, voxel_spacing
from medpanoptic.metrics.contingency import Overlap, overlap
from medpanoptic.metrics.detection import Detections, detections
from medpanoptic.metrics.quality import (
    AP_THRESHOLDS,
    Matches,
    PanopticQuality,
    count_matches,
    match_segments,
    precision_at,
)
from medpanoptic.metrics.surfaces import hausdorff_95
from medpanoptic.metrics.truth import Truth

ANY_THING = "any thing"
Outcome = Literal["tp", "fp", "fn", "ignored"]
Kind = Literal["thing", "any", "stuff"]
# {id: class number} of prediction and truth
Coded = tuple[dict[int, int], dict[int, int]]


@dataclass(frozen=True, eq=False)
class ClassScore:
    """One class in one case.

    ap : AP at 0.50 to 0.95, empty for stuff. detected : at IoU > 0.1, None for stuff. hd95_mm, volume_ml (prediction
    and truth) : of all voxels of a thing class together, NaN in 2D and for stuff.
    """

    counts: PanopticQuality
    dice: float
    ap: tuple[float, ...] = ()
    detected: Detections | None = None
    hd95_mm: float = math.nan
    volume_ml: tuple[float, float] = (math.nan, math.nan)


class InstanceRow(NamedTuple):
    """One thing: a matched pair, a false alarm, a miss, or a prediction mostly in true void ("ignored").

    id, matched_id : the predicted and the true id, 0 where there is none. iou : of the pair; for the others the best
    with a thing of the same class. size, true_size : pixels, 0 where there is none. diameter : of the disc or ball with
    the size of the true thing (of the predicted one for a false alarm), in ``unit``. score : of the prediction.
    """

    case: str
    class_name: str
    outcome: Outcome
    id: int
    matched_id: int
    iou: float
    size: int
    true_size: int
    diameter: float
    unit: str
    score: float


@dataclass(frozen=True, eq=False)
class CaseScore:
    """All of one case. classes : {(class name, kind): score}; kind "any" is all things as one class."""

    name: str
    classes: Mapping[tuple[str, Kind], ClassScore]
    instances: tuple[InstanceRow, ...]


def score_case(
    name: str, pred: Truth, truth: Truth, scores: Mapping[int, float] | None = None, calibrated: bool = True
) -> CaseScore:
    """Compare two maps of one grid; class names, not ids, decide what is the same class.

    scores : {predicted id: score}, 1 where one is missing. calibrated : whether ``pred.affine`` is in mm.
    """
    scores = scores or {}
    # a truth folder names classes for all its sets; one that is neither here nor in the model says nothing
    things = pred.things | {c for c in truth.segments.values() if c in truth.things}
    names = sorted(things | pred.stuff | truth.stuff)
    code = {c: k for k, c in enumerate(names, 1)}
    pairs = overlap(pred.ids, truth.ids)
    coded = _coded(pred, truth, code)
    matches = match_segments(pairs, *coded)
    counts = count_matches(matches, *coded, code.values())
    found: dict[tuple[str, Kind], ClassScore] = {}
    # stuff that the model has no class for cannot be scored; a thing that it has no class for is a miss
    for c in sorted(things | pred.stuff):
        if c in things:
            found[c, "thing"] = _thing_score(counts[code[c]], pairs, coded, code[c], scores, (pred, truth), {c})
        else:
            found[c, "stuff"] = ClassScore(counts[code[c]], _dice(pairs, coded, code[c]))
    as_one = _coded(pred, truth, {c: int(c in things) for c in names})
    both = count_matches(match_segments(pairs, *as_one), *as_one, [1])[1]
    found[ANY_THING, "any"] = _thing_score(both, pairs, as_one, 1, scores, (pred, truth), things)
    rows = _rows(name, pairs, matches, (pred, truth), things, scores, _measure(pred, calibrated))
    return CaseScore(name, found, rows)


def _coded(pred: Truth, truth: Truth, code: Mapping[str, int]) -> Coded:
    first, second = ({i: code[c] for i, c in m.segments.items()} for m in (pred, truth))
    return first, second


def _thing_score(
    counts: PanopticQuality,
    pairs: Overlap,
    coded: Coded,
    class_id: int,
    scores: Mapping[int, float],
    maps: tuple[Truth, Truth],
    names: Collection[str],
) -> ClassScore:
    same = [
        coded[0][p] == coded[1][t] == class_id for p, t in zip(pairs.pred.tolist(), pairs.true.tolist(), strict=True)
    ]
    segments = sum(
        segments[i] == class_id
        for segments, sizes in zip(coded, (pairs.pred_sizes, pairs.true_sizes), strict=True)
        for i in sizes
    )
    ap = tuple(precision_at(pairs.full_iou[np.array(same, bool)], segments, AP_THRESHOLDS).tolist())
    detected = detections(pairs, *coded, scores, class_id)
    score = ClassScore(counts, _dice(pairs, coded, class_id), ap, detected)
    affine = maps[0].affine
    if maps[0].ids.ndim == 2 or affine is None:
        return score
    masks = [np.isin(m.ids, [i for i, c in m.segments.items() if c in names]) for m in maps]
    masks[0] &= maps[1].ids != 0  # what is unknown in the truth is not held against the prediction
    hd95 = hausdorff_95(masks[0], masks[1], voxel_spacing(affine, 3).tolist())
    ml = voxel_size(affine, 3) / 1000
    return ClassScore(counts, score.dice, ap, detected, hd95, (masks[0].sum() * ml, masks[1].sum() * ml))


def _dice(pairs: Overlap, coded: Coded, class_id: int) -> float:
    """Dice of all pixels of a class; the prediction's pixels in true void do not count."""
    both = sum(
        n
        for p, t, n in zip(pairs.pred.tolist(), pairs.true.tolist(), pairs.shared.tolist(), strict=True)
        if coded[0][p] == coded[1][t] == class_id
    )
    known = sum(n - pairs.pred_in_void[i] for i, n in pairs.pred_sizes.items() if coded[0][i] == class_id)
    total = known + sum(n for i, n in pairs.true_sizes.items() if coded[1][i] == class_id)
    return 2 * both / total if total else math.nan


# ---- one row per thing


class _Measure(NamedTuple):
    """Turns pixel counts into diameters."""

    unit: str
    size: float
    ndim: int

    def diameter(self, pixels: int) -> float:
        size = pixels * self.size
        return math.sqrt(4 * size / math.pi) if self.ndim == 2 else (6 * size / math.pi) ** (1 / 3)


def _measure(pred: Truth, calibrated: bool) -> _Measure:
    ndim = pred.ids.ndim
    if pred.affine is None or not calibrated:
        return _Measure("px", 1.0, ndim)
    size = voxel_size(pred.affine, ndim)
    return _Measure("um", size * 1e6, 2) if ndim == 2 else _Measure("mm", size, 3)


def _rows(
    name: str,
    pairs: Overlap,
    matches: Matches,
    maps: tuple[Truth, Truth],
    things: Collection[str],
    scores: Mapping[int, float],
    measure: _Measure,
) -> tuple[InstanceRow, ...]:
    pred_class, true_class = (m.segments for m in maps)
    best_pred, best_true = _best_iou(pairs, pred_class, true_class)

    def row(outcome: Outcome, pred_id: int, true_id: int, iou: float) -> InstanceRow:
        size, true_size = pairs.pred_sizes.get(pred_id, 0), pairs.true_sizes.get(true_id, 0)
        class_name = true_class[true_id] if true_id else pred_class[pred_id]
        score = scores.get(pred_id, 1.0) if pred_id else math.nan
        diameter = measure.diameter(true_size or size)
        return InstanceRow(
            name, class_name, outcome, pred_id, true_id, iou, size, true_size, diameter, measure.unit, score
        )

    matched = zip(matches.pred.tolist(), matches.true.tolist(), matches.iou.tolist(), strict=True)
    rows = [
        *(row("tp", p, t, iou) for p, t, iou in matched),
        *(row("fp", i, 0, best_pred.get(i, 0.0)) for i in matches.false_pred),
        *(row("fn", 0, i, best_true.get(i, 0.0)) for i in matches.false_true),
        *(row("ignored", i, 0, best_pred.get(i, 0.0)) for i in matches.ignored),
    ]
    return tuple(r for r in rows if r.class_name in things)


def _best_iou(
    pairs: Overlap, pred_class: Mapping[int, str], true_class: Mapping[int, str]
) -> tuple[dict[int, float], dict[int, float]]:
    best_pred: dict[int, float] = {}
    best_true: dict[int, float] = {}
    for p, t, iou in zip(pairs.pred.tolist(), pairs.true.tolist(), pairs.iou.tolist(), strict=True):
        if pred_class[p] == true_class[t]:
            best_pred[p], best_true[t] = max(iou, best_pred.get(p, 0.0)), max(iou, best_true.get(t, 0.0))
    return best_pred, best_true
