"""What a batch is asked to do, what one study is, and what came of it all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

QUEUED, RUNNING = "queued", "running"
DONE, EMPTY = "done", "done-empty"
REFUSED, FAILED, QUARANTINED = "refused", "failed", "quarantined"
# every study ends in one of the last five
STATES = (QUEUED, RUNNING, DONE, EMPTY, REFUSED, FAILED, QUARANTINED)
OPEN, FINISHED = (QUEUED, RUNNING), (DONE, EMPTY)


@dataclass(frozen=True)
class Limits:
    """What a study may cost, and how often it is tried.

    deadline_s : seconds of one attempt, from reading to written. memory_gb : resident memory (GiB) of a worker child.
    attempts : of a study whose child dies or hangs (then quarantined) or that fails for a passing reason.
    studies_per_child : a child is replaced after so many. worker_timeout_s : how long to wait for a worker that fits,
    or for a scheduler to come back. grace_s : after a signal to stop, how long running studies may take to end.
    backoff_s : pause before the second attempt; doubled for each further one.
    min_free_mb : with less room (MiB) in the output folder no study is started.
    """

    deadline_s: float = 1800.0
    memory_gb: float | None = None
    attempts: int = 3
    studies_per_child: int = 200
    worker_timeout_s: float = 60.0
    grace_s: float = 300.0
    backoff_s: float = 2.0
    min_free_mb: float = 200.0


@dataclass(frozen=True)
class Study:
    """The files of one study: (path, bytes, modification time in ns) each, and their keyed ``fingerprint``.

    ``repr`` holds no path, so that a scheduler's logs cannot either.
    """

    handle: str
    kind: str
    files: tuple[tuple[str, int, int], ...] = field(repr=False)
    fingerprint: str = ""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(size for _, size, _ in self.files)


@dataclass(frozen=True)
class ChildSettings:
    """What a worker child needs to know once. ``model`` and ``output`` are absolute folders.

    formats : None for those that fit each study. threads : of torch. device : as for ``Segmenter``.
    """

    model: str = field(repr=False)
    output: str = field(repr=False)
    formats: tuple[str, ...] | None = None
    pixel_size_um: float | None = None
    device: str = "auto"
    threads: int = 1
    model_hash: str = ""
    parameter_hash: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt.

    state : "done", "done-empty", "unchanged" (nothing to do), or "" where it failed; then ``kind`` says whose fault:
    refused (the input's), transient, memory, crash (of the child), output (the disk's), fatal (of the set-up),
    failed (ours).
    seconds : per stage. peak_mb : resident memory of the child. outputs : file name -> SHA-256.
    """

    state: str = ""
    kind: str = ""
    code: str = ""
    stage: str = ""
    input_digest: str = ""
    things: int = 0
    outputs: Mapping[str, str] = field(default_factory=dict)
    fallback: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    duration_s: float = 0.0
    peak_mb: float = 0.0
    worker: str = ""
    signal: int = 0


@dataclass(frozen=True)
class Summary:
    """How a batch ended. ``counts`` : studies per state; ``unchanged`` : done before and still current.

    stopped : "" or the code of what ended it early (STOPPED by a signal, DISK-FULL, SCHEDULER-LOST ...).
    skipped : files that are no study, by reason.
    """

    counts: Mapping[str, int]
    unchanged: int
    seconds: float
    stopped: str = ""
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """Exit status: 0 all done, 1 nothing done, 3 some studies failed, 4 ended early: run again to go on."""
        if self.stopped:
            return 4
        bad = sum(self.counts.get(state, 0) for state in (REFUSED, FAILED, QUARANTINED))
        good = sum(self.counts.get(state, 0) for state in FINISHED)
        return 0 if not bad else 3 if good else 1


@dataclass(frozen=True)
class Folders:
    """Where things lie in the output folder of a batch."""

    output: Path
    ledger_folder: Path | None = None

    @property
    def results(self) -> Path:
        """One result folder per study, named by its handle."""
        return self.output / "results"

    @property
    def work(self) -> Path:
        """Inputs of running studies, under neutral names; empty between runs."""
        return self.output / ".work"

    @property
    def ledger(self) -> Path:
        """The SQLite file."""
        return (self.ledger_folder or self.output) / "ledger.sqlite"

    @property
    def key(self) -> Path:
        """The secret key of the handles."""
        return self.output / "batch.key"


def as_row(outcome: Outcome) -> dict[str, Any]:
    """Return the plain fields of an outcome for log and ledger."""
    return {name: getattr(outcome, name) for name in ("code", "stage", "fallback", "things", "worker", "signal")} | {
        "duration_s": round(outcome.duration_s, 4),
        "peak_mb": round(outcome.peak_mb, 1),
    }
