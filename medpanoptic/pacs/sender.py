"""Deliver the DICOM objects of a batch to a peer, each until it is taken, refused or given up.

An object is the same bytes under the same UIDs at every try, so one that arrives twice is one object at the peer.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from medpanoptic.batch.ledger import Ledger
from medpanoptic.batch.lock import only_run
from medpanoptic.batch.log import log_event, log_file
from medpanoptic.batch.outputs import results
from medpanoptic.batch.settings import Folders
from medpanoptic.batch.stop import StopSignal
from medpanoptic.errors import BatchError
from medpanoptic.pacs.outbox import GIVEN_UP, QUEUED, REPLACED, Outbox, Row
from medpanoptic.pacs.parcels import (
    AGAIN,
    DELIVERED,
    REFUSED,
    SETUP,
    Backoff,
    Deliver,
    Parcel,
    Reply,
    content_if_unchanged,
)
from medpanoptic.pacs.tls import Tls, client_context

_GROUP, _GROUP_BYTES = 50, 2**26
_TICK_S = 0.2


@dataclass(frozen=True)
class Sent:
    """How a delivery ended: objects by state. stopped : "" or the code of what ended it early.

    codes : (state, code, peer's status, number) of what is not simply delivered.
    """

    counts: dict[str, int]
    codes: list[Row]
    stopped: str = ""

    @property
    def status(self) -> int:
        """Exit status: 0 all delivered, 1 none, 3 some, 4 ended early: run again to go on."""
        if self.stopped:
            return 4
        if not self.counts[REFUSED] + self.counts[GIVEN_UP]:
            return 0
        return 3 if self.counts[DELIVERED] else 1


class Courier:
    """Works an outbox off. stop : asked between two objects. now, sleep, random : time and chance, for tests."""

    def __init__(
        self,
        folder: Path,
        outbox: Outbox,
        deliver: Deliver,
        backoff: Backoff,
        *,
        stop: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        random: Random | None = None,
    ) -> None:
        self._folder, self._outbox, self._deliver, self._backoff = folder, outbox, deliver, backoff
        self._stop, self._now, self._sleep, self._random = stop, now, sleep, random or Random()
        self._silent, self._rest_until = 0, 0.0  # groups in a row of which nothing was taken

    def work(self) -> str:
        """Deliver until nothing is queued; return "" or the code of what ended it before that."""
        while not self._stop():
            rows = [] if self._peer_rests() else self._outbox.due(self._backoff.longest_s, _GROUP)
            if rows:
                parcels = self._open(rows)
                if parcels and (code := self._deliver_group(rows, parcels)):
                    return code
            elif self._outbox.wait_s() is None:
                return ""
            else:
                self._sleep(_TICK_S)
        return "STOPPED"

    def _peer_rests(self) -> bool:
        # a longer rest than there is would be of a clock that has been set back
        return 0 < self._rest_until - self._now() <= self._backoff.longest_s

    def _open(self, rows: Sequence[Row]) -> list[Parcel]:
        """Read the files of one study, as many as fit a request; what is not what was queued is dropped."""
        parcels: list[Parcel] = []
        for row in rows:
            if parcels and (row["study"] != rows[0]["study"] or sum(len(p.content) for p in parcels) > _GROUP_BYTES):
                break
            path = self._folder / row["study"] / row["path"]
            content = content_if_unchanged(path, row["digest"])
            if content is None:
                # a newer result is queued by the next call
                self._outbox.note(row["id"], state=REPLACED, code="OUTPUT-CHANGED")
            else:
                parcels.append(Parcel(row["id"], path, content))
        return parcels

    def _deliver_group(self, rows: Sequence[Row], parcels: Sequence[Parcel]) -> str:
        known, verdicts = {row["id"]: row for row in rows}, set()
        with closing(self._deliver(parcels)) as replies:
            for parcel, reply in replies:
                verdicts.add(reply.verdict)
                self._note(known[parcel.row], reply)
                if reply.verdict == SETUP:
                    return reply.code
                if self._stop():
                    return "STOPPED"
        # a peer that takes nothing is left in peace, also by the objects that were not tried yet
        self._silent = self._silent + 1 if verdicts == {AGAIN} else 0
        self._rest_until = self._now() + self._pause_s(self._silent) if self._silent else 0.0
        return ""

    def _pause_s(self, attempt: int) -> float:
        return self._backoff.pause_s(attempt, self._random)

    def _note(self, row: Row, reply: Reply) -> None:
        fields: dict[str, Any] = {"code": reply.code, "status": reply.status}
        if reply.verdict != SETUP:
            attempts = row["attempts"] + 1
            fields |= {"attempts": attempts, "state": reply.verdict}
            if reply.verdict == AGAIN:
                given_up = attempts >= self._backoff.attempts
                pause = min(max(self._pause_s(attempts), reply.wait_s), self._backoff.longest_s)
                fields |= {"state": GIVEN_UP if given_up else QUEUED, "next_try": self._now() + pause}
        self._outbox.note(row["id"], **fields)
        level = logging.INFO if reply.verdict == DELIVERED else logging.WARNING
        log_event("object", level, study=row["study"], verdict=reply.verdict, code=reply.code, status=reply.status)


def send(
    output: str | Path,
    *,
    to: str | None = None,
    stow: str | None = None,
    ae_title: str = "MEDPANOPTIC",
    tls: Tls | None = None,
    backoff: Backoff | None = None,
    timeout_s: float = 30.0,
    again: bool = False,
    ledger_folder: str | Path | None = None,
    log: str | Path | None = None,
    log_level: str = "INFO",
) -> Sent:
    """Deliver every DICOM file of the results of a batch to one peer, and wait for those that are tried again.

    to : HOST:PORT/AE-TITLE (C-STORE), with ``tls`` over TLS; stow : root of a DICOMweb service (STOW-RS); one of them.
    What was delivered before is not sent again. again : also try what was refused or given up. timeout_s : for
    connecting, and for each answer. log : JSON lines, default ``output``/send.log. SIGTERM and SIGINT end it after the
    object under way.
    Raises BatchError: PEER-ADDRESS, PEER-PLAIN, TLS-FILES, AE-TITLE, SEND-RUNNING, OUTBOX-*, OUTPUT-DISK, NO-RESULTS.
    """
    folders = Folders(Path(output).absolute(), None if ledger_folder is None else Path(ledger_folder).absolute())
    peer, deliver = choose_peer(to, stow, ae_title, timeout_s, tls)
    if not folders.results.is_dir():
        raise BatchError("NO-RESULTS", f"{output} holds no results of a batch")
    with ExitStack() as stack:
        stack.enter_context(_only_sender(folders.output))
        stack.enter_context(log_file(Path(log) if log is not None else folders.output / "send.log", log_level))
        stop = stack.enter_context(StopSignal(0))
        outbox = Outbox(folders.ledger.with_name("outbox.sqlite"), peer)
        stack.callback(outbox.close)
        studies = []
        for marker in results(folders.results):
            outputs = {name: digest for name, digest in marker["outputs"].items() if name.lower().endswith(".dcm")}
            outbox.plan(marker["study"], outputs, again)
            studies.append(marker["study"])
        courier = Courier(folders.results, outbox, deliver, backoff or Backoff(), stop=lambda: stop.wanted)
        stopped = courier.work()
        _tell_ledger(folders, outbox, peer, studies)
        sent = Sent(outbox.counts(), outbox.codes(), stopped)
        log_event("ended", stopped=stopped, **{name.replace("-", "_"): n for name, n in sent.counts.items()})
    return sent


def choose_peer(
    to: str | None, stow: str | None, ae_title: str, timeout_s: float, tls: Tls | None = None
) -> tuple[str, Deliver]:
    """Return (name in the outbox, how to deliver). Raises BatchError: PEER-ADDRESS, PEER-PLAIN, TLS-FILES, AE-TITLE."""
    from medpanoptic.pacs import dimse, web
    from medpanoptic.pacs import stow as stow_rs

    if (to is None) == (stow is None):
        raise BatchError("PEER-ADDRESS", "name one peer: HOST:PORT/AE-TITLE or the root of a DICOMweb service")
    if to is not None:
        peer, (title,) = dimse.parse_peer(to), dimse.check_titles([ae_title])
        context = None if tls is None else client_context(tls)
        return str(peer), lambda parcels: dimse.store(peer, parcels, ae_title=title, timeout_s=timeout_s, tls=context)
    if tls is not None:
        raise BatchError("PEER-ADDRESS", "TLS files are for C-STORE; a DICOMweb service over TLS is an https address")
    url = web.check_url(stow or "")
    session = web.open_session(url)
    return url, lambda parcels: stow_rs.store(session, url, parcels, timeout_s=timeout_s)


def _tell_ledger(folders: Folders, outbox: Outbox, peer: str, studies: Sequence[str]) -> None:
    """Write (delivered, all) objects of each study and peer into the ledger, where it changed."""
    if not folders.ledger.is_file():
        return
    ledger = Ledger(folders.ledger)
    try:
        for study in studies:
            row = ledger.get(study)
            if row is not None:
                before = row["delivered"] or "{}"
                after = json.dumps({**json.loads(before), peer: outbox.delivered(study)}, sort_keys=True)
                if after != before:
                    ledger.set(study, delivered=after)
    finally:
        ledger.close()


@contextmanager
def _only_sender(output: Path) -> Iterator[None]:
    """Hold the outbox for one program. Raises BatchError (SEND-RUNNING, OUTPUT-DISK)."""
    with ExitStack() as stack:
        try:
            stack.enter_context(only_run(output / ".send"))
        except BatchError as error:
            if error.code != "BATCH-RUNNING":
                raise
            raise BatchError("SEND-RUNNING", f"another program delivers {output}; wait for it or stop it") from error
        yield
