"""``medpanoptic demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medpanoptic.cli.options import NOTICE, Device, Output
from medpanoptic.console import new_table, print_table, progress_bar, say


def demo(
    output: Output = Path("demo_out"),
    view: Annotated[bool, typer.Option("--view", help="Open the results in napari.")] = False,
    device: Device = "auto",
) -> None:
    """Run every shipped model on its sample: a table on the screen, result folders and overlays in OUT."""
    from medpanoptic.demo import open_in_napari, run_demo

    table = new_table("sample", "model", "things", "annotated", "agreement", "seconds", "overlay")
    with progress_bar() as progress:
        task = progress.add_task("loading")
        for row in run_demo(output, device=device, progress=lambda part: progress.update(task, completed=100 * part)):
            agreement = f"{row.measure} {row.value:.2f}"
            cells = (row.sample.title, row.sample.model, str(row.found), str(row.annotated), agreement)
            table.add_row(*cells, f"{row.seconds:.0f}", str(row.folder / "overlay.png"))
            progress.reset(task, description="next")
    print_table(table)
    say(NOTICE)
    if view:
        open_in_napari(output)
