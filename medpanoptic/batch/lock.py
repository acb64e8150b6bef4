"""Whether a program works in a folder: a lock of SQLite, which is portable and dies with its process."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from medpanoptic.errors import BatchError

_NAME = ".lock"
_PATIENCE_S = 1.0  # with somebody who only looks


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold an output folder: a second batch on it is refused. The system lets go when the process ends, however.

    Raises BatchError: BATCH-RUNNING, OUTPUT-DISK.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = sqlite3.connect(folder / _NAME, isolation_level=None, timeout=_PATIENCE_S)
    except (OSError, sqlite3.Error) as error:
        raise BatchError("OUTPUT-DISK", f"{folder} cannot be written: choose another folder") from error
    with closing(lock):
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise BatchError("BATCH-RUNNING", f"another batch works in {folder}; wait for it or stop it") from error
            raise BatchError("OUTPUT-DISK", f"{folder} cannot be written: choose another folder") from error
        yield


def is_held(folder: Path) -> bool:
    """Tell whether a program holds a folder now."""
    if not (folder / _NAME).is_file():
        return False
    with closing(sqlite3.connect(f"{(folder / _NAME).absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as lock:
        try:
            lock.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            return "locked" in str(error)
    return False
