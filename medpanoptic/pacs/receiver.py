"""A DICOM Storage SCP that takes objects from known peers into an ``Inbox``. Source: DICOM PS3.4 B, PS3.7 9.1.1, 9.1.5.

Exceptions, warnings and log lines of pynetdicom and pydicom may quote tag values: none of them gets out of here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from medpanoptic.batch.keys import load_key
from medpanoptic.batch.log import log_event, log_file
from medpanoptic.batch.stop import StopSignal
from medpanoptic.errors import BatchError
from medpanoptic.io.quiet import quiet
from medpanoptic.pacs.dimse import check_titles, send_at_once
from medpanoptic.pacs.inbox import ASIDE, Arrival, Inbox, InboxLimits, only_receiver
from medpanoptic.pacs.tls import Tls, server_context

SUCCESS, COERCED, PROCESSING_FAILURE, CANNOT_UNDERSTAND = 0x0000, 0xB000, 0x0110, 0xC000
# code of ours -> status of the response. Source: DICOM PS3.4 B.2.3, PS3.7 C
STATUSES = {
    "RECEIVE-DISK": 0xA700,
    "RECEIVE-SIZE": 0xA700,
    "RECEIVE-MISMATCH": 0xA900,
    "RECEIVE-UNREADABLE": CANNOT_UNDERSTAND,
    "RECEIVE-OS": PROCESSING_FAILURE,
}
_TICK_S = 0.2
_HANDSHAKE_S = 10.0
_HEADERS_BYTES = 2**20  # of commands and fragments beside an object
_REJECT_NOBODY = (0x01, 0x01, 0x03)  # permanent, by the user, calling AE title not recognised: PS3.8 9.3.4


@dataclass(frozen=True)
class Received:
    """How a receiver ended: objects taken, come again, kept aside and refused; studies complete and still held."""

    new: int
    duplicates: int
    aside: int
    refused: int
    completed: int
    held: int


class Receiver:
    """A server while entered. allow : calling AE titles; with none, every association is rejected.

    port : 0 takes a free one; ``port`` then tells which. tls : None for plain DICOM.
    Raises BatchError: RECEIVE-PORT, AE-TITLE, TLS-FILES.
    """

    def __init__(
        self, inbox: Inbox, *, host: str, port: int, ae_title: str, allow: Sequence[str], tls: Tls | None = None
    ) -> None:
        from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
        from pynetdicom.sop_class import Verification

        self._inbox, self._host, self.port, self._allow = inbox, host, port, frozenset(check_titles(allow))
        self.counts = dict.fromkeys(("new", "duplicate", "aside", "refused"), 0)
        self._tls = None if tls is None else server_context(tls)
        self._entity = AE(*check_titles([ae_title]))
        self._entity.require_called_aet = True
        self._entity.maximum_pdu_size = 2**17
        for context in AllStoragePresentationContexts:
            self._entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        self._entity.add_supported_context(Verification)
        self._handlers = [
            (evt.EVT_CONN_OPEN, self._open),
            (evt.EVT_REQUESTED, self._admit),
            (evt.EVT_PDU_RECV, self._weigh),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, lambda event: SUCCESS),
        ]

    def __enter__(self) -> Receiver:
        try:
            self._server = self._entity.start_server(
                (self._host, self.port), block=False, ssl_context=self._tls, evt_handlers=self._handlers
            )
        except OSError as error:
            where = f"{self._host}:{self.port}"
            raise BatchError("RECEIVE-PORT", f"cannot listen on {where}: {error.strerror}; choose another") from error
        self.port = self._server.server_address[1]
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._entity.shutdown()

    def drain(self, seconds: float) -> None:
        """Accept nobody new and let those who are sending end, for so long at most."""
        self._server.shutdown()
        end = time.monotonic() + seconds
        while self._entity.active_associations and time.monotonic() < end:
            time.sleep(_TICK_S / 4)

    # ---- what pynetdicom calls, in threads of its own

    def _open(self, event: Any) -> None:
        send_at_once(event)
        if self._tls is None:
            return
        connection = event.assoc.dul.socket.socket
        connection.settimeout(_HANDSHAKE_S)
        try:
            connection.do_handshake()
            connection.settimeout(None)
        except OSError:  # of which SSLError is one; what a stranger sent is not logged
            log_event("TLS failed", logging.WARNING, address=event.assoc.requestor.address)
            connection.close()

    def _admit(self, event: Any) -> None:
        title = event.assoc.requestor.primitive.calling_ae_title
        if title.strip() not in self._allow:
            # an unknown title is a stranger's text: it is not logged
            log_event("association rejected", logging.WARNING, address=event.assoc.requestor.address)
            event.assoc.acse.send_reject(*_REJECT_NOBODY)
            event.assoc.is_rejected = True
            event.assoc.is_established = False
            event.assoc.kill()

    def _weigh(self, event: Any) -> None:
        """Cut an object off that grows over the cap, before it fills the memory."""
        values = getattr(event.pdu, "presentation_data_value_items", ())
        weight = getattr(event.assoc, "medpanoptic_weight", 0) + sum(len(v.presentation_data_value) for v in values)
        event.assoc.medpanoptic_weight = weight
        if weight > self._inbox.limits.object_mb * 2**20 + _HEADERS_BYTES:
            event.assoc.medpanoptic_weight = 0
            self._refused("RECEIVE-SIZE")
            event.assoc.abort(block=False)

    def _store(self, event: Any) -> int:
        event.assoc.medpanoptic_weight = 0
        request = event.request
        arrival = Arrival(
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
            str(event.context.transfer_syntax),
            request.DataSet.getvalue(),
        )
        try:
            stored = self._inbox.store(arrival)
        except BatchError as error:
            self._refused(error.code)
            return STATUSES.get(error.code, PROCESSING_FAILURE)
        except Exception as error:  # the peer gets an answer, the log a name
            self._refused(f"INTERNAL-{type(error).__name__}")
            return PROCESSING_FAILURE
        self.counts[stored.kind] += 1
        level = logging.WARNING if stored.kind == ASIDE else logging.DEBUG
        log_event("object", level, study=stored.study, kind=stored.kind)
        return COERCED if stored.kind == ASIDE else SUCCESS

    def _refused(self, code: str) -> None:
        self.counts["refused"] += 1
        log_event("object refused", logging.WARNING, code=code)


def receive(
    folder: str | Path,
    *,
    port: int = 11112,
    host: str = "127.0.0.1",
    ae_title: str = "MEDPANOPTIC",
    allow: Sequence[str] = (),
    tls: Tls | None = None,
    quiet_s: float = 60.0,
    expect: int | None = None,
    limits: InboxLimits | None = None,
    key_file: str | Path | None = None,
    log: str | Path | None = None,
    log_level: str = "INFO",
    grace_s: float = 30.0,
    listening: Callable[[int], None] | None = None,
) -> Received:
    """Take DICOM objects by C-STORE into ``folder``/HANDLE/ until SIGTERM or SIGINT; C-ECHO is answered too.

    host : loopback unless asked. allow : calling AE titles that may send; with none, all are rejected. tls : take
    DICOM over TLS only. quiet_s, expect : when a study is complete, see ``Inbox``. key_file : secret of the handles,
    default made as ``folder``/receive.key. log : JSON lines, default ``folder``/receive.log. grace_s : how long senders
    may go on after the signal. listening : called with the port once it is open.
    Raises BatchError: RECEIVE-PORT, RECEIVE-RUNNING, AE-TITLE, TLS-FILES, BATCH-KEY, OUTPUT-DISK.
    """
    folder = Path(folder).absolute()
    with ExitStack() as stack:
        stack.enter_context(only_receiver(folder))
        stack.enter_context(log_file(Path(log) if log is not None else folder / "receive.log", log_level))
        stack.enter_context(quiet("pynetdicom", "pydicom"))
        stop = stack.enter_context(StopSignal(grace_s))
        key = load_key(Path(key_file) if key_file is not None else folder / "receive.key")
        inbox = Inbox(folder, key, quiet_s=quiet_s, expect=expect, limits=limits)
        server = stack.enter_context(Receiver(inbox, host=host, port=port, ae_title=ae_title, allow=allow, tls=tls))
        said = {"port": server.port, "tls": tls is not None, "allowed": len(allow), "held": len(inbox.held)}
        log_event("listening", host=host, **said)
        if listening is not None:
            listening(server.port)
        while not stop.wanted:
            inbox.release_quiet()
            time.sleep(_TICK_S)
        server.drain(grace_s)
        counts = server.counts
        log_event("stopped", held=len(inbox.held), **counts)
    return Received(
        counts["new"], counts["duplicate"], counts["aside"], counts["refused"], inbox.completed, len(inbox.held)
    )
