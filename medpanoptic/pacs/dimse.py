"""C-STORE to a peer: one association for several objects, each with the peer's own status."""

from __future__ import annotations

import io
import re
import socket
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from medpanoptic.errors import BatchError
from medpanoptic.io.quiet import quiet
from medpanoptic.pacs.parcels import AGAIN, REFUSED, SETUP, Parcel, Reply, store_reply
from medpanoptic.pacs.tls import ClientContext

_MODALITY = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:/\[\]\s]+):(?P<port>\d{1,5})/(?P<title>[^/\\]{1,16})")


@dataclass(frozen=True)
class DicomPeer:
    """Where a Storage SCP listens."""

    host: str
    port: int
    title: str

    def __str__(self) -> str:
        return f"dicom://{self.host}:{self.port}/{self.title}"


def parse_peer(text: str) -> DicomPeer:
    """HOST:PORT/AET. Raises BatchError (PEER-ADDRESS)."""
    found = _MODALITY.fullmatch(text.strip())
    if found is None or not 0 < int(found["port"]) < 2**16:
        raise BatchError("PEER-ADDRESS", f"{text!r} is no DICOM peer; expected HOST:PORT/AE-TITLE")
    return DicomPeer(found["host"].strip("[]"), int(found["port"]), found["title"].strip())


def check_titles(titles: Sequence[str]) -> list[str]:
    """Return AE titles as they are sent. Raises BatchError (AE-TITLE). Source: DICOM PS3.5 6.2, VR AE."""
    found = [title.strip() for title in titles]
    for title in found:
        if not 0 < len(title) <= 16 or "\\" in title or not title.isascii() or not title.isprintable():
            raise BatchError("AE-TITLE", f"{title!r} is no AE title: 1 to 16 ASCII characters without a backslash")
    return found


def send_at_once(event: Any) -> None:
    """Turn Nagle's algorithm off: a short message would wait 40 ms for the peer's acknowledgement."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def store(
    peer: DicomPeer,
    parcels: Sequence[Parcel],
    *,
    ae_title: str,
    timeout_s: float,
    tls: ClientContext | None = None,
) -> Generator[tuple[Parcel, Reply]]:
    """Yield what the peer says to each object. timeout_s : for connecting, and for each answer. tls : None for none.

    Source: DICOM PS3.7 9.1.1 (C-STORE), PS3.8 9.3.4 (A-ASSOCIATE-RJ).
    """
    import pydicom
    from pynetdicom import AE, evt

    with quiet("pynetdicom", "pydicom"):
        datasets = [pydicom.dcmread(io.BytesIO(parcel.content)) for parcel in parcels]
        entity = AE(ae_title)
        entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout_s
        for pair in {(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets}:
            entity.add_requested_context(*pair)
        association = entity.associate(
            peer.host,
            peer.port,
            ae_title=peer.title,
            evt_handlers=[(evt.EVT_CONN_OPEN, send_at_once)],
            tls_args=None if tls is None else (tls, peer.host),
        )
        if not association.is_established:
            failure = "" if tls is None else tls.failure
            reply = Reply(SETUP, "PEER-TLS", failure) if failure else _no_association(association)
            yield from ((parcel, reply) for parcel in parcels)
            return
        try:
            for parcel, dataset in zip(parcels, datasets, strict=True):
                if not association.is_established:
                    return
                yield parcel, _store_one(association, dataset)
        finally:
            if association.is_established:
                association.release()


def _store_one(association: Any, dataset: Any) -> Reply:
    try:
        status = association.send_c_store(dataset)
    except ValueError:
        return Reply(REFUSED, "PEER-CONTEXT", "no presentation context")
    except RuntimeError:
        return Reply(AGAIN, "PEER-LOST", "association ended")
    if "Status" not in status:
        return Reply(AGAIN, "PEER-LOST", "no answer")
    return store_reply(int(status.Status))


def _no_association(association: Any) -> Reply:
    if association.is_rejected:
        answer = association.acceptor.primitive
        status = f"rejected {answer.result}/{answer.result_source}/{answer.diagnostic}"
        if answer.result == 2:
            return Reply(AGAIN, "PEER-BUSY", status)
        return Reply(SETUP, "PEER-REJECTED", status)
    if association.rejected_contexts:
        return Reply(REFUSED, "PEER-CONTEXT", "no presentation context")
    return Reply(AGAIN, "PEER-UNREACHABLE", "no association")
