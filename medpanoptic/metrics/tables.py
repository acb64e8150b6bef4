"""Scores of many cases -> tables: one row per class, per size, per thing; with bootstrap intervals."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medpanoptic.metrics.calibration import Calibration, calibration
from medpanoptic.metrics.comparison import CaseScore, ClassScore, InstanceRow, Kind
from medpanoptic.metrics.detection import Detections
from medpanoptic.metrics.intervals import interval, means, medians, resample

if TYPE_CHECKING:
    from pandas import DataFrame

QUALITY = ("pq", "pq_case_mean", "sq", "rq", "ap50", "ap", "dice")
LESIONS = ("sensitivity", "fp_per_case", "hd95_mm", "volume_error_ml", "volume_error_percent")
FIGURES = (*QUALITY, *LESIONS)
COUNTS = ("cases", "n", "tp", "fp", "fn")
COLUMNS = ("class", "kind", *COUNTS, *FIGURES, *(f"{f}_{end}" for f in FIGURES for end in ("low", "high")))
_KINDS: tuple[Kind, ...] = ("thing", "any", "stuff")
_SIZE_BINS = 4


def class_table(cases: Sequence[CaseScore]) -> DataFrame:
    """Return one row per class, then the means over things and over stuff; see ``evaluate``."""
    import pandas as pd

    # the first draw takes every case once: the figure itself
    draws = np.concatenate((np.ones((1, len(cases))), resample(len(cases))))
    keys = sorted({key for case in cases for key in case.classes}, key=lambda k: (_KINDS.index(k[1]), k[0]))
    figures = {key: _figures([case.classes.get(key) for case in cases], draws) for key in keys}
    counts = {key: _counts([case.classes.get(key) for case in cases]) for key in keys}
    rows = [_row(name, kind, counts[name, kind], figures[name, kind]) for name, kind in keys]
    for kind, name in (("thing", "mean of things"), ("stuff", "mean of stuff")):
        members = [key for key in keys if key[1] == kind]
        if len(members) > 1:
            rows.append(_mean_row(name, [counts[k] for k in members], [figures[k] for k in members], kind))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _counts(scores: Sequence[ClassScore | None]) -> dict[str, int]:
    found = [s.counts for s in scores if s is not None]
    sums = {name: sum(getattr(c, name) for c in found) for name in ("n", "tp", "fp", "fn")}
    return {"cases": sum(not c.is_empty for c in found), **sums}


def _figures(scores: Sequence[ClassScore | None], draws: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return {figure: (draws,)}; a class that a case does not know is missing there."""
    tp, fp, fn, iou = (
        draws @ np.array([getattr(s.counts, name) if s else 0 for s in scores], float)
        for name in ("tp", "fp", "fn", "iou_sum")
    )
    detected = [s.detected if s and s.detected else Detections(np.zeros(0), np.zeros(0), 0) for s in scores]
    found, alarms, n = (
        draws @ np.array(values, float)
        for values in zip(*((len(d.tp_scores), len(d.fp_scores), d.n) for d in detected), strict=True)
    )
    is_thing = any(s and s.detected for s in scores)
    volumes = np.array([s.volume_ml if s else (np.nan, np.nan) for s in scores], float).reshape(-1, 2)
    error = np.where((volumes > 0).any(1), np.abs(volumes[:, 0] - volumes[:, 1]), np.nan)
    percent = np.divide(100 * error, volumes[:, 1], out=np.full(len(error), np.nan), where=volumes[:, 1] > 0)

    def mean(values: Sequence[float]) -> NDArray[np.float64]:
        return means(draws, np.array(values, float))

    return {
        "pq": _ratio(iou, tp + fp / 2 + fn / 2),
        "pq_case_mean": mean([s.counts.pq if s else np.nan for s in scores]),
        "sq": _ratio(iou, tp),
        "rq": _ratio(tp, tp + fp / 2 + fn / 2),
        "ap50": mean([s.ap[0] if s and s.ap else np.nan for s in scores]),
        "ap": mean([float(np.mean(s.ap)) if s and s.ap else np.nan for s in scores]),
        "dice": mean([s.dice if s else np.nan for s in scores]),
        "sensitivity": _ratio(found, n),
        "fp_per_case": alarms / len(scores) if is_thing else np.full(len(draws), np.nan),
        "hd95_mm": medians(draws, np.array([s.hd95_mm if s else np.nan for s in scores], float)),
        "volume_error_ml": means(draws, error),
        "volume_error_percent": means(draws, percent),
    }


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)


def _row(name: str, kind: str, counts: Mapping[str, int], figures: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    row: dict[str, Any] = {"class": name, "kind": "thing" if kind == "any" else kind, **counts}
    for figure, values in figures.items():
        row[figure] = float(values[0])
        row[f"{figure}_low"], row[f"{figure}_high"] = interval(values[1:])
    return row


def _mean_row(
    name: str,
    counts: Sequence[Mapping[str, int]],
    figures: Sequence[Mapping[str, NDArray[np.float64]]],
    kind: str,
) -> dict[str, Any]:
    """Average the classes of one kind in each draw; a class that is nowhere (NaN) does not count."""
    averaged = {}
    for figure in FIGURES:
        values = np.stack([f[figure] for f in figures])
        known = ~np.isnan(values)
        averaged[figure] = _ratio(np.where(known, values, 0).sum(0), known.sum(0).astype(float))
    sums = {c: sum(each[c] for each in counts) for c in COUNTS} | {"cases": max(each["cases"] for each in counts)}
    return _row(name, kind, sums, averaged)


# ---- things


def instance_table(cases: Sequence[CaseScore]) -> DataFrame:
    """Return one row per thing of all cases, see ``InstanceRow``."""
    import pandas as pd

    frame = pd.DataFrame([row for case in cases for row in case.instances], columns=list(InstanceRow._fields))
    return frame.rename(columns={"class_name": "class"})


def case_table(cases: Sequence[CaseScore]) -> DataFrame:
    """Return one row per case and class: counts, PQ, Dice, and in 3D HD95 and volumes (prediction, truth)."""
    import pandas as pd

    rows = [
        {
            "case": case.name,
            "class": name,
            "kind": "thing" if kind == "any" else kind,
            **{c: getattr(s.counts, c) for c in ("n", "tp", "fp", "fn", "pq", "sq", "rq")},
            "ap50": s.ap[0] if s.ap else np.nan,
            "dice": s.dice,
            "hd95_mm": s.hd95_mm,
            "volume_ml": s.volume_ml[0],
            "true_volume_ml": s.volume_ml[1],
        }
        for case in cases
        for (name, kind), s in case.classes.items()
    ]
    return pd.DataFrame(rows)


def size_table(instances: DataFrame, edges: Sequence[float] | None = None) -> DataFrame:
    """Return PQ, SQ and RQ per class and size: columns class, unit, low, high, n, tp, fp, fn, pq, sq, rq.

    instances : as ``instance_table`` makes them. edges : of the bins, rising, in the unit of ``diameter``; None takes
    the quartiles of each class's true things. A pair and a miss belong to the bin of the true thing, a false alarm to
    that of its own size. low <= diameter < high; the first bin starts at 0, the last has no end.
    """
    import pandas as pd

    rows = []
    for (name, unit), group in instances.groupby(["class", "unit"], sort=True):
        true = group[group["outcome"].isin(["tp", "fn"])]["diameter"]
        if edges is not None:
            inner = list(edges)
        else:
            inner = (
                [float(v) for v in np.unique(true.quantile(np.arange(1, _SIZE_BINS) / _SIZE_BINS))] if len(true) else []
            )
        for low, high in zip([0.0, *inner], [*inner, np.inf], strict=True):
            part = group[(group["diameter"] >= low) & (group["diameter"] < high)]
            tp, fp, fn = (int((part["outcome"] == o).sum()) for o in ("tp", "fp", "fn"))
            iou = float(part[part["outcome"] == "tp"]["iou"].sum())
            rest = tp + fp / 2 + fn / 2
            figures = (iou / rest, iou / tp if tp else np.nan, tp / rest) if rest else (np.nan,) * 3
            rows.append((name, unit, low, high, tp + fn, tp, fp, fn, *figures))
    return pd.DataFrame(rows, columns=["class", "unit", "low", "high", "n", "tp", "fp", "fn", "pq", "sq", "rq"])


def score_calibration(instances: DataFrame, bins: int = 10) -> Calibration:
    """Return how often predictions of each score match a true thing of their class with IoU > 0.5."""
    predicted = instances[instances["outcome"].isin(["tp", "fp"])]
    return calibration(predicted["score"], predicted["outcome"] == "tp", bins)


def write_csv(table: DataFrame, path: Path) -> None:
    """Write a table whole or not at all; six digits, empty cells for what is not a number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")
    os.replace(part, path)
