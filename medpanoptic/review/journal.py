"""The journal of a review: JSON lines, each with the hash of the one before. Appended to, never rewritten.

It is the audit trail and the autosave in one: a line is on its way to the disk before the edit is in memory, and holds
all that is needed to do the edit again. So a killed program loses nothing, and there is no second file to disagree.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpanoptic.errors import ReviewError, WriteError

SYNC_EVERY = 5  # lines between two waits for the disk; a power cut loses no more, a killed program nothing


@dataclass(frozen=True, eq=False)
class JournalText:
    """What a journal file holds. torn : bytes of a damaged last line, as a power cut leaves it; 0 if it is whole."""

    lines: tuple[dict[str, Any], ...]
    whole_bytes: int
    torn: int


def line_hash(line: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of a line without its own hash; the hash of the line before is part of it."""
    return hashlib.sha256(_dump({k: v for k, v in line.items() if k != "hash"})).hexdigest()


def _dump(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def read_journal(path: Path) -> JournalText:
    """Read a journal and check its chain; a missing file is an empty journal.

    A damaged last line is left out and counted in ``torn``. Raises ReviewError (JOURNAL-DAMAGED), with the number of
    the line, for damage anywhere else.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    raw = content.split(b"\n")
    rest = raw.pop()  # "" behind a whole last line
    lines: list[dict[str, Any]] = []
    whole, previous = 0, ""
    for number, text in enumerate(raw, 1):
        line = _parse(text)
        if line is None or line.get("previous") != previous or line.get("hash") != line_hash(line):
            if number < len(raw) or rest:
                raise ReviewError(
                    "JOURNAL-DAMAGED",
                    f"line {number} of {path.name} was changed or is damaged; lines before it are sound",
                )
            break
        lines.append(line)
        whole, previous = whole + len(text) + 1, line["hash"]
    return JournalText(tuple(lines), whole, len(content) - whole)


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


class Journal:
    """The open end of a journal. Without a path it lives in memory, for scripts and tests."""

    def __init__(self, path: Path | None = None, text: JournalText | None = None) -> None:
        """Continue ``path`` from ``text``, as ``read_journal`` gave it; a torn last line is cut off now."""
        self.path = path
        found = text or JournalText((), 0, 0)
        self.lines: list[dict[str, Any]] = list(found.lines)
        self._end, self._unsynced = found.whole_bytes, 0
        if path is not None and found.torn:
            with path.open("rb+") as file:
                file.truncate(found.whole_bytes)
                os.fsync(file.fileno())

    @property
    def head(self) -> str:
        """Hash of the last line, "" without one."""
        return str(self.lines[-1]["hash"]) if self.lines else ""

    def append(self, fields: Mapping[str, Any], *, sync: bool = False) -> dict[str, Any]:
        """Add a line and return it with its hashes; ``sync`` waits until it is on the disk.

        Raises WriteError (WRITE-OS) if it cannot be written, ReviewError (REVIEW-BUSY) if another program wrote.
        """
        line = self.prepare(fields)
        if self.path is not None:
            self._write(self.path, [line], sync)
        self.lines.append(line)
        return line

    def prepare(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the line that ``append`` would add now."""
        line = {**fields, "number": len(self.lines), "previous": self.head}
        line["hash"] = line_hash(line)
        return line

    def extend(self, lines: Iterable[dict[str, Any]]) -> None:
        """Add whole lines of a copy of this journal that had come further."""
        more = list(lines)
        if more and self.path is not None:
            self._write(self.path, more, sync=True)
        self.lines += more

    def _write(self, path: Path, lines: Iterable[Mapping[str, Any]], sync: bool) -> None:
        text = b"".join(_dump(line) + b"\n" for line in lines)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                if file.tell() != self._end:
                    raise ReviewError(
                        "REVIEW-BUSY", f"{path.name} was written by another program; close it, then open the case anew"
                    )
                file.write(text)
                file.flush()
                self._unsynced += 1
                if sync or self._unsynced >= SYNC_EVERY:
                    os.fsync(file.fileno())
                    self._unsynced = 0
        except OSError as error:
            self._cut_off(path)
            raise WriteError(
                "WRITE-OS", f"the review's journal cannot be written ({error.strerror}); the edit was not made"
            ) from error
        self._end += len(text)

    def _cut_off(self, path: Path) -> None:
        """Take back the part of a line that a full disk let through."""
        with suppress(OSError), path.open("rb+") as file:
            file.truncate(self._end)

    def sync(self) -> None:
        """Wait until every line is on the disk."""
        if self.path is not None and self._unsynced:
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
            self._unsynced = 0

    def text_with(self, line: Mapping[str, Any]) -> bytes:
        """Return the bytes of the file with one more line."""
        return b"".join(_dump(each) + b"\n" for each in (*self.lines, line))
