"""STOW-RS: the objects of one study in one request, each with what the server says of it. Source: DICOM PS3.18 10.5."""

from __future__ import annotations

import io
import secrets
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import requests

from medpanoptic.io.quiet import quiet
from medpanoptic.pacs.parcels import AGAIN, DELIVERED, REFUSED, Parcel, Reply, http_reply, store_reply
from medpanoptic.pacs.web import error_reply

_FAILED, _REFERENCED = "00081198", "00081199"
_UID, _FAILURE, _WARNING = "00081155", "00081197", "00081196"
_ABOUT_THE_BODY = (400, 413, 415, 422)


def store(
    session: requests.Session, url: str, parcels: Sequence[Parcel], *, timeout_s: float
) -> Generator[tuple[Parcel, Reply]]:
    """Yield what the server says to each object. timeout_s : for connecting, and for silence while it answers."""
    with quiet("urllib3", "pydicom"):
        try:
            response = _post(session, url, parcels, timeout_s)
        except requests.RequestException as error:
            reply = error_reply(error)
            yield from ((parcel, reply) for parcel in parcels)
            return
        if len(parcels) > 1 and response.status_code in _ABOUT_THE_BODY:
            # one object may have spoiled the request for all
            for parcel in parcels:
                yield from store(session, url, [parcel], timeout_s=timeout_s)
            return
        told = _read_response(response)
        for parcel in parcels:
            yield parcel, _reply(response, told, _sop_uid(parcel))


def _post(session: requests.Session, url: str, parcels: Sequence[Parcel], timeout_s: float) -> requests.Response:
    boundary = secrets.token_hex(16)
    lines = [f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode(), b"", b"\r\n"]
    body = b"".join(part for parcel in parcels for part in (lines[0], parcel.content, lines[2]))
    return session.post(
        f"{url}/studies",
        data=body + f"--{boundary}--\r\n".encode(),
        headers={
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        },
        timeout=(timeout_s, timeout_s),
        allow_redirects=False,
    )


def _reply(response: requests.Response, told: Mapping[str, Reply] | None, uid: str) -> Reply:
    status = response.status_code
    # 409: none was stored, each for a reason of its own; 202: some were not, or with warnings
    if status not in (200, 202, 409):
        return http_reply(status, response.headers.get("Retry-After", ""))
    if told is None:
        known = status == 200
        return Reply(DELIVERED, "", f"HTTP {status}") if known else Reply(AGAIN, "PEER-ERROR", f"HTTP {status}")
    if uid in told:
        reply = told[uid]
        return Reply(reply.verdict, reply.code, f"HTTP {status} {reply.status}")
    if status == 409:
        return Reply(REFUSED, "PEER-REFUSED", f"HTTP {status}")
    return Reply(DELIVERED, "", f"HTTP {status}")


def _read_response(response: requests.Response) -> dict[str, Reply] | None:
    """Return SOPInstanceUID -> what became of it; None where the body is no DICOM JSON."""
    try:
        body = response.json()
        body = body[0] if isinstance(body, list) else body
        failed = {_value(item, _UID): store_reply(int(_value(item, _FAILURE))) for item in _items(body, _FAILED)}
        stored = {_value(i, _UID): store_reply(int(_value(i, _WARNING) or 0)) for i in _items(body, _REFERENCED)}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None
    # a failure with a status that is none is still a failure
    sound = {
        uid: reply if reply.verdict != DELIVERED else Reply(AGAIN, "PEER-ERROR", reply.status)
        for uid, reply in failed.items()
    }
    return {**stored, **sound}


def _items(body: Mapping[str, Any], tag: str) -> Sequence[Mapping[str, Any]]:
    return body.get(tag, {}).get("Value", [])


def _value(item: Mapping[str, Any], tag: str) -> Any:
    return next(iter(item.get(tag, {}).get("Value", [])), "")


def _sop_uid(parcel: Parcel) -> str:
    from pydicom import dcmread

    return str(dcmread(io.BytesIO(parcel.content), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
