"""The loop of a batch: a bounded window of studies at the workers, and what follows from each outcome."""

from __future__ import annotations

import heapq
import json
import logging
import queue
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medpanoptic.batch.cluster import Session, SessionLostError
from medpanoptic.batch.ledger import Ledger
from medpanoptic.batch.log import Progress, log_event, write_metrics
from medpanoptic.batch.outputs import read_marker, remove_drafts
from medpanoptic.batch.plan import Wanted, marker_fields
from medpanoptic.batch.policy import Tries, Verdict, decide
from medpanoptic.batch.scan import StudyIndex
from medpanoptic.batch.settings import QUEUED, Folders, Limits, Outcome, as_row
from medpanoptic.batch.stop import StopSignal
from medpanoptic.errors import BatchError

_TICK_S = 0.2
_METRICS_S, _METRICS_SHARE = 5.0, 0.05  # how often figures are written, and the share of the time it may take
_SLOTS_S = 2.0  # how often the number of workers is asked for
# studies at the workers per slot: the next one is there when a slot comes free
_WINDOW = 2


@dataclass(frozen=True)
class Ticket:
    """A study on its way, and what it has been through."""

    handle: str
    tries: Tries = field(default_factory=Tries)


class Loop:
    """The state of one run. ``total`` : studies to do; ``ended`` : of those, how many came to an end."""

    def __init__(
        self,
        wanted: Wanted,
        index: StudyIndex,
        ledger: Ledger,
        folders: Folders,
        limits: Limits,
        stop: StopSignal,
        metrics: Path | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._wanted, self._index, self._ledger, self._folders = wanted, index, ledger, folders
        self._limits, self._stop, self._metrics, self._report = limits, stop, metrics, progress
        self.total, self.ended = ledger.counts()[QUEUED], 0
        self._running: dict[Any, Ticket] = {}  # future -> ticket
        self._waiting: list[tuple[float, int, Ticket]] = []
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopped, self._sequence = "", 0
        self._slots, self._slots_seen, self._slots_asked = 0, time.monotonic(), 0.0
        self._begun, self._metrics_due = time.monotonic(), 0.0

    def work(self, connect: Callable[[], Session]) -> str:
        """Work until nothing is left; return "" or the code of what ended the run before that.

        connect : makes a session; called again if the scheduler goes away.
        """
        session = self._connect(connect)
        try:
            while True:
                try:
                    self._fill(session)
                    if not self._running and (self._stopped or self._is_over()):
                        return self._stopped
                    if self._stop.at_once:
                        return "STOPPED"
                    with suppress(queue.Empty):
                        self._finish(self._done.get(timeout=_TICK_S))
                except SessionLostError:
                    session = self._reconnect(session, connect)
                self._tell()
        except BatchError as error:
            log_event("run ended", logging.ERROR, code=error.code)
            if error.code.startswith("LEDGER-"):
                raise
            return error.code
        finally:
            session.close()
            self._tell(last=True)

    def _connect(self, connect: Callable[[], Session]) -> Session:
        """Make a session; a scheduler that is being restarted is waited for. Raises BatchError (SCHEDULER-LOST)."""
        end = time.monotonic() + self._limits.worker_timeout_s
        while True:
            try:
                return connect()
            except BatchError as error:
                if error.code != "SCHEDULER-LOST" or self._stop.wanted or time.monotonic() > end:
                    raise
            time.sleep(_TICK_S)

    def _is_over(self) -> bool:
        return not self._waiting and self._ledger.first(QUEUED) is None

    # ---- handing out

    def _fill(self, session: Session) -> None:
        """Keep the window full, unless the run is to end."""
        self._ask_slots(session)
        if self._stop.wanted and not self._stopped:
            self._stopped = "STOPPED"
            log_event("stopping", running=len(self._running))
        while not self._stopped and len(self._running) < _WINDOW * self._slots:
            if shutil.disk_usage(self._folders.output).free < self._limits.min_free_mb * 2**20:
                self._stopped = "DISK-FULL"
            elif (ticket := self._next()) is None:
                return
            else:
                self._submit(session, ticket)

    def _ask_slots(self, session: Session) -> None:
        now = time.monotonic()
        if self._slots and now - self._slots_asked < _SLOTS_S:
            return
        self._slots, self._slots_asked = session.slots(), now
        if self._slots:
            self._slots_seen = now
        elif now - self._slots_seen > self._limits.worker_timeout_s:
            raise BatchError("NO-WORKER", "no worker that fits has come; start one, with --resources GPU=1 for --gpu")

    def _next(self) -> Ticket | None:
        """Return a study whose pause is over, or the next of the queue."""
        if self._waiting and self._waiting[0][0] <= time.monotonic():
            return heapq.heappop(self._waiting)[2]
        handle = self._ledger.first(QUEUED)
        return None if handle is None else Ticket(handle)

    def _submit(self, session: Session, ticket: Ticket) -> None:
        row = self._ledger.get(ticket.handle) or {}
        self._ledger.start(ticket.handle)
        study = self._index.study(ticket.handle)
        try:
            future = session.submit(study, ticket.tries.divisor, row.get("input_digest") or "", self._done.put)
        except SessionLostError:
            self._again(ticket, 0.0)
            raise
        self._running[future] = ticket
        log_event("started", logging.DEBUG, study=ticket.handle, files=len(study.files), bytes=study.bytes)

    # ---- taking back

    def _finish(self, future: Any) -> None:
        ticket = self._running.pop(future, None)
        if ticket is None:
            return  # of a session that is gone; its study was handed out again
        outcome = _outcome(future)
        if outcome.code in {"STOPPED", "SCHEDULER-LOST"}:
            self._again(ticket, 0.0)
            if outcome.code == "SCHEDULER-LOST":
                raise SessionLostError
            return
        if outcome.kind in {"crash", "memory"}:  # the child could not tidy up; in a run of weeks that fills a disk
            remove_drafts(self._folders.results, self._folders.work, ticket.handle)
        verdict = decide(outcome, ticket.tries, self._limits)
        level = logging.INFO if outcome.state else logging.WARNING
        state = verdict.state or "again"
        log_event("attempt", level, study=ticket.handle, state=state, kind=outcome.kind, **as_row(outcome))
        if verdict.state:
            self.ended += 1
            self._ledger.attempted(ticket.handle, self._wanted.run, outcome, **self._final(ticket, outcome, verdict))
        else:
            self._ledger.attempted(ticket.handle, self._wanted.run, outcome)
            self._again(Ticket(ticket.handle, verdict.tries), verdict.delay_s)
        self._stopped = self._stopped or verdict.stop

    def _final(self, ticket: Ticket, outcome: Outcome, verdict: Verdict) -> dict[str, Any]:
        """Return what the row of a study becomes. Results already there speak for themselves."""
        if outcome.state == "unchanged":
            marker = read_marker(self._folders.results / ticket.handle)
            if marker is None:
                return {"state": QUEUED, "input_digest": ""}
            # the content is that of the result, the files are others
            return {name: value for name, value in marker_fields(marker).items() if name != "fingerprint"}
        fields = {"model_hash": self._wanted.model_hash, "parameter_hash": self._wanted.parameter_hash}
        row = as_row(outcome)
        row.pop("signal")
        outputs = json.dumps(dict(outcome.outputs), sort_keys=True)
        return {**row, **fields, "state": verdict.state, "input_digest": outcome.input_digest, "outputs": outputs}

    def _again(self, ticket: Ticket, delay_s: float) -> None:
        self._sequence += 1
        heapq.heappush(self._waiting, (time.monotonic() + delay_s, self._sequence, ticket))

    def _reconnect(self, session: Session, connect: Callable[[], Session]) -> Session:
        """Find the scheduler again, and hand out anew what it was working on. Raises BatchError (SCHEDULER-LOST)."""
        log_event("scheduler lost", logging.WARNING, running=len(self._running))
        for ticket in self._running.values():
            self._again(ticket, 0.0)
        self._running.clear()
        session.close()
        return self._connect(connect)

    def _tell(self, last: bool = False) -> None:
        now = time.monotonic()
        state = Progress(self.ended, self.total, len(self._running), now - self._begun)
        if self._report is not None:
            self._report(state)
        if self._metrics is not None and (last or now >= self._metrics_due):
            write_metrics(self._metrics, self._ledger.counts(), self._ledger.totals(), state)
            self._metrics_due = now + max(_METRICS_S, (time.monotonic() - now) / _METRICS_SHARE)


def _outcome(future: Any) -> Outcome:
    """Return the outcome of a future; a worker or scheduler that was lost with it is one too."""
    if future.status == "finished":
        found: Outcome = future.result()
        return found
    if future.status in {"cancelled", "lost"}:
        return Outcome(kind="transient", code="SCHEDULER-LOST")
    name = type(future.exception()).__name__
    known = {"KilledWorker": "WORKER-LOST", "NoValidWorkerError": "NO-WORKER"}
    return Outcome(kind="transient", code=known.get(name, f"WORKER-{name}"))
