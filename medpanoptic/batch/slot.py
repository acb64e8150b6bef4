"""One worker slot: a child process that segments, watched over, and replaced whenever it has to be."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import psutil

from medpanoptic.batch.settings import ChildSettings, Limits, Outcome, Study

_POLL_S = 0.05
_START_S = 600.0  # to import the libraries and load the model: on a slow disk, on a machine with much else to do
_START_ATTEMPTS = 3
_DIE_S = 10.0
_SEGFAULTS = {"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE"}
_WINDOWS_SEGFAULT = 0xC0000005


class Slot:
    """Runs one study at a time in a child that outlives it, with a deadline and a cap on memory."""

    def __init__(self, settings: ChildSettings, limits: Limits) -> None:
        self._settings, self.limits = settings, limits
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._worker: psutil.Process | None = None
        self._done = 0
        self._stopping = threading.Event()

    def run(self, study: Study, divisor: int = 1, known_digest: str = "") -> Outcome:
        """Work on a study; whatever happens to the child becomes an outcome. Never raises for what an input does.

        divisor : windows are so much narrower than the model's. known_digest : content for which nothing is to do.
        """
        begun = time.monotonic()
        if self._done >= self.limits.studies_per_child:
            self._recycle()
        if code := self._open():
            return Outcome(kind="fatal", code=code, duration_s=time.monotonic() - begun)
        request: dict[str, Any] = {"study": study.handle, "kind": study.kind, "files": study.files}
        request |= {"fingerprint": study.fingerprint, "window_divisor": divisor, "known_digest": known_digest}
        kills, started = _oom_kills(), time.monotonic()
        self._send(request)
        outcome = self._watch(started, kills)
        self._done += 1
        return replace(outcome, duration_s=time.monotonic() - started)

    def close(self) -> None:
        """End the child at once; a study that it works on comes back as stopped."""
        self._stopping.set()
        self._kill_worker()
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(_DIE_S)

    # ---- watching

    def _watch(self, started: float, kills: int) -> Outcome:
        stage, peak, verdict, killed = "", 0.0, "", 0.0
        while True:
            message = self._next(_POLL_S)
            peak = max(peak, self._resident_mb())
            if message is None:  # nothing yet
                if not verdict and (verdict := self._overrun(started, peak)):
                    self._kill_worker()
                    killed = time.monotonic()
                elif verdict and time.monotonic() - killed > _DIE_S:
                    self._give_up()  # a process that cannot die, in a system call that never returns
                    return Outcome(kind="crash", code=verdict, stage=stage, peak_mb=peak, signal=9)
            elif "stage" in message:
                stage = message["stage"]
            elif "outcome" in message:
                return replace(Outcome(**message["outcome"]), peak_mb=peak)
            elif "died" in message:
                self._worker, self._done = None, 0
                died = _died(message["died"], verdict, _oom_kills() > kills, self._stopping.is_set())
                return replace(died, stage=stage, peak_mb=peak)

    def _overrun(self, started: float, peak_mb: float) -> str:
        if self.limits.memory_gb is not None and peak_mb > self.limits.memory_gb * 1024:
            return "MEMORY-CAP"
        return "DEADLINE" if time.monotonic() - started > self.limits.deadline_s else ""

    def _resident_mb(self) -> float:
        try:
            return self._worker.memory_info().rss / 2**20 if self._worker is not None else 0.0
        except psutil.Error:
            return 0.0

    def _next(self, timeout: float) -> dict[str, Any] | None:
        """Return the next message; None if there is none yet. A closed pipe is a death like any other."""
        try:
            message = self._replies.get(timeout=timeout)
        except queue.Empty:
            return None
        if message is not None:
            return message
        self._kill_worker()
        process, self._process = self._process, None
        return {"died": process.wait(_DIE_S) if process is not None else -9}

    # ---- starting and ending

    def _open(self) -> str:
        """Make sure that a child with the model loaded is there; return "" or the code of what is wrong."""
        for _ in range(_START_ATTEMPTS):
            if self._stopping.is_set():
                return "STOPPED"
            if self._process is None:
                self._start()
            if self._worker is not None:
                return ""
            self._send({"open": asdict(self._settings)})
            message = self._wait(_START_S)
            if message is None:
                self._give_up()
            elif "failure" in message:
                return str(message["failure"])
            elif "pid" in message:
                with suppress(psutil.Error):
                    self._worker, self._done = psutil.Process(message["pid"]), 0
                    return ""
        return "CHILD-START"

    def _start(self) -> None:
        threads = str(self._settings.threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
        self._process = subprocess.Popen(
            # -P: nothing is imported from the folder that the batch was started in
            [sys.executable, "-P", "-m", "medpanoptic.batch.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **dict.fromkeys(names, threads)},
            # Ctrl-C in a terminal is for the client alone
            start_new_session=True,
        )
        self._replies = queue.SimpleQueue()
        reader = threading.Thread(target=_read, args=(self._process.stdout, self._replies), daemon=True)
        reader.start()

    def _wait(self, timeout: float) -> dict[str, Any] | None:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self._stopping.is_set():
                return None
            if (message := self._next(_POLL_S)) is not None:
                return message
        return None

    def _recycle(self) -> None:
        if self._worker is not None:
            self._send({"recycle": True})
            if self._wait(_DIE_S) is None:
                self._give_up()
        self._worker, self._done = None, 0

    def _send(self, request: dict[str, Any]) -> None:
        body = json.dumps(request).encode()
        if self._process is not None and self._process.stdin is not None:
            # a child that is gone shows as the end of its replies
            with suppress(OSError):
                self._process.stdin.write(b"%d\n%b" % (len(body), body))
                self._process.stdin.flush()

    def _kill_worker(self) -> None:
        if self._worker is not None:
            with suppress(psutil.Error):
                self._worker.kill()

    def _give_up(self) -> None:
        self._kill_worker()
        if self._process is not None:
            self._process.kill()
        self._process, self._worker, self._done = None, None, 0


def _read(replies: IO[bytes] | None, lines: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Hand on each message of a child, then None."""
    for line in replies or ():
        # a process killed while it writes leaves half a line
        with suppress(ValueError):
            lines.put(json.loads(line))
    lines.put(None)


def _died(status: int, verdict: str, out_of_memory: bool, stopping: bool) -> Outcome:
    """Classify the death of a child. status : as subprocess gives it, -N for signal N."""
    number = -status if status < 0 else 0
    if stopping:
        return Outcome(kind="transient", code="STOPPED", signal=number)
    if verdict == "MEMORY-CAP" or (number == 9 and not verdict and out_of_memory):
        return Outcome(kind="memory", code=verdict or "OUT-OF-MEMORY", signal=number)
    if verdict:
        return Outcome(kind="crash", code=verdict, signal=number)
    name = signal.Signals(number).name if number in set(signal.Signals) else ""
    if name in _SEGFAULTS or status & 0xFFFFFFFF == _WINDOWS_SEGFAULT:
        return Outcome(kind="crash", code="CHILD-SEGFAULT", signal=number)
    code = {"SIGABRT": "CHILD-ABORTED", "SIGKILL": "CHILD-KILLED"}.get(name, "CHILD-EXIT")
    return Outcome(kind="crash", code=code, signal=number)


def _oom_kills() -> int:
    """Return how often the kernel has killed a process for memory; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
