"""``medpanoptic convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medpanoptic.cli.options import Formats, Output, PixelSize, format_names
from medpanoptic.console import say


def convert(
    case: Annotated[Path, typer.Argument(help="A result folder, OUT/CASE, or one file: DICOM SEG, COCO JSON ...")],
    output: Output,
    formats: Formats,
    image: Annotated[Path | None, typer.Option(help="The image or study: for overlays and DICOM objects.")] = None,
    source_format: Annotated[str | None, typer.Option(help="The format of CASE; found out by default.")] = None,
    pixel_size_um: PixelSize = None,
) -> None:
    """Write a result again in other formats; stderr says what each of them cannot hold."""
    from medpanoptic.io import read_study
    from medpanoptic.io.write import convert as run

    volume = None if image is None else read_study(image, pixel_size_um=pixel_size_um)
    made = run(case, output, format_names(formats), source_format=source_format, volume=volume)
    for path in (p for paths in made.files.values() for p in paths):
        typer.echo(path)
    for name, lost in made.lost.items():
        if lost:
            say(f"{name} does not hold: {', '.join(lost)}")
