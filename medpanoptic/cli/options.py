"""Options that several commands share, and how their words are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medpanoptic.errors import SelectionError, WriteError

if TYPE_CHECKING:
    from medpanoptic.result import PanopticResult

NOTICE = "Research use only. Not a medical device."

Model = Annotated[str, typer.Option("--model", "-m", help="A shipped model's name or a bundle folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one.")]
_FORMATS_HELP = "Names with commas between, as csv,dicom-seg,dicom-seg-labelmap; a wrong one prints them all."
Formats = Annotated[str, typer.Option("--format", "-f", help=_FORMATS_HELP)]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")]
PixelSize = Annotated[float | None, typer.Option(help="Pixel size of 2D images, in place of the file's.")]

Score = Annotated[float | None, typer.Option(help="Things below it are left out, in place of the model's own.")]


def pairs(words: Iterable[str], option: str) -> dict[str, str]:
    """["ct=a", "pet=b"] -> {"ct": "a", "pet": "b"}."""
    found = [word.partition("=") for word in words]
    wrong = [name + mark + value for name, mark, value in found if not (name and value)]
    if wrong:
        raise SelectionError("INPUT", f"{option} takes NAME=VALUE, got {wrong[0]!r}")
    return {name: value for name, _, value in found}


def series_choice(words: Sequence[str] | None) -> dict[str, str] | list[str] | None:
    """Handles, or CHANNEL=HANDLE pairs where any has a name."""
    if not words:
        return None
    return pairs(words, "--series") if any("=" in w for w in words) else list(words)


def format_names(text: str) -> list[str]:
    """Cut a list of formats; refuse unknown names before any work."""
    from medpanoptic.io import FORMATS

    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise WriteError("FORMAT-UNKNOWN", f"no format {', '.join(map(repr, unknown))}; known are {', '.join(FORMATS)}")
    return names


def counts(result: PanopticResult) -> str:
    """43 nucleus, 2 tumour."""
    names = [result.classes[s.class_id].name for s in result.things]
    return ", ".join(f"{names.count(c.name)} {c.name}" for c in result.classes.things)
