"""Workers of a dask cluster that exists already: started, killed and restarted as processes by these tests."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_batch import study_uid, wait_for, workers_of, write_study

from medpanoptic.batch import Limits, Summary, run_batch
from medpanoptic.errors import BatchError

Outcome = Callable[[str, str, str], None]
LIMITS = Limits(backoff_s=0.05, min_free_mb=1, worker_timeout_s=300)


class Dask:
    """Processes of ``dask scheduler`` and ``dask worker`` on this machine, on a port of their own."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address, self.log, self._all = f"tcp://127.0.0.1:{self.port}", log, []  # type: ignore[var-annotated]

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "dask", *words]
            self._all.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self.log.parent))
        return self._all[-1]

    def scheduler(self) -> subprocess.Popen[bytes]:
        process = self.start("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")
        wait_for(self.answers, 300)
        return process

    def answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def worker(self) -> subprocess.Popen[bytes]:
        words = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
        return self.start("worker", self.address, *words)

    def stop(self) -> None:
        for process in self._all:
            process.kill()
            process.wait()


@pytest.fixture
def dask_(tmp_path: Path) -> Iterator[Dask]:
    found = Dask(tmp_path / "dask.log")
    yield found
    found.stop()


class Batch(threading.Thread):
    """A batch in a thread, so that a test can meddle with its cluster."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__()
        self._words, self._options = words, options
        self.summary: Summary | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.summary = run_batch(*self._words, **self._options)
        except Exception as error:
            self.error = error

    def end(self, seconds: float = 1200) -> Summary:
        self.join(seconds)
        assert self.error is None
        assert self.summary is not None
        return self.summary


def test_a_worker_or_scheduler_that_dies_costs_no_study(
    tmp_path: Path, tiny_model: Path, dask_: Dask, outcome: Outcome
) -> None:
    for number in range(3):
        write_study(tmp_path / "in" / f"ZZPLANTED {number}", number, PatientName="ZZPLANTED")
    out = tmp_path / "out"
    first = dask_.scheduler()
    batch = Batch([tmp_path / "in"], out, model=tiny_model, scheduler=dask_.address, limits=LIMITS, threads=1)
    # no worker yet: the batch waits, and finds the scheduler again after a restart
    wait_for(lambda: "Receive client connection" in dask_.log.read_text("utf-8"), 300)
    first.kill()
    first.wait()
    dask_.scheduler()
    worker = dask_.worker()
    child = wait_for(lambda: list(workers_of(out)), 600)[0]
    worker.kill()
    assert not psutil.wait_procs([child], timeout=60)[1]
    dask_.worker()
    summary = batch.end()
    assert (summary.status, summary.stopped) == (0, "")
    assert len(list((out / "results").glob("*/batch.json"))) == 3
    assert not list((out / "results").glob(".*"))
    # what the cluster logs is read by many
    said = dask_.log.read_text("utf-8")
    assert not [word for word in ("ZZPLANTED", study_uid(0)) if word in said]
    outcome(
        "dask worker killed",
        "its children end with it; its studies run on another worker",
        "SIGKILL",
    )
    outcome(
        "scheduler restart",
        "the client finds it again and hands out anew what was running",
        "SIGKILL, started again",
    )


def test_no_worker_that_fits_ends_the_run(tmp_path: Path, tiny_model: Path, dask_: Dask, outcome: Outcome) -> None:
    write_study(tmp_path / "in", 1)
    options: dict[str, Any] = {"model": tiny_model, "scheduler": dask_.address, "resume": True}
    options["limits"] = Limits(min_free_mb=1, worker_timeout_s=1)
    with pytest.raises(BatchError, match="SCHEDULER-LOST"):
        run_batch([tmp_path / "in"], tmp_path / "out", **options)
    dask_.scheduler()
    worker = dask_.worker()
    summary = run_batch([tmp_path / "in"], tmp_path / "out", gpu=True, **options)
    assert (summary.stopped, summary.status, summary.counts["queued"]) == ("NO-WORKER", 4, 1)
    assert worker.poll() is None
    outcome(
        "no GPU worker",
        "NO-WORKER after 60 s (NO-GPU at once on one machine); the studies stay queued",
        "a cluster without the resource",
    )


def test_a_gpu_asked_for_and_not_there_is_named(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path / "in", 1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(BatchError, match=r"NO-GPU"):
        run_batch([tmp_path / "in"], tmp_path / "out", model=tiny_model, gpu=True)


def test_nothing_listens_beyond_loopback(tmp_path: Path) -> None:
    from medpanoptic.batch.cluster import Session
    from medpanoptic.batch.settings import ChildSettings

    session = Session(None, 2, ChildSettings(str(tmp_path), str(tmp_path)), Limits())
    try:
        assert session.slots() == 2
        listening = [c.laddr.ip for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
        assert set(listening) <= {"127.0.0.1"}
    finally:
        session.close()
