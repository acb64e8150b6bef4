"""The process that segments: it takes requests and gives replies, both JSON, on the pipes it is started with.

What can kill a process (a codec, the allocator, the kernel) kills only this one. Where the system can fork, the process
that was started loads the libraries and forks the one that works; if that dies, the next is there in milliseconds.
Its standard output and error go nowhere: libraries quote tag values there.

    {"open": settings}                          -> {"pid": 4711, "model_hash": ...} or {"failure": code}
    {"study": ..., "window_divisor": 1, ...}    -> {"stage": "read"} ... {"outcome": fields}
    {"recycle": true}                           -> the worker makes room for a fresh one
"""

from __future__ import annotations

import errno
import json
import os
import queue
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from medpanoptic.batch.outputs import remove_marker, write_marker
from medpanoptic.batch.settings import DONE, EMPTY, ChildSettings, Folders, Outcome, Study
from medpanoptic.batch.stage import InputChangedError, check_unchanged, staged
from medpanoptic.errors import BatchError, MedpanopticError, ModelError, ReadError, WriteError
from medpanoptic.stages import Stages

if TYPE_CHECKING:
    from medpanoptic.segmenter import Segmenter

RECYCLED = 75  # exit status of a worker that was asked to go


class Pipes:
    """The two ends of the conversation; a closed request pipe ends the process at once, whatever it is doing."""

    def __init__(self, requests: BinaryIO, replies: BinaryIO) -> None:
        self._requests, self._replies = requests, replies
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def say(self, **message: Any) -> None:
        """Send one line; a reader that is gone ends the process."""
        try:
            self._replies.write(json.dumps(message).encode() + b"\n")
            self._replies.flush()
        except OSError:
            os._exit(0)

    def listen(self) -> None:
        """Read requests in a thread of its own."""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        # the length in a line, then the request: nothing that belongs to a next process is read ahead
        while line := self._requests.readline():
            body = b""
            while part := self._requests.read(int(line) - len(body)):
                body += part
            self._lines.put(body)
        # the one who asked is gone: nobody waits for a result
        os._exit(0)

    def next(self) -> dict[str, Any]:
        """Wait for a request."""
        request: dict[str, Any] = json.loads(self._lines.get())
        return request


def main() -> None:
    """Serve until the request pipe closes."""
    pipes = _private_pipes()
    for name in ("SIGINT", "SIGTERM"):  # stopping is the client's business, which then closes the pipe
        with suppress(ValueError):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _load_libraries()
    if not hasattr(os, "fork"):
        serve(pipes)
    while True:
        worker = os.fork()
        if worker == 0:
            serve(pipes)
        status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        if status == 0:  # the one who asked is gone; to tidy up all these libraries would take seconds
            os._exit(0)
        pipes.say(died=status)


def serve(pipes: Pipes) -> None:
    """Answer requests; never returns."""
    pipes.listen()
    opened: tuple[Segmenter, ChildSettings] | None = None
    while True:
        request = pipes.next()
        if "recycle" in request:
            os._exit(RECYCLED)
        if "open" in request:
            try:
                opened = _open(request["open"])
            except MedpanopticError as error:
                pipes.say(failure=error.code)
                continue
            pipes.say(pid=os.getpid())
        elif opened is not None:
            outcome = attempt(request, *opened, lambda name: pipes.say(stage=name))
            pipes.say(outcome=asdict(outcome))


def attempt(
    request: dict[str, Any], segmenter: Segmenter, settings: ChildSettings, tell: Callable[[str], None]
) -> Outcome:
    """Work on one study; every error becomes an outcome, and no text of an exception goes further."""
    from medpanoptic.io.dicom_files import quiet_pydicom

    stages = _ToldStages(tell)
    files = tuple((path, size, mtime_ns) for path, size, mtime_ns in request["files"])
    study = Study(request["study"], request["kind"], files, request["fingerprint"])
    try:
        with quiet_pydicom():  # once for the study: each file of it is then read with less ado
            made = _segment(study, request, segmenter, settings, stages)
    except Exception as error:
        kind, code = classify(error, stages.name)
        made = Outcome(kind=kind, code=code, stage=stages.name)
    return replace(made, seconds={name: round(seconds, 4) for name, seconds in stages.seconds.items()})


def classify(error: Exception, stage: str) -> tuple[str, str]:
    """Return whose fault an exception is, and its code. See ``Outcome.kind``."""
    if isinstance(error, InputChangedError):
        return "transient", "INPUT-CHANGED"
    if isinstance(error, MemoryError):
        return "memory", "OUT-OF-MEMORY"
    if isinstance(error, ModelError):
        if error.code == "OUT-OF-MEMORY":
            return "memory", error.code
        return ("refused" if error.code.startswith("INPUT-") else "fatal"), error.code
    if isinstance(error, ReadError):
        return "refused", error.code
    if isinstance(error, WriteError):
        if error.code == "WRITE-OS":
            return "output", _disk_code(error.__cause__)
        return ("refused" if error.code in {"FORMAT-NDIM", "FORMAT-NEEDS-DICOM"} else "failed"), error.code
    if isinstance(error, MedpanopticError):
        return "failed", error.code
    if isinstance(error, OSError):
        code = _disk_code(error)
        return ("output", code) if stage == "write" or code == "DISK-FULL" else ("transient", "INPUT-OS")
    return "failed", f"INTERNAL-{type(error).__name__}"


def _disk_code(error: BaseException | None) -> str:
    """Tell a full or read-only disk from other failures to write."""
    full = {errno.ENOSPC, errno.EROFS, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
    return "DISK-FULL" if isinstance(error, OSError) and error.errno in full else "WRITE-OS"


def _segment(
    study: Study, request: dict[str, Any], segmenter: Segmenter, settings: ChildSettings, stages: _ToldStages
) -> Outcome:
    from medpanoptic.segmenter import segment_file

    folders = Folders(Path(settings.output))
    target = folders.results / study.handle
    stages.before_write = lambda: remove_marker(target)
    with ExitStack() as stack:
        with stages("stage"):
            path, digest = stack.enter_context(staged(study, folders.work))
        if digest == request["known_digest"]:
            return Outcome("unchanged", input_digest=digest)
        divisor = int(request["window_divisor"])
        result = segment_file(
            path,
            _with_windows(segmenter, divisor),
            target,
            formats=settings.formats,
            pixel_size_um=settings.pixel_size_um,
            stages=stages,
        )
        with stages("mark"):
            for file in study.files:
                check_unchanged(*file)
            fallbacks = [f"windows 1/{divisor} as wide"] if divisor > 1 else []
            fallbacks += [f for f in [result.provenance.parameters.get("fallback")] if f]
            made = Outcome(
                DONE if result.things else EMPTY,
                input_digest=digest,
                things=len(result.things),
                fallback=", ".join(fallbacks),
            )
            return replace(made, outputs=write_marker(target, _marker(study, settings, made)))


def _marker(study: Study, settings: ChildSettings, made: Outcome) -> dict[str, Any]:
    made_fields = {name: getattr(made, name) for name in ("state", "input_digest", "things", "fallback")}
    hashes = {"model_hash": settings.model_hash, "parameter_hash": settings.parameter_hash}
    return {"study": study.handle, "kind": study.kind, "fingerprint": study.fingerprint, **made_fields, **hashes}


def _with_windows(segmenter: Segmenter, divisor: int) -> Segmenter:
    """Return the segmenter with narrower windows, which need less memory; provenance names them."""
    from medpanoptic.segmenter import Segmenter

    if divisor == 1:
        return segmenter
    window = tuple(max(1, n // divisor) for n in segmenter.bundle.window)
    return Segmenter(replace(segmenter.bundle, window=window), segmenter.network, segmenter.device)


def _open(fields: dict[str, Any]) -> tuple[Segmenter, ChildSettings]:
    """Load the model. Raises ModelError, BatchError (MODEL-CHANGED)."""
    import torch

    from medpanoptic.batch.keys import model_hash
    from medpanoptic.segmenter import Segmenter

    settings = ChildSettings(**fields)
    torch.set_num_threads(settings.threads)
    segmenter = Segmenter.load(settings.model, settings.device)
    if model_hash(segmenter.bundle) != settings.model_hash:
        raise BatchError("MODEL-CHANGED", "the model on this worker is not the one that the batch was started with")
    return segmenter, settings


class _ToldStages(Stages):
    """Stages whose names are told when they begin; ``name`` is the last that began."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.name, self._tell = "", tell
        self.before_write: Callable[[], None] = lambda: None

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.name = name
        self._tell(name)
        if name == "write":
            self.before_write()
        with super().__call__(name):
            yield


def _load_libraries() -> None:
    """Import what takes seconds, before the fork; nothing is computed yet, so no thread pool exists."""
    warnings.simplefilter("ignore")
    import highdicom
    import safetensors.torch  # noqa: F401
    import SimpleITK  # noqa: F401
    from PIL import ImageDraw, ImageFont  # noqa: F401
    from pydicom.uid import SegmentationStorage

    import medpanoptic.io.dicom_seg
    import medpanoptic.io.overlay
    import medpanoptic.networks.build
    import medpanoptic.segmenter  # noqa: F401

    # highdicom reads its tables of modules when it makes its first object
    highdicom.SOPClass("1.2", "1.3", 1, "1.4", SegmentationStorage, 1, "SEG", manufacturer="medpanoptic")


def _private_pipes() -> Pipes:
    """Keep standard input and output for the conversation, and give libraries the null device in their place."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    # unbuffered: after a fork, what one process has read ahead would be lost to the next
    return Pipes(os.fdopen(requests, "rb", buffering=0), os.fdopen(replies, "wb", buffering=0))


if __name__ == "__main__":
    main()
