"""``medpanoptic segment``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from medpanoptic.cli.options import (
    NOTICE,
    Device,
    Formats,
    Model,
    Output,
    PixelSize,
    Score,
    counts,
    format_names,
    pairs,
    series_choice,
)
from medpanoptic.console import progress_bar, say, say_error, say_traceback
from medpanoptic.errors import SelectionError

if TYPE_CHECKING:
    from medpanoptic.cases import Case
    from medpanoptic.segmenter import Segmenter


def segment(
    context: typer.Context,
    output: Output,
    model: Model,
    # readable=False: one that is closed fails as a case, and does not stop the others
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="Files, folders of images, DICOM folders.", readable=False)
    ] = None,
    device: Device = "auto",
    formats: Formats = "",
    series: Annotated[list[str] | None, typer.Option(help="Handle or CHANNEL=HANDLE; inspect lists handles.")] = None,
    pixel_size_um: PixelSize = None,
    channel: Annotated[list[str] | None, typer.Option(help="NAME=PATH, one per channel, instead of INPUT.")] = None,
    score: Score = None,
    keep_prediction: Annotated[
        bool, typer.Option("--keep-prediction", help="Also write what medpanoptic fuse needs.")
    ] = False,
    flips: Annotated[
        bool | None,
        typer.Option("--flips/--no-flips", help="Average over mirrored images: slower, gives uncertainty."),
    ] = None,
) -> None:
    """Segment images and studies into OUT/CASE/; CASE is the file's stem or the folder's name.

    Without --format: nifti, csv, png, and dicom-seg for DICOM input.
    """
    from medpanoptic.cases import channel_case, find_cases

    if bool(inputs) == bool(channel):
        raise SelectionError(
            "INPUT", "give INPUT or --channel NAME=PATH, one of the two; see medpanoptic segment --help"
        )
    paths = {name: Path(path) for name, path in pairs(channel or (), "--channel").items()}
    cases = [channel_case(paths)] if channel else find_cases(inputs or [])
    names = format_names(formats)
    chosen = series_choice(series)

    from medpanoptic.segmenter import Segmenter

    segmenter = Segmenter.load(model, device=device, flips=flips)

    def work(case: Case, progress: Callable[[float], None]) -> str:
        return _segment_case(
            segmenter,
            case,
            output,
            names,
            chosen,
            pixel_size_um,
            progress,
            score=score,
            keep_prediction=keep_prediction,
        )

    failed = _run_cases(cases, work, debug=context.find_root().params["debug"])
    say(NOTICE)
    raise typer.Exit(0 if not failed else 3 if failed < len(cases) else 1)


def _segment_case(
    segmenter: Segmenter,
    case: Case,
    output: Path,
    names: Sequence[str],
    series: Any,
    pixel_size_um: float | None,
    progress: Callable[[float], None],
    **options: Any,
) -> str:
    """Read, segment and write one case; return the line for stdout."""
    from medpanoptic.segmenter import segment_file

    result = segment_file(
        case.source,
        segmenter,
        output / case.name,
        formats=names or None,
        series=series,
        pixel_size_um=pixel_size_um,
        progress=progress,
        **options,
    )
    for note in result.provenance.parameters["notes"]:
        say(f"note {case.name}: {note}")
    for doubt in result.provenance.parameters["warnings"]:
        say(f"warning [{doubt['code']}] {case.name}: {doubt['text']}")
    return f"{output / case.name}: {counts(result)}"


def _run_cases(cases: Sequence[Case], work: Callable[[Case, Callable[[float], None]], str], debug: bool) -> int:
    """Work on each case; say and count those that failed, so that one bad input does not stop the others."""
    failed = 0
    with progress_bar() as bar:
        task = bar.add_task("", total=100 * len(cases))
        for number, case in enumerate(cases):
            bar.update(task, description=escape(case.name), completed=100 * number)
            try:
                with warnings.catch_warnings():
                    # what the library warns of is in the provenance and said from there; the rest is not for people
                    warnings.simplefilter("ignore")
                    line = work(case, lambda part, done=number: bar.update(task, completed=100 * (done + part)))  # type: ignore[misc]
            except Exception as error:
                failed += 1
                say_error(error, case.name)
                if debug:
                    say_traceback()
            else:
                typer.echo(line)
    return failed
