"""Run a batch: scan, plan, keep the workers busy, write down what becomes of every study."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from medpanoptic import __version__
from medpanoptic.batch.cluster import Session
from medpanoptic.batch.keys import load_key, model_hash, parameter_hash
from medpanoptic.batch.ledger import Ledger
from medpanoptic.batch.lock import only_run
from medpanoptic.batch.log import Progress, log_event, log_file
from medpanoptic.batch.loop import Loop
from medpanoptic.batch.outputs import remove_drafts
from medpanoptic.batch.plan import Wanted, plan, rebuild
from medpanoptic.batch.scan import StudyIndex, scan_inputs
from medpanoptic.batch.settings import ChildSettings, Folders, Limits, Summary
from medpanoptic.batch.stop import StopSignal
from medpanoptic.bundle import load_bundle
from medpanoptic.errors import BatchError, ReadError, WriteError


def run_batch(
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    model: str | Path,
    workers: int | None = None,
    scheduler: str | None = None,
    resume: bool = False,
    formats: Sequence[str] | None = None,
    pixel_size_um: float | None = None,
    device: str = "auto",
    gpu: bool = False,
    threads: int | None = None,
    limits: Limits | None = None,
    again: bool = False,
    key_file: str | Path | None = None,
    ledger_folder: str | Path | None = None,
    log: str | Path | None = None,
    log_level: str = "INFO",
    metrics: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    scanning: Callable[[int], None] | None = None,
) -> Summary:
    """Segment every study below ``inputs`` into ``output``/results/HANDLE; every study ends in one state with a code.

    model : a name or bundle folder. workers : child processes on this machine, default one per two cores.
    scheduler : address of a dask scheduler, whose workers see inputs and output under the same paths, instead.
    resume : go on in a folder with a ledger: only what is missing or stale is done. again : also try refused and
    quarantined studies again. formats, pixel_size_um, device : as for ``segment_file``. gpu : only on workers with the
    dask resource GPU. threads : per child, default the cores shared out. key_file : secret of the handles, default
    made in the output folder. ledger_folder : a local disk, default the output folder. log : JSON lines, default
    ``output``/batch.log. metrics : file for Prometheus. progress, scanning : called now and then.
    SIGTERM and SIGINT let running studies end; a second one does not.
    Raises BatchError (BATCH-*, LEDGER-*, OUTPUT-DISK, NO-GPU, SCHEDULER-LOST), ModelError, ReadError (NOT-FOUND),
    WriteError (FORMAT-UNKNOWN).
    """
    # before anything is made: a folder with a ledger in it would be in the way of the words put right
    for path in inputs:
        if not Path(path).exists():
            raise ReadError("NOT-FOUND", f"{path} does not exist")
    limits, cores = limits or Limits(), os.cpu_count() or 1
    workers = workers or max(1, cores // 2)
    folders = Folders(Path(output).absolute(), None if ledger_folder is None else Path(ledger_folder).absolute())
    settings = _child_settings(model, folders, formats, pixel_size_um, device, threads or max(1, cores // workers))
    run = secrets.token_hex(6)
    wanted = Wanted(run, settings.model_hash, settings.parameter_hash, again)
    with ExitStack() as stack:
        stack.enter_context(only_run(folders.output))
        ledger = stack.enter_context(closing(_open_ledger(folders, resume)))
        stack.enter_context(log_file(Path(log) if log is not None else folders.output / "batch.log", log_level))
        stop = stack.enter_context(StopSignal(limits.grace_s))
        key = load_key(folders.key if key_file is None else Path(key_file))
        index = stack.enter_context(closing(_scan(inputs, key, folders, run, scanning)))
        _begin(ledger, settings, run, workers)
        unchanged = plan(index, ledger, folders, wanted)
        loop = Loop(wanted, index, ledger, folders, limits, stop, None if metrics is None else Path(metrics), progress)
        begun = time.monotonic()
        stopped = loop.work(lambda: Session(scheduler, workers, settings, limits, gpu)) if loop.total else ""
        seconds = time.monotonic() - begun
        _end(ledger, folders, run, stopped, seconds, loop.ended)
        summary = Summary(ledger.counts(), unchanged, seconds, stopped, dict(index.skipped))
        log_event("ended", run=run, stopped=stopped, unchanged=unchanged, seconds=round(seconds, 3), **summary.counts)
    return summary


def _child_settings(
    model: str | Path,
    folders: Folders,
    formats: Sequence[str] | None,
    pixel_size_um: float | None,
    device: str,
    threads: int,
) -> ChildSettings:
    bundle = load_bundle(model)
    names = None if formats is None else tuple(_check_formats(formats))
    hashes = model_hash(bundle), parameter_hash({"formats": names, "pixel_size_um": pixel_size_um})
    return ChildSettings(
        str(bundle.folder.resolve()), str(folders.output), names, pixel_size_um, device, threads, *hashes
    )


def _scan(
    inputs: Sequence[str | Path], key: bytes, folders: Folders, run: str, scanning: Callable[[int], None] | None
) -> StudyIndex:
    """Make the output folder ready, and find the studies."""
    folders.results.mkdir(exist_ok=True)
    folders.work.mkdir(mode=0o700, exist_ok=True)
    if drafts := remove_drafts(folders.results, folders.work):
        log_event("drafts removed", number=drafts)
    begun = time.monotonic()
    index = scan_inputs([Path(path) for path in inputs], key, folders.output, scanning)
    seconds = round(time.monotonic() - begun, 3)
    log_event("scanned", run=run, files=index.files, skipped=dict(index.skipped), seconds=seconds)
    return index


def _begin(ledger: Ledger, settings: ChildSettings, run: str, workers: int) -> None:
    ledger.begin_run(
        run,
        model=Path(settings.model).name,
        model_hash=settings.model_hash,
        parameter_hash=settings.parameter_hash,
        parameters=f"formats={','.join(settings.formats or ('usual',))} pixel_size_um={settings.pixel_size_um}",
        software=__version__,
        workers=workers,
    )


def _end(ledger: Ledger, folders: Folders, run: str, stopped: str, seconds: float, ended: int) -> None:
    remove_drafts(folders.results, folders.work)
    ledger.end_run(run, stopped, seconds, ended)
    ledger.export(folders.output / "ledger.jsonl")


def _check_formats(formats: Sequence[str]) -> Sequence[str]:
    from medpanoptic.io import FORMATS

    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise WriteError("FORMAT-UNKNOWN", f"no format {', '.join(unknown)}; known are {', '.join(FORMATS)}")
    return formats


def _open_ledger(folders: Folders, resume: bool) -> Ledger:
    """Open or make the ledger. A damaged one is put aside and made again from the results, if going on was asked for.

    Raises BatchError (BATCH-EXISTS).
    """
    if folders.ledger.exists() and not resume:
        raise BatchError("BATCH-EXISTS", f"{folders.output} holds a batch; go on with --resume or name another folder")
    exists = folders.ledger.exists()
    try:
        ledger = Ledger(folders.ledger)
    except BatchError as error:
        if error.code != "LEDGER-DAMAGED":
            raise
        aside = folders.ledger.with_name(f"{folders.ledger.name}.damaged-{secrets.token_hex(3)}")
        folders.ledger.rename(aside)
        for suffix in ("-wal", "-shm"):
            folders.ledger.with_name(folders.ledger.name + suffix).unlink(missing_ok=True)
        ledger, exists = Ledger(folders.ledger), False
    if not exists:
        rebuild(ledger, folders)
    return ledger
