"""What is handed to a peer, and what its answer means for the next try."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

DELIVERED, REFUSED, AGAIN, SETUP = "delivered", "refused", "again", "set-up"


@dataclass(frozen=True)
class Parcel:
    """One DICOM file to deliver: its row in the outbox, where it lies, and its encoded bytes."""

    row: int
    path: Path
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Reply:
    """What a peer made of one object.

    verdict : "delivered"; "refused", which no retry can change; "again"; "set-up" (nothing will be taken before
    somebody changes address, title, login or certificate). code : ours. status : the peer's own words, such as
    0xA700 or HTTP 503. wait_s : not before so many seconds.
    """

    verdict: str
    code: str = ""
    status: str = ""
    wait_s: float = 0.0


# gives a reply for each parcel that was tried, as they come; those after a cut connection get none
Deliver = Callable[[Sequence[Parcel]], Generator[tuple[Parcel, Reply]]]


@dataclass(frozen=True)
class Backoff:
    """How often and when to try again. first_s : before the second attempt, doubled for each further one.

    Half of each pause is random, so that many senders do not come back at the same moment.
    """

    attempts: int = 10
    first_s: float = 2.0
    longest_s: float = 600.0

    def pause_s(self, attempt: int, random: Random) -> float:
        """Return the seconds to wait after failed attempt 1, 2, 3 ..."""
        # the exponent is bounded: a float overflows at 2^1024
        full = min(self.longest_s, self.first_s * 2.0 ** min(attempt - 1, 60))
        return full * (1 + random.random()) / 2


def store_reply(status: int) -> Reply:
    """Return what a status of a C-STORE response, or a FailureReason or WarningReason of STOW, means.

    Source: DICOM PS3.4 B.2.3, PS3.7 C, PS3.18 10.5.3 and Annex I.2.
    """
    text = f"0x{status:04X}"
    if status == 0 or status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0116):
        return Reply(DELIVERED, "", text)
    if status >> 8 == 0xA7:
        return Reply(AGAIN, "PEER-BUSY", text)
    if status == 0x0110:
        return Reply(AGAIN, "PEER-ERROR", text)
    # A9xx, Cxxx, 0122, 0124 and what else is a failure: the same object would fail again
    return Reply(REFUSED, "PEER-REFUSED", text)


def http_reply(status: int, retry_after: str = "") -> Reply:
    """Return what an HTTP status without details means. Source: RFC 9110 15, PS3.18 8.5."""
    text = f"HTTP {status}"
    if 200 <= status < 300:
        return Reply(DELIVERED, "", text)
    if 300 <= status < 400:
        return Reply(SETUP, "PEER-REDIRECT", text)
    if status in (401, 403, 407):
        return Reply(SETUP, "PEER-LOGIN", text)
    if status in (404, 405, 410, 501):
        return Reply(SETUP, "PEER-ADDRESS", text)
    if status in (408, 425, 429, 502, 503, 504, 507):
        wait = float(retry_after) if retry_after.isdigit() else 0.0
        return Reply(AGAIN, "PEER-BUSY", text, wait_s=wait)
    if status >= 500:
        return Reply(AGAIN, "PEER-ERROR", text)
    return Reply(REFUSED, "PEER-REFUSED", text)


def content_if_unchanged(path: Path, digest: str) -> bytes | None:
    """Return the bytes of a file if they have this SHA-256, else None: it was replaced, or is gone."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == digest else None
