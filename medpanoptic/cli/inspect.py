"""``medpanoptic inspect``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from medpanoptic.console import new_table, print_table


def inspect(folder: Annotated[Path, typer.Argument(help="A folder with DICOM files.")]) -> None:
    """List the DICOM series of a folder, with a verdict on the geometry of each, and what was skipped."""
    from medpanoptic.io import find_series

    report = find_series(folder)
    table = new_table("series", "modality", "folder", "slices", "size", "spacing mm", "verdict")
    for s in report.series:
        spacing = " x ".join(f"{v:.3g}" for v in s.spacing)
        verdict = s.code if s.code == "OK" else f"[red]{s.code}[/red] {escape(s.reason)}"
        size = " x ".join(map(str, s.shape[1:]))
        table.add_row(s.handle, s.modality, escape(s.folder), str(s.slices), size, spacing, verdict)
        for note in s.notes:
            table.add_row("", "", "", "", "", "", escape(f"note: {note}"))
    print_table(table)
    for reason, names in _by_reason((s.reason, s.name) for s in report.skipped).items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        typer.echo(f"skipped {len(names)}: {reason}: {', '.join(names[:3])}{more}")
    if not report.series:
        raise typer.Exit(1)


def _by_reason(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for reason, name in pairs:
        grouped.setdefault(reason, []).append(name)
    return grouped
