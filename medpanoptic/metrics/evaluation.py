"""Compare a folder of results with the truth: one table, things and stuff apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medpanoptic.errors import DataError
from medpanoptic.geometry import same_grid
from medpanoptic.io import read_result
from medpanoptic.io.result_files import TABLE, read_json
from medpanoptic.metrics.quality import PanopticQuality, average_precision, dice, mean_pq, panoptic_quality, pooled
from medpanoptic.metrics.truth import Truth, find_truth, truth_of
from medpanoptic.result import PanopticResult

if TYPE_CHECKING:
    from pandas import DataFrame

ANY_THING = "any thing"
COLUMNS = ("class", "kind", "cases", "n", "tp", "fp", "fn", "pq", "pq_case_mean", "sq", "rq", "ap50", "ap", "dice")


@dataclass(frozen=True)
class ClassScore:
    """One class in one case. ``ap`` holds AP at the thresholds 0.50 to 0.95 (things only)."""

    counts: PanopticQuality
    dice: float
    ap: tuple[float, ...] = ()


def evaluate(predictions: Path, truth: Path, csv: Path | None = None) -> DataFrame:
    """Score result folders against the truth of the same case names.

    predictions : a folder of result folders, or one result folder. truth : a folder of results, or of a layout of
    ``metrics.truth``. csv : also write the table there.
    Returns one row per class: kind (thing or stuff), cases (that hold the class in truth or prediction), n (true
    segments), tp, fp, fn, pq, sq, rq (pooled over cases), pq_case_mean (mean of the cases' own PQ; a case without the
    class in both is left out, one with false alarms only counts as 0), ap50 and ap (Data Science Bowl 2018, mean over
    cases, unknown pixels count as background), dice (all pixels of the class, mean over cases). Then ``any thing``
    (all things as one class: "binary PQ") and the mean over things and over stuff classes, kept apart.
    ``attrs["truth_without_prediction"]`` counts true cases that were not predicted: they are not in the table.
    Raises DataError: DATA-CASES (none, or one without truth), DATA-LAYOUT, DATA-GRID (not on one grid); ReadError.
    """
    root = Path(predictions).resolve()
    folders = {p.parent.name: p.parent for p in sorted([*root.glob(TABLE), *root.glob(f"*/{TABLE}")])}
    if not folders:
        raise DataError("DATA-CASES", f"{predictions} has no result folder (CASE/segments.json); run 'segment' first")
    known = {c["name"] for folder in folders.values() for c in read_json(folder / TABLE)["classes"]}
    cases = find_truth(Path(truth), known)
    alone = [name for name in folders if name not in cases]
    if alone:
        raise DataError(
            "DATA-CASES", f"{len(alone)} of {len(folders)} results have no truth in {truth}, first: {alone[:3]}"
        )
    scores = [_score_case(name, read_result(folder), cases[name]) for name, folder in folders.items()]
    table = _table(scores)
    table.attrs["truth_without_prediction"] = len(cases) - len(folders)
    if csv is not None:
        _write_csv(table, Path(csv))
    return table


def _score_case(name: str, result: PanopticResult, read: Callable[[], Truth]) -> dict[tuple[str, str], ClassScore]:
    """Return {(class name, kind): score}."""
    truth = read()
    if truth.ids.shape != result.ids.shape or (
        truth.affine is not None and not same_grid(truth.affine, result.affine, truth.ids.shape, result.ids.shape, 0.1)
    ):
        raise DataError(
            "DATA-GRID", f"case {name}: result {result.ids.shape} and truth {truth.ids.shape} are not on one grid"
        )
    return score_case(truth_of(result), truth)


def score_case(pred: Truth, truth: Truth) -> dict[tuple[str, str], ClassScore]:
    """Compare two maps of one case; class names, not ids, decide what is the same class."""
    # a truth folder names classes for all its sets; one that is neither here nor in the model says nothing
    things = pred.things | {name for name in truth.segments.values() if name in truth.things}
    names = sorted(things | pred.stuff | truth.stuff)
    code = {name: k for k, name in enumerate(names, 1)}
    counts = panoptic_quality(pred.ids, _coded(pred, code), truth.ids, _coded(truth, code), code.values())
    scores = {}
    # stuff that the model has no class for cannot be scored; a thing that it has no class for is a miss
    for name in sorted(things | pred.stuff):
        masks = [np.isin(m.ids, [i for i, n in m.segments.items() if n == name]) for m in (pred, truth)]
        kind = "thing" if name in things else "stuff"
        scores[name, kind] = _class_score(counts[code[name]], pred, truth, masks, kind)
    binary = {name: 1 if name in things else 2 for name in names}
    masks = [np.isin(m.ids, [i for i, n in m.segments.items() if n in things]) for m in (pred, truth)]
    both = panoptic_quality(pred.ids, _coded(pred, binary), truth.ids, _coded(truth, binary), [1])
    scores[ANY_THING, "any"] = _class_score(both[1], pred, truth, masks, "thing")
    return scores


def _coded(truth: Truth, code: Mapping[str, int]) -> dict[int, int]:
    return {i: code[name] for i, name in truth.segments.items()}


def _class_score(counts: PanopticQuality, pred: Truth, truth: Truth, masks: Sequence[Any], kind: str) -> ClassScore:
    known = truth.ids != 0
    overlap = dice(masks[0] & known, masks[1])
    if kind == "stuff":
        return ClassScore(counts, overlap)
    pred_ids, true_ids = (np.where(mask, m.ids, 0) for mask, m in zip(masks, (pred, truth), strict=True))
    return ClassScore(counts, overlap, tuple(average_precision(pred_ids, true_ids).tolist()))


# ---- the table


def _table(scores: Sequence[Mapping[tuple[str, str], ClassScore]]) -> DataFrame:
    import pandas as pd

    keys = sorted({key for case in scores for key in case}, key=lambda k: (("thing", "any", "stuff").index(k[1]), k[0]))
    rows = [_row(*key, [case[key] for case in scores if key in case]) for key in keys]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    classes = table[table["class"] != ANY_THING]["kind"]
    means = [_mean_row(table, kind) for kind in ("thing", "stuff") if (classes == kind).sum() > 1]
    return pd.concat([table, pd.DataFrame(means, columns=list(COLUMNS))], ignore_index=True) if means else table


def _row(name: str, kind: str, scores: Sequence[ClassScore]) -> dict[str, Any]:
    counts = [s.counts for s in scores]
    total = pooled([PanopticQuality(1, c.tp, c.fp, c.fn, c.iou_sum) for c in counts])
    return {
        "class": name,
        "kind": "thing" if kind == "any" else kind,
        "cases": sum(not c.is_empty for c in counts),
        "n": total.n,
        "tp": total.tp,
        "fp": total.fp,
        "fn": total.fn,
        "pq": total.pq,
        "pq_case_mean": mean_pq(counts),
        "sq": total.sq,
        "rq": total.rq,
        "ap50": _mean([s.ap[0] for s in scores if s.ap]),
        "ap": _mean([float(np.mean(s.ap)) for s in scores if s.ap]),
        "dice": _mean([s.dice for s in scores]),
    }


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")


def _mean_row(table: DataFrame, kind: str) -> dict[str, Any]:
    """Average the classes of one kind; a class that is nowhere (NaN) does not count."""
    rows = table[(table["kind"] == kind) & (table["class"] != ANY_THING)]
    figures = {c: rows[c].mean() for c in ("pq", "pq_case_mean", "sq", "rq", "ap50", "ap", "dice")}
    sums = {c: int(rows[c].sum()) for c in ("n", "tp", "fp", "fn")}
    return (
        {
            "class": f"mean of {kind}s" if kind == "thing" else "mean of stuff",
            "kind": kind,
            "cases": int(rows["cases"].max()),
        }
        | sums
        | figures
    )


def _write_csv(table: DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")
    os.replace(part, path)
