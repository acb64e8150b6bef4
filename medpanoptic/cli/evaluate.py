"""``medpanoptic evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from medpanoptic.console import new_table, print_table, say


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of result folders, as segment writes them.")],
    truth: Annotated[Path, typer.Argument(help="Folder of true results, or of a layout of annotated data.")],
    csv: Annotated[Path | None, typer.Option("--output", "-o", help="Write the table as CSV, too.")] = None,
) -> None:
    """Score results against the truth of the same case names: PQ, SQ, RQ, AP and Dice per class."""
    from medpanoptic.metrics import evaluate as run

    scores = run(predictions, truth, csv)
    table = new_table(*map(str, scores.columns))
    for row in scores.itertuples(index=False):
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else escape(str(v)) for v in row))
    print_table(table)
    if unseen := scores.attrs["truth_without_prediction"]:
        say(f"note: {unseen} case(s) of the truth have no prediction and are not in the table")
