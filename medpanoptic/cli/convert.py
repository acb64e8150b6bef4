"""``medpanoptic convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medpanoptic.cli.options import Formats, Output, PixelSize, format_names


def convert(
    case: Annotated[Path, typer.Argument(help="A result folder, OUT/CASE.")],
    output: Output,
    formats: Formats,
    image: Annotated[Path | None, typer.Option(help="The image or study: for overlays and DICOM SEG.")] = None,
    pixel_size_um: PixelSize = None,
) -> None:
    """Write a result again in other formats."""
    from medpanoptic.io import read_study
    from medpanoptic.io.write import convert as run

    volume = None if image is None else read_study(image, pixel_size_um=pixel_size_um)
    made = run(case, output, format_names(formats), volume=volume)
    for path in (p for paths in made.values() for p in paths):
        typer.echo(path)
