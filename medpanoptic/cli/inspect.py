"""``medpanoptic inspect``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medpanoptic.console import new_table, print_table

if TYPE_CHECKING:
    from medpanoptic.io.read import SeriesReport


def inspect(
    path: Annotated[Path, typer.Argument(help="A folder, a file or an archive (.zip, .tar, .tar.gz).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the series and image files at a path, with a verdict on each, and what was skipped."""
    from medpanoptic.io import inspect as inspect_path

    report = inspect_path(path)
    if as_json:
        typer.echo(json.dumps({"series": [asdict(s) for s in report.series], "skipped": _skipped(report)}, indent=2))
    else:
        _print(report)
    if not report.series:
        raise typer.Exit(1)


def _print(report: SeriesReport) -> None:
    table = new_table("series", "modality", "where", "slices", "size", "spacing mm", "verdict")
    for s in report.series:
        spacing = " x ".join(f"{v:.3g}" for v in s.spacing)
        verdict = s.code if s.code == "OK" else f"[red]{s.code}[/red] {escape(_without_label(s.reason))}"
        size = " x ".join(map(str, s.shape[-2:]))
        table.add_row(s.handle, s.modality, escape(s.folder), str(s.slices or ""), size, spacing, verdict)
        for note in s.notes:
            table.add_row("", "", "", "", "", "", escape(f"note: {note}"))
    if report.series:
        print_table(table)
    else:
        typer.echo("nothing here can be read as an image")
    for reason, names in _by_reason((s.reason, s.name) for s in report.skipped).items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        typer.echo(f"skipped {len(names)}: {reason}: {', '.join(names[:3])}{more}")


def _without_label(reason: str) -> str:
    """Leave out how errors name the series: the row does."""
    return re.sub(r"^series \w+ \([^)]*\)[:,] ", "", reason)


def _skipped(report: SeriesReport) -> list[dict[str, object]]:
    return [{"name": s.name, "reason": s.reason, "damaged": s.damaged} for s in report.skipped]


def _by_reason(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for reason, name in pairs:
        grouped.setdefault(reason, []).append(name)
    return grouped
