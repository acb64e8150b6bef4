"""Put a folder in place whole or not at all: filled under a temporary name, brought to the disk, renamed."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medpanoptic.errors import WriteError

_ATTEMPTS = 10  # to put a folder in place while others do the same


@contextmanager
def new_folder(target: Path, ours: frozenset[str], check: Callable[[Path], None]) -> Iterator[Path]:
    """Give an empty sibling of ``target`` to fill; it takes the place of ``target`` if the block ends well.

    ours : names in an older ``target`` that are not carried over; other files are. check : raises if ``target``, a
    folder that is not empty, must not be replaced. Raises WriteError: WRITE-OS, FOLDER-FOREIGN (``target`` is a file).
    """
    # mkdir, not tempfile: a temporary folder would be closed to everyone but its owner
    draft = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        _check_replaceable(target, check)
        draft.mkdir(parents=True)
        yield draft
        _flush(draft)
        _keep_foreign_files(target, draft, ours)
        _swap(draft, target)
    except OSError as error:
        raise WriteError("WRITE-OS", f"{target} cannot be written: {error.strerror or type(error).__name__}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_target(target: Path, check: Callable[[Path], None]) -> None:
    """Raise what ``new_folder`` would, as far as it can be told before there is anything to write.

    Raises WriteError: WRITE-OS, FOLDER-FOREIGN.
    """
    try:
        _check_replaceable(target, check)
        above = next((folder for folder in target.absolute().parents if folder.exists()), Path("/"))
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{above.name} is a file")
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "no permission, or the disk is read-only")
    except OSError as error:
        raise WriteError("WRITE-OS", f"{target} cannot be written: {error.strerror or type(error).__name__}") from error


def _check_replaceable(target: Path, check: Callable[[Path], None]) -> None:
    if target.is_dir():
        if any(target.iterdir()):
            check(target)
    elif target.exists():
        raise WriteError("FOLDER-FOREIGN", f"{target} is a file: choose another name for the folder")


def _keep_foreign_files(target: Path, draft: Path, ours: frozenset[str]) -> None:
    for path in sorted(target.iterdir()) if target.is_dir() else ():
        if path.name in ours:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, draft / path.name, symlinks=True)
        else:
            shutil.copy2(path, draft / path.name, follow_symlinks=False)


def _flush(folder: Path) -> None:
    """Bring every file to the disk before the folder gets its name, so that a power cut leaves old or new."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            # as open as the folder: files that began as temporary ones are closed to all but their owner
            path.chmod(mode)
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _swap(draft: Path, target: Path) -> None:
    """Give ``draft`` the name ``target``. Of several writers at once the last wins; none leaves a mixture."""
    old = draft.with_suffix(".old")
    for attempt in range(_ATTEMPTS):
        try:
            with suppress(FileNotFoundError):
                target.rename(old)
            draft.rename(target)
        except OSError:
            if target.exists():
                # a rival's result is in place, newer than what was put aside
                shutil.rmtree(old, ignore_errors=True)
            elif old.is_dir():
                with suppress(OSError):
                    old.rename(target)
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            shutil.rmtree(old, ignore_errors=True)
            return
