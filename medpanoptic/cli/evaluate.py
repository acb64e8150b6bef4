"""``medpanoptic evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from medpanoptic.console import new_table, print_table, say

if TYPE_CHECKING:
    from pandas import DataFrame


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of result folders, as segment writes them.")],
    truth: Annotated[Path, typer.Argument(help="Folder of true results, or of a layout of annotated data.")],
    csv: Annotated[Path | None, typer.Option("--output", "-o", help="Write the table as CSV, too.")] = None,
    instances: Annotated[Path | None, typer.Option(help="Write one row per thing as CSV.")] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for a page with plots and the worst cases.")] = None,
) -> None:
    """Score results against the truth of the same case names: PQ, SQ, RQ, AP and Dice per class.

    In brackets: the 95 % interval of a bootstrap over cases.
    """
    from medpanoptic.metrics import evaluate as run
    from medpanoptic.metrics.tables import COUNTS, LESIONS, QUALITY

    scores = run(predictions, truth, csv, instances=instances, report=report)
    _print(scores, COUNTS, QUALITY)
    volumes = scores[scores["hd95_mm"].notna() | scores["volume_error_ml"].notna()]
    if len(volumes):
        _print(volumes, ("n",), LESIONS)
    if unseen := scores.attrs["truth_without_prediction"]:
        say(f"note: {unseen} case(s) of the truth have no prediction and are not in the table")
    if report is not None:
        say(f"report: {report / 'index.html'}")


def _print(scores: DataFrame, counts: Sequence[str], figures: Sequence[str]) -> None:
    table = new_table("class", "kind", *counts, *figures)
    for row in scores.to_dict("records"):
        cells = [str(row[c]) for c in ("class", "kind", *counts)]
        table.add_row(*map(escape, [*cells, *(_with_interval(row, f) for f in figures)]))
    print_table(table)


def _with_interval(row: dict[str, Any], figure: str) -> str:
    """0.712 [0.690, 0.734]; a dash where there is no figure."""
    value, low, high = (row[f"{figure}{end}"] for end in ("", "_low", "_high"))
    if value != value:
        return "-"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
