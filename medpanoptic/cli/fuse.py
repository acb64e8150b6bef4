"""``medpanoptic fuse``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medpanoptic.cli.options import Formats, Score, counts, format_names


def fuse(
    case: Annotated[Path, typer.Argument(help="A result folder made by segment --keep-prediction.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the new result; without it CASE is replaced.")
    ] = None,
    score: Score = None,
    overlap: Annotated[
        float | None, typer.Option(help="A thing with more than this part in better ones is left out.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="log_odds, efficientps or kirillov.")] = None,
    min_thing_mm: Annotated[float | None, typer.Option(help="Smallest thing, in mm2 (2D) or mm3.")] = None,
    min_stuff_mm: Annotated[float | None, typer.Option(help="Smallest stuff segment, in mm2 (2D) or mm3.")] = None,
    formats: Formats = "",
    image: Annotated[Path | None, typer.Option(help="The image or study: for overlays and DICOM SEG.")] = None,
) -> None:
    """Fuse a kept prediction again with other settings, in seconds and without the network."""
    from medpanoptic.refusion import fuse_case

    result = fuse_case(
        case,
        output,
        score=score,
        overlap=overlap,
        method=method,  # type: ignore[arg-type]
        min_thing_mm=min_thing_mm,
        min_stuff_mm=min_stuff_mm,
        formats=format_names(formats) or None,
        image=image,
    )
    typer.echo(f"{output or case}: {counts(result)}")
