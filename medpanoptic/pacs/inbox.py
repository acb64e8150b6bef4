"""A folder that DICOM objects arrive in, one by one and in any order, from which a batch takes whole studies.

    FOLDER/HANDLE/HANDLE.dcm   one object; both names are keyed hashes of UIDs
    FOLDER/HANDLE/.hold        while the study may be incomplete: a batch leaves a folder with this file alone
    FOLDER/.receive/           drafts; aside/HANDLE/ keeps objects that came again with other bytes

An object is written to a draft, brought to the disk and renamed; ``.hold`` is there before the first object is. So a
power cut leaves whole objects and studies that are still held.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from medpanoptic.batch.keys import file_digest, study_handle
from medpanoptic.batch.lock import only_run
from medpanoptic.batch.log import log_event
from medpanoptic.batch.outputs import sync_folder
from medpanoptic.batch.scan import HOLD
from medpanoptic.errors import BatchError, ReadError
from medpanoptic.identity import uid_from
from medpanoptic.io.dicom_files import read_dataset

_TAGS = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "NumberOfStudyRelatedInstances"]
NEW, DUPLICATE, ASIDE = "new", "duplicate", "aside"


@dataclass(frozen=True)
class InboxLimits:
    """What may come in.

    object_mb, study_gb : largest object (MiB) and study (GiB). min_free_mb : room (MiB) that stays free on the disk.
    """

    object_mb: float = 2048.0
    study_gb: float = 20.0
    min_free_mb: float = 1000.0


@dataclass(frozen=True)
class Arrival:
    """One object on its way in: what the sender says it is, and its encoded data set without a file header."""

    sop_class: str
    sop_uid: str
    syntax: str
    body: bytes


@dataclass(frozen=True)
class Stored:
    """What became of an object. kind : "new", "duplicate" (same bytes: nothing to do) or "aside" (other bytes)."""

    kind: str
    study: str


@dataclass
class _Open:
    """A study that is held. last : when something came, by the clock of the inbox.

    short : handles of objects for which there was no room; without them the study is not complete.
    """

    last: float
    count: int
    bytes: int
    short: set[str]
    expected: int | None = None


class Inbox:
    """The state of one folder; safe for several threads.

    quiet_s : a study is complete when nothing has come for so long. expect : or when it has so many objects; else as
    many as NumberOfStudyRelatedInstances says, where an object has it. now : a clock that never goes back.
    """

    def __init__(
        self,
        folder: Path,
        key: bytes,
        *,
        quiet_s: float = 60.0,
        expect: int | None = None,
        limits: InboxLimits | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self._key, self._quiet_s, self._expect = folder, key, quiet_s, expect
        self.limits, self._now = limits or InboxLimits(), now
        self._work = folder / ".receive"
        self._work.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self._work / HOLD).touch()
        for draft in self._work.glob("*.part"):
            draft.unlink()
        self._lock = threading.Lock()
        self.completed = 0
        held = (path.parent for path in folder.glob(f"*/{HOLD}") if path.parent != self._work)
        self._open = {path.name: self._look(path) for path in held}

    @property
    def held(self) -> tuple[str, ...]:
        """Handles of the studies that are not complete."""
        return tuple(self._open)

    def handle(self, study_uid: str) -> str:
        """Return the name of a study's folder."""
        return study_handle(self._key, study_uid)

    def count(self, handle: str) -> int:
        """Return the number of objects of a study that are here."""
        return sum(1 for _ in (self.folder / handle).glob("*.dcm"))

    def check_room(self, size: int) -> None:
        """Refuse an object of ``size`` bytes that is too large, or for which the disk has no room.

        Raises BatchError (RECEIVE-SIZE, RECEIVE-DISK).
        """
        if size > self.limits.object_mb * 2**20:
            raise BatchError("RECEIVE-SIZE", f"an object of over {self.limits.object_mb:g} MiB is not taken")
        if shutil.disk_usage(self.folder).free - size < self.limits.min_free_mb * 2**20:
            raise BatchError("RECEIVE-DISK", f"{self.folder} has less than {self.limits.min_free_mb:g} MiB of room")

    def store(self, arrival: Arrival) -> Stored:
        """Bring one object into its study, which is held from then on. When this returns, it is on the disk.

        Raises BatchError: RECEIVE-SIZE, RECEIVE-DISK, RECEIVE-UNREADABLE (no DICOM, or no study in it),
        RECEIVE-MISMATCH (another object than the sender says), RECEIVE-OS.
        """
        try:
            self.check_room(len(arrival.body))
        except BatchError:
            self._mark_short(arrival)
            raise
        draft = self._work / f"{uuid.uuid4().hex}.part"
        try:
            with draft.open("xb") as file:
                file.write(_file_header(arrival))
                file.write(arrival.body)
                file.flush()
                os.fsync(file.fileno())
            with self._lock:
                return self._place(draft, arrival)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            code = "RECEIVE-DISK" if full else "RECEIVE-OS"
            raise BatchError(code, f"{self.folder} cannot be written: {error.strerror}") from error
        finally:
            draft.unlink(missing_ok=True)

    def _place(self, draft: Path, arrival: Arrival) -> Stored:
        study_uid, expected = _read_names(draft, arrival)
        handle = self.handle(study_uid)
        folder = self.folder / handle
        target = folder / f"{study_handle(self._key, arrival.sop_uid)}.dcm"
        if target.exists():
            if handle in self._open:
                self._open[handle].last = self._now()
            return Stored(self._again(draft, target), handle)
        state = self._hold(handle)
        size = draft.stat().st_size
        if state.bytes + size > self.limits.study_gb * 2**30:
            self._note_short(handle, target.stem)
            raise BatchError("RECEIVE-SIZE", f"a study of over {self.limits.study_gb:g} GiB is not taken")
        draft.rename(target)
        sync_folder(folder)
        state.count, state.bytes, state.last = state.count + 1, state.bytes + size, self._now()
        state.expected = self._expect or expected or state.expected
        if target.stem in state.short:
            state.short.remove(target.stem)
            self._write_short(handle)
        # more than expected: the number was wrong, so only silence tells
        if state.count == state.expected and not state.short:
            self._release(handle, "count")
        return Stored(NEW, handle)

    def _again(self, draft: Path, target: Path) -> str:
        digest = file_digest(draft)
        if digest == file_digest(target):
            return DUPLICATE
        aside = self._work / "aside" / target.parent.name
        aside.mkdir(parents=True, exist_ok=True)
        draft.replace(aside / f"{target.stem}.{digest[:12]}.dcm")
        sync_folder(aside)
        return ASIDE

    # ---- completeness

    def _mark_short(self, arrival: Arrival) -> None:
        """Hold the study of an object that there is no room for: silence would not mean that it is complete."""
        # a deflated header would have to be unpacked first; its study is left to the sender's next try
        if not UID(arrival.syntax).is_deflated:
            names = _peek(arrival)
            if names:
                with self._lock, suppress(OSError):
                    self._note_short(self.handle(names), study_handle(self._key, arrival.sop_uid))

    def _note_short(self, handle: str, name: str) -> None:
        if not (self.folder / handle / f"{name}.dcm").exists():
            self._hold(handle).short.add(name)
            self._write_short(handle)
            log_event("study short", logging.WARNING, study=handle)

    def _write_short(self, handle: str) -> None:
        # a full disk takes no line either: then a restart forgets it
        with suppress(OSError):
            (self.folder / handle / HOLD).write_text("".join(f"{n}\n" for n in sorted(self._open[handle].short)))

    def _hold(self, handle: str) -> _Open:
        if handle not in self._open:
            folder = self.folder / handle
            late = folder.is_dir()
            folder.mkdir(exist_ok=True)
            (folder / HOLD).touch()
            sync_folder(folder)
            sync_folder(self.folder)
            self._open[handle] = self._look(folder)
            log_event("study reopened" if late else "study begun", study=handle)
        return self._open[handle]

    def _look(self, folder: Path) -> _Open:
        sizes = [path.stat().st_size for path in folder.glob("*.dcm")]
        hold = folder / HOLD
        return _Open(self._now(), len(sizes), sum(sizes), set(hold.read_text("ascii").split()))

    def _release(self, handle: str, why: str) -> None:
        (self.folder / handle / HOLD).unlink(missing_ok=True)
        state = self._open.pop(handle)
        self.completed += 1
        log_event("study complete", study=handle, objects=state.count, bytes=state.bytes, why=why)

    def release(self, handle: str) -> None:
        """Declare a study complete, for whoever knows that it is."""
        with self._lock:
            if handle in self._open:
                self._release(handle, "told")

    def release_quiet(self) -> list[str]:
        """Declare the studies complete for which nothing has come for ``quiet_s``; return their handles."""
        with self._lock:
            quiet = [
                handle
                for handle, state in self._open.items()
                if self._now() - state.last >= self._quiet_s and state.count and not state.short
            ]
            for handle in quiet:
                self._release(handle, "quiet")
        return quiet


@contextmanager
def only_receiver(folder: Path) -> Iterator[None]:
    """Hold a folder for one program. Raises BatchError (RECEIVE-RUNNING, OUTPUT-DISK)."""
    try:
        (folder / ".receive").mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise BatchError("OUTPUT-DISK", f"{folder} cannot be written: {error.strerror}") from error
    with ExitStack() as stack:
        try:
            stack.enter_context(only_run(folder / ".receive"))
        except BatchError as error:
            if error.code != "BATCH-RUNNING":
                raise
            raise BatchError("RECEIVE-RUNNING", f"another program fills {folder}; stop it or name another") from error
        yield


def _file_header(arrival: Arrival) -> bytes:
    """Return preamble and meta header; the same for the same object, whoever brings it. Source: DICOM PS3.10 7.1."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = arrival.sop_class
    meta.MediaStorageSOPInstanceUID = arrival.sop_uid
    meta.TransferSyntaxUID = arrival.syntax
    meta.ImplementationClassUID = uid_from("implementation class")
    buffer = io.BytesIO()
    write_file_meta_info(buffer, meta)
    return b"\0" * 128 + b"DICM" + buffer.getvalue()


def _peek(arrival: Arrival) -> str:
    """Return the StudyInstanceUID of an object that is not on the disk, "" if it cannot be read."""
    content = io.BytesIO(_file_header(arrival) + arrival.body)
    try:
        dataset = pydicom.dcmread(content, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
        return str(dataset.get("StudyInstanceUID") or "").strip()
    except Exception:  # pydicom raises nearly any type on a garbled object
        return ""


def _read_names(draft: Path, arrival: Arrival) -> tuple[str, int | None]:
    """Return (StudyInstanceUID, number of objects in the study if told)."""
    try:
        dataset = read_dataset(draft, "an object", _TAGS)
    except ReadError as error:
        raise BatchError("RECEIVE-UNREADABLE", f"an object cannot be read ({error.code})") from error
    try:
        study, sop_uid, sop_class = (
            str(dataset.get(name) or "").strip() for name in ("StudyInstanceUID", "SOPInstanceUID", "SOPClassUID")
        )
        number = int(dataset.get("NumberOfStudyRelatedInstances") or 0)
    except Exception:  # pydicom converts a garbled element on access, and raises nearly any type
        study = ""
    if not study:
        raise BatchError("RECEIVE-UNREADABLE", "an object without a readable StudyInstanceUID")
    if (sop_uid, sop_class) != (arrival.sop_uid, arrival.sop_class):
        raise BatchError("RECEIVE-MISMATCH", "an object is not the one that its sender says (SOP class or instance)")
    return study, number if number > 0 else None
