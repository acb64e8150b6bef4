"""``medpanoptic batch``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from medpanoptic.cli.options import NOTICE, Device, Formats, Model, Output, PixelSize, format_names
from medpanoptic.console import say, say_error
from medpanoptic.errors import BatchError

if TYPE_CHECKING:
    from medpanoptic.batch.log import Progress as Figures


def batch(
    inputs: Annotated[list[Path], typer.Argument(help="Folders, of any depth, and files.")],
    output: Output,
    model: Model,
    workers: Annotated[int | None, typer.Option(help="Worker processes here; default one per two cores.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a dask scheduler to work with instead.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on in OUT: do what is missing or stale.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also try refused and quarantined studies again.")] = False,
    formats: Formats = "",
    pixel_size_um: PixelSize = None,
    device: Device = "auto",
    gpu: Annotated[bool, typer.Option("--gpu", help="Only on workers with the dask resource GPU.")] = False,
    threads: Annotated[int | None, typer.Option(help="Threads per worker; default the cores shared out.")] = None,
    deadline: Annotated[float, typer.Option(help="Seconds for one attempt at a study.")] = 1800,
    memory_gb: Annotated[float | None, typer.Option(help="Memory cap of a worker process, GiB.")] = None,
    attempts: Annotated[int, typer.Option(help="Tries of a study that kills its worker or fails in passing.")] = 3,
    key: Annotated[Path | None, typer.Option(help="File with the key of the handles; default OUT/batch.key.")] = None,
    ledger: Annotated[Path | None, typer.Option(help="Folder on a local disk for the ledger; default OUT.")] = None,
    log: Annotated[Path | None, typer.Option(help="Log of JSON lines; default OUT/batch.log.")] = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO or WARNING.")] = "INFO",
    metrics: Annotated[Path | None, typer.Option(help="Write figures for Prometheus to this file.")] = None,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Show patient images in OUT/report.html.")] = False,
) -> None:
    """Segment thousands of studies unattended; each ends in one state with a code. See docs/batch.md.

    Results in OUT/results/HANDLE, a report in OUT/report.html; watch with medpanoptic status OUT.
    """
    from medpanoptic.batch import Limits, run_batch
    from medpanoptic.batch.report import write_report

    names = format_names(formats) or None
    limits = Limits(deadline_s=deadline, memory_gb=memory_gb, attempts=attempts)
    with _Bar() as bar:
        summary = run_batch(
            inputs,
            output,
            model=model,
            workers=workers,
            scheduler=scheduler,
            resume=resume,
            again=again,
            formats=names,
            pixel_size_um=pixel_size_um,
            device=device,
            gpu=gpu,
            threads=threads,
            limits=limits,
            key_file=key,
            ledger_folder=ledger,
            log=log,
            log_level=log_level.upper(),
            metrics=metrics,
            progress=bar.show,
            scanning=bar.show_scan,
        )
    typer.echo(", ".join(f"{number} {state}" for state, number in summary.counts.items() if number) or "no studies")
    say(f"{summary.unchanged} unchanged; report: {write_report(output, ledger_folder=ledger, thumbnails=thumbnails)}")
    for reason, number in sorted(summary.skipped.items()):
        say(f"skipped {number} file(s): {reason}")
    if summary.stopped:
        say_error(BatchError(summary.stopped, "the batch ended early; go on with --resume"))
    say(NOTICE)
    raise typer.Exit(summary.status)


class _Bar(Progress):
    """Studies done, their rate and the time left, on stderr."""

    def __init__(self) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        super().__init__(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
        self._task = self.add_task("scanning", total=None)

    def show_scan(self, files: int) -> None:
        """Show how many files were looked at."""
        self.update(self._task, description=f"scanning: {files} files")

    def show(self, figures: Figures) -> None:
        """Show how far the batch is."""
        from medpanoptic.batch.report import clock

        left = "" if figures.eta_s is None else f", {clock(figures.eta_s)} left"
        rate = f"{figures.running} running, {figures.per_hour:.0f} per hour{left}"
        self.update(self._task, total=figures.total, completed=figures.ended, description=rate)
