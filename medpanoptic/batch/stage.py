"""Lay the files of a study into a folder of its own, under neutral names, and digest what is read.

The reader then sees exactly the files that were digested: not a slice that arrives meanwhile, not another study in the
same folder, and no name that could tell of a patient.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medpanoptic.batch.keys import content_digest, file_digest
from medpanoptic.batch.settings import Study
from medpanoptic.cases import IMAGE_SUFFIXES

_BLOCK = 2**20


class InputChangedError(Exception):
    """A file is not what the scan saw: it is being written, or was moved."""


@contextmanager
def staged(study: Study, work: Path) -> Iterator[tuple[Path, str]]:
    """Give (path for ``segment_file``, digest of the content). Second copies of a file are left out.

    Files are hard links where the disk allows it, else copies; the folder is deleted at the end.
    Raises InputChangedError, OSError (the input cannot be read, or no room for copies).
    """
    # the process id tells whose it is; 0700: inputs are patient data
    folder = work / f"{study.handle}.{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "study").mkdir(parents=True, mode=0o700)
    try:
        seen: set[str] = set()
        for number, (path, size, mtime_ns) in enumerate(study.files):
            suffix = _suffix(path) if study.kind == "image" else ".dcm"
            target = folder / "study" / f"{number:06d}{suffix}"
            digest = _lay(Path(path), target)
            if digest in seen:
                target.unlink()
            seen.add(digest)
            check_unchanged(path, size, mtime_ns)
        place = folder / "study"
        yield (next(place.iterdir()) if study.kind == "image" else place), content_digest(seen)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_unchanged(path: str, size: int, mtime_ns: int) -> None:
    """Raise InputChangedError if a file is not the one that was scanned."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise InputChangedError from error
    if (status.st_size, status.st_mtime_ns) != (size, mtime_ns):
        raise InputChangedError


def _lay(source: Path, target: Path) -> str:
    """Link or copy a file; return its SHA-256."""
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        raise InputChangedError from error
    except OSError:  # another disk, or one without links
        return _copy(source, target)
    return file_digest(target)


def _copy(source: Path, target: Path) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("xb") as write:
        while block := read.read(_BLOCK):
            digest.update(block)
            write.write(block)
    return digest.hexdigest()


def _suffix(path: str) -> str:
    lower = path.lower()
    return next(suffix for suffix in IMAGE_SUFFIXES if lower.endswith(suffix))
