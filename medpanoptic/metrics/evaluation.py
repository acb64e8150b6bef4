"""Compare a folder of results with the truth: one table, things and stuff apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medpanoptic.metrics.pairs import find_pairs
from medpanoptic.metrics.report import write_report
from medpanoptic.metrics.tables import class_table, instance_table, write_csv

if TYPE_CHECKING:
    from pandas import DataFrame


def evaluate(
    predictions: Path,
    truth: Path,
    csv: Path | None = None,
    *,
    instances: Path | None = None,
    report: Path | None = None,
) -> DataFrame:
    """Score result folders against the truth of the same case names.

    predictions : a folder of result folders, or one result folder. truth : a folder of results, or of a layout of
    ``metrics.truth``. csv : also write the table there. instances : write one row per thing there. report : write a
    page with plots and pictures, and every table, into this folder (needs matplotlib).
    Returns one row per class: kind (thing or stuff), cases (that hold the class in truth or prediction), n (true
    segments), tp, fp, fn, and the figures of docs/metrics.md: pq, pq_case_mean, sq, rq, ap50, ap, dice; sensitivity,
    fp_per_case, hd95_mm, volume_error_ml, volume_error_percent; each with the 95 % interval ``_low`` to ``_high`` of
    1000 draws of the cases. Then ``any thing`` (all things as one class: "binary PQ") and the mean over things (mPQ+)
    and over stuff classes, kept apart.
    ``attrs["truth_without_prediction"]`` counts true cases that were not predicted: they are not in the table.
    Raises DataError: DATA-CASES (none, or one without truth), DATA-LAYOUT, DATA-GRID (not on one grid), REPORT-EXTRA
    (no matplotlib); ReadError.
    """
    pairs = find_pairs(Path(predictions), Path(truth))
    cases = [pair.score() for pair in pairs.found]
    table = class_table(cases)
    table.attrs["truth_without_prediction"] = pairs.unseen
    if csv is not None:
        write_csv(table, Path(csv))
    if instances is not None:
        write_csv(instance_table(cases), Path(instances))
    if report is not None:
        write_report(Path(report), table, cases, pairs.found)
    return table
