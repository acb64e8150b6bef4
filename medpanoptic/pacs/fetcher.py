"""Fetch studies from a DICOMweb service into an ``Inbox``: QIDO-RS finds, WADO-RS brings.

Source: DICOM PS3.18 10.4 and 10.6.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import requests

from medpanoptic.batch.keys import load_key, study_handle
from medpanoptic.batch.log import log_event, log_file
from medpanoptic.batch.stop import StopSignal
from medpanoptic.errors import BatchError
from medpanoptic.io.quiet import quiet
from medpanoptic.pacs.inbox import NEW, Arrival, Inbox, InboxLimits, only_receiver
from medpanoptic.pacs.parcels import AGAIN, REFUSED, SETUP, Backoff, Reply, http_reply
from medpanoptic.pacs.web import check_url, error_reply, open_session

_ALL_OBJECTS = "00201208"  # NumberOfStudyRelatedInstances
_STUDY_UID = "0020000D"


@dataclass(frozen=True)
class Fetched:
    """How a fetch ended. complete, unchanged : studies; new : objects. failed : (handle, code, the server's status).

    stopped : "" or the code of what ended it early.
    """

    complete: int
    unchanged: int
    new: int
    failed: list[tuple[str, str, str]] = field(default_factory=list)
    stopped: str = ""

    @property
    def status(self) -> int:
        """Exit status: 0 all are here, 1 none, 3 some, 4 ended early."""
        if self.stopped:
            return 4
        return 0 if not self.failed else 3 if self.complete + self.unchanged else 1


class TroubleError(Exception):
    """A request failed; ``reply`` says whether a retry can help."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.code)
        self.reply = reply


class Fetcher:
    """Asks one service. sleep, random, stop : time, chance and the signal, for tests."""

    def __init__(
        self,
        client: Any,
        inbox: Inbox,
        backoff: Backoff,
        *,
        sleep: Callable[[float], None] = time.sleep,
        random: Random | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._client, self._inbox, self._backoff = client, inbox, backoff
        self._sleep, self._random, self._stop = sleep, random or Random(), stop
        self.new = 0

    def find(self, filters: Mapping[str, str]) -> dict[str, int]:
        """Return StudyInstanceUID -> number of objects (0: not told). Raises TroubleError."""
        found = self._persist(
            lambda: self._client.search_for_studies(
                search_filters=dict(filters), fields=["NumberOfStudyRelatedInstances"], get_remaining=True
            )
        )
        return {_value(study, _STUDY_UID): int(_value(study, _ALL_OBJECTS) or 0) for study in found}

    def bring(self, uid: str, expected: int) -> bool:
        """Bring one study whole and release it; return False if it was here already.

        Raises TroubleError, BatchError (RECEIVE-...). What came before stays, held, and is not stored twice.
        """
        if not expected:
            expected = len(self._persist(lambda: self._client.search_for_instances(uid, get_remaining=True)))
        handle = self._inbox.handle(uid)
        if handle not in self._inbox.held and self._inbox.count(handle) >= expected > 0:
            return False
        self._persist(lambda: self._bring_once(uid, expected))
        self._inbox.release(handle)
        return True

    def _bring_once(self, uid: str, expected: int) -> None:
        # every syntax: as the server has them, nothing is transcoded on the way
        for dataset in self._client.iter_study(uid, media_types=(("application/dicom", "*"),)):
            arrival = _arrival(dataset)
            if str(dataset.StudyInstanceUID) != uid:
                raise TroubleError(Reply(REFUSED, "PEER-OTHER-STUDY", "an object of another study"))
            self.new += self._inbox.store(arrival).kind == NEW
            if self._stop():
                raise TroubleError(Reply(REFUSED, "STOPPED"))
        if self._inbox.count(self._inbox.handle(uid)) < expected:
            raise TroubleError(Reply(AGAIN, "PEER-SHORT", "fewer objects than announced"))

    def _persist(self, work: Callable[[], Any]) -> Any:
        """Do something until it works, cannot work, or was tried often enough."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return work()
            except BatchError:
                raise
            except Exception as error:
                reply = _meaning(error)
            if reply.verdict != AGAIN or attempt >= self._backoff.attempts or self._stop():
                raise TroubleError(reply)
            log_event("request failed", logging.WARNING, code=reply.code, status=reply.status, attempt=attempt)
            pause = max(self._backoff.pause_s(attempt, self._random), reply.wait_s)
            self._sleep(min(pause, self._backoff.longest_s))


def fetch(
    url: str,
    folder: str | Path,
    *,
    studies: Sequence[str] = (),
    where: Mapping[str, str] | None = None,
    limits: InboxLimits | None = None,
    backoff: Backoff | None = None,
    timeout_s: float = 30.0,
    key_file: str | Path | None = None,
    log: str | Path | None = None,
    log_level: str = "INFO",
) -> Fetched:
    """Bring studies into ``folder``/HANDLE/ as ``receive`` does; those that are here whole are not brought again.

    url : root of a DICOMweb service. studies : StudyInstanceUIDs; where : or all that match, DICOM keyword -> value,
    as QIDO-RS has it (StudyDate="20240101-"). A study is released when as many objects are here as the service says.
    timeout_s : for connecting, and for silence.
    Raises BatchError: PEER-ADDRESS, PEER-PLAIN, FETCH-WHAT (neither or an unknown keyword), RECEIVE-RUNNING,
    OUTPUT-DISK, BATCH-KEY, and what the search came to (PEER-...).
    """
    from dicomweb_client import DICOMwebClient

    folder, filters = Path(folder).absolute(), _check_filters(studies, where or {})
    url = check_url(url)
    session = open_session(url)
    with ExitStack() as stack:
        stack.enter_context(only_receiver(folder))
        stack.enter_context(log_file(Path(log) if log is not None else folder / "receive.log", log_level))
        stack.enter_context(quiet("dicomweb_client", "urllib3", "pydicom", "pynetdicom"))
        stop = stack.enter_context(StopSignal(0))
        key = load_key(Path(key_file) if key_file is not None else folder / "receive.key")
        client = DICOMwebClient(url, session=session, timeout=(timeout_s, timeout_s))
        client.set_http_retry_params(retry=False)
        fetcher = Fetcher(client, Inbox(folder, key, limits=limits), backoff or Backoff(), stop=lambda: stop.wanted)
        try:
            found: dict[str, int] = {}
            for one in filters:
                found |= fetcher.find(one)
        except TroubleError as error:
            raise BatchError(error.reply.code, f"the search failed; the server said: {error.reply.status}") from None
        missing = [uid for uid in studies if uid not in found]
        return _bring_all(fetcher, found, missing, lambda uid: study_handle(key, uid))


def _bring_all(
    fetcher: Fetcher, found: Mapping[str, int], missing: Sequence[str], name: Callable[[str], str]
) -> Fetched:
    failed = [(name(uid), "PEER-NO-STUDY", "not found") for uid in missing]
    brought, stopped = [], ""
    for uid, expected in found.items():
        try:
            brought.append(fetcher.bring(uid, expected))
            continue
        except TroubleError as error:
            code, status = error.reply.code, error.reply.status
            setup = error.reply.verdict == SETUP
        except BatchError as error:
            code, status, setup = error.code, "", error.code in ("RECEIVE-DISK", "RECEIVE-OS")
        if setup or code == "STOPPED":
            stopped = code
            break
        failed.append((name(uid), code, status))
        log_event("study failed", logging.WARNING, study=name(uid), code=code, status=status)
    return Fetched(sum(brought), len(brought) - sum(brought), fetcher.new, failed, stopped)


def _check_filters(studies: Sequence[str], where: Mapping[str, str]) -> list[dict[str, str]]:
    from pydicom.datadict import tag_for_keyword

    unknown = [name for name in where if tag_for_keyword(name) is None]
    if unknown:
        raise BatchError("FETCH-WHAT", f"{unknown[0]!r} is no DICOM keyword; StudyDate is one")
    if not studies and not where:
        raise BatchError("FETCH-WHAT", "say which studies: their UIDs, or what they match")
    return [{**where, "StudyInstanceUID": uid} for uid in studies] or [dict(where)]


def _meaning(error: Exception) -> Reply:
    """Return what an exception means; its text may quote UIDs and stays here."""
    if isinstance(error, TroubleError):
        return error.reply
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return http_reply(error.response.status_code, error.response.headers.get("Retry-After", ""))
    if isinstance(error, requests.RequestException):
        return error_reply(error)
    # the client and pydicom raise nearly any type on an answer that was cut or garbled
    return Reply(AGAIN, "PEER-GARBLED", "unreadable answer")


def _arrival(dataset: Any) -> Arrival:
    """Return an object as C-STORE would bring it."""
    from pynetdicom.dsutils import encode

    syntax = dataset.file_meta.TransferSyntaxUID
    body = encode(dataset, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    if body is None:
        raise BatchError("RECEIVE-UNREADABLE", "an object cannot be encoded again")
    return Arrival(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), str(syntax), body)


def _value(item: Mapping[str, Any], tag: str) -> Any:
    return next(iter(item.get(tag, {}).get("Value", [])), "")
