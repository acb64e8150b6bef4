"""The command line: one command is one function of the API, with the same names and defaults.

Results go to stdout, progress and messages to stderr. Heavy imports stand inside the commands, so that ``--help``
does not wait for torch. Exit status: 0 done, 1 nothing done, 2 command line not understood, 3 some cases failed.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from medpanoptic import __version__
from medpanoptic.console import new_table, print_table, progress_bar, say, say_error, say_traceback
from medpanoptic.errors import SelectionError, WriteError

if TYPE_CHECKING:
    from medpanoptic.bundle import Bundle
    from medpanoptic.cases import Case
    from medpanoptic.result import PanopticResult
    from medpanoptic.segmenter import Segmenter

NOTICE = "Research use only. Not a medical device."
app = typer.Typer(
    name="medpanoptic",
    help=f"Panoptic segmentation of medical images in 2D and 3D. {NOTICE}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Option("--model", "-m", help="A shipped model's name or a bundle folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one.")]
Formats = Annotated[str, typer.Option("--format", "-f", help="Names with commas between; see docs/formats.md.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")]
PixelSize = Annotated[float | None, typer.Option(help="Pixel size of 2D images, in place of the file's.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error becomes one line on stderr and exit status 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=words, prog_name="medpanoptic")
    except Exception as error:  # the last border: a person gets a line, not a traceback
        if "--debug" in words:
            raise
        say_error(error)
        sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medpanoptic {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; they may hold values of the input.")] = False,
) -> None:
    pass  # both options act elsewhere: in _show_version, in main and in segment


# ---- commands


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models that are there: what each takes and finds."""
    from medpanoptic.bundle import list_bundles

    rows = [_model_row(bundle) for bundle in list_bundles()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = new_table("model", "version", "dims", "takes", "things", "stuff")
    for row in rows:
        takes = ", ".join(c["name"] if c["required"] else f"({c['name']})" for c in row["channels"])
        cells = (
            row["name"],
            row["version"],
            f"{row['spatial_dims']}D",
            takes,
            *map(", ".join, (row["things"], row["stuff"])),
        )
        table.add_row(*map(escape, cells))
    print_table(table)


@app.command()
def segment(
    context: typer.Context,
    output: Output,
    model: Model,
    inputs: Annotated[list[Path] | None, typer.Argument(help="Files, folders of images, DICOM folders.")] = None,
    device: Device = "auto",
    formats: Formats = "",
    series: Annotated[list[str] | None, typer.Option(help="Handle or CHANNEL=HANDLE; inspect lists handles.")] = None,
    pixel_size_um: PixelSize = None,
    channel: Annotated[list[str] | None, typer.Option(help="NAME=PATH, one per channel, instead of INPUT.")] = None,
) -> None:
    """Segment images and studies into OUT/CASE/; CASE is the file's stem or the folder's name.

    Without --format: nifti, csv, png, and dicom-seg for DICOM input.
    """
    from medpanoptic.cases import channel_case, find_cases

    if bool(inputs) == bool(channel):
        raise SelectionError(
            "INPUT", "give INPUT or --channel NAME=PATH, one of the two; see medpanoptic segment --help"
        )
    paths = {name: Path(path) for name, path in _pairs(channel or (), "--channel").items()}
    cases = [channel_case(paths)] if channel else find_cases(inputs or [])
    names = _format_names(formats)
    chosen = _series(series)

    from medpanoptic.segmenter import Segmenter

    segmenter = Segmenter.load(model, device=device)

    def work(case: Case, progress: Callable[[float], None]) -> str:
        return _segment_case(segmenter, case, output, names, chosen, pixel_size_um, progress)

    failed = _run_cases(cases, work, debug=context.find_root().params["debug"])
    say(NOTICE)
    raise typer.Exit(0 if not failed else 3 if failed < len(cases) else 1)


@app.command()
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


@app.command()
def train(
    bundle: Annotated[str, typer.Argument(help="A shipped model's name or a bundle folder.")],
    data: Annotated[Path, typer.Argument(help="Training data in a known layout; see docs.")],
    output: Output,
    device: Device = "cpu",
    steps: Annotated[int | None, typer.Option(help="Replaces that of the bundle's train.json.")] = None,
    seed: Annotated[int | None, typer.Option(help="Replaces that of the bundle's train.json.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch.")] = None,
    fine_tune: Annotated[bool, typer.Option("--fine-tune", help="Start from the bundle's own weights.")] = False,
) -> None:
    """Train a bundle's network; a run found in the output folder goes on where it stopped."""
    from medpanoptic.training.loop import train as run

    typer.echo(run(bundle, data, output, device=device, steps=steps, seed=seed, threads=threads, fine_tune=fine_tune))


@app.command()
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
    made = run(case, output, _format_names(formats), volume=volume)
    for path in (p for paths in made.values() for p in paths):
        typer.echo(path)


@app.command()
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


@app.command()
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


# ---- the parts of commands


def _segment_case(
    segmenter: Segmenter,
    case: Case,
    output: Path,
    names: Sequence[str],
    series: Any,
    pixel_size_um: float | None,
    progress: Callable[[float], None],
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
    )
    for note in result.provenance.parameters["notes"]:
        say(f"note {case.name}: {note}")
    for doubt in result.provenance.parameters["warnings"]:
        say(f"warning [{doubt['code']}] {case.name}: {doubt['text']}")
    return f"{output / case.name}: {_counts(result)}"


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


def _counts(result: PanopticResult) -> str:
    """43 nucleus, 2 stuff classes."""
    names = [result.classes[s.class_id].name for s in result.things]
    things = [f"{names.count(c.name)} {c.name}" for c in result.classes.things]
    return ", ".join(things)


def _model_row(bundle: Bundle) -> dict[str, Any]:
    """What ``models --json`` prints for one bundle."""
    return {
        "name": bundle.name,
        "version": bundle.version,
        "description": bundle.description,
        "spatial_dims": bundle.spatial_dims,
        "channels": [vars(c) for c in bundle.channels],
        "things": [c.name for c in bundle.classes.things],
        "stuff": [c.name for c in bundle.classes.stuff],
        "weights_sha256": bundle.weights_sha256,
    }


def _pairs(words: Iterable[str], option: str) -> dict[str, str]:
    """["ct=a", "pet=b"] -> {"ct": "a", "pet": "b"}."""
    found = [word.partition("=") for word in words]
    wrong = [name + mark + value for name, mark, value in found if not (name and value)]
    if wrong:
        raise SelectionError("INPUT", f"{option} takes NAME=VALUE, got {wrong[0]!r}")
    return {name: value for name, _, value in found}


def _series(words: Sequence[str] | None) -> dict[str, str] | list[str] | None:
    """Handles, or CHANNEL=HANDLE pairs where any has a name."""
    if not words:
        return None
    return _pairs(words, "--series") if any("=" in w for w in words) else list(words)


def _format_names(text: str) -> list[str]:
    """Cut a list of formats; refuse unknown names before any work."""
    from medpanoptic.io import FORMATS

    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise WriteError("FORMAT-UNKNOWN", f"no format {', '.join(map(repr, unknown))}; known are {', '.join(FORMATS)}")
    return names


def _by_reason(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for reason, name in pairs:
        grouped.setdefault(reason, []).append(name)
    return grouped
