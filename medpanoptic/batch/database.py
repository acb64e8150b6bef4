"""An SQLite file whose errors come out under names of ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medpanoptic.errors import BatchError

Row = dict[str, Any]


class Database:
    """An open file. Each statement outside ``transaction`` is one of its own.

    name : gives the error to raise for one of SQLite's. mode : "rwc", or "rw" for a file that must exist.
    busy_s : how long to wait for another program that writes.
    """

    def __init__(
        self, path: Path, name: Callable[[sqlite3.DatabaseError], BatchError], *, mode: str = "rwc", busy_s: float = 30
    ) -> None:
        self._name = name
        with self.named():
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                isolation_level=None,
                timeout=busy_s,
                check_same_thread=False,
            )
            self._connection.row_factory = sqlite3.Row

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def execute(self, statement: str, *values: Any) -> None:
        """Run one statement."""
        with self.named():
            self._connection.execute(statement, values)

    def script(self, statements: str) -> None:
        """Run several statements."""
        with self.named():
            self._connection.executescript(statements)

    def rows(self, query: str, *values: Any) -> Iterator[Row]:
        """Yield what a query finds, row by row."""
        with self.named():
            for row in self._connection.execute(query, values):
                yield dict(row)

    def first(self, query: str, *values: Any) -> Row | None:
        """Return the first row of a query, None if there is none."""
        return next(self.rows(query, *values), None)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all that is inside, or nothing."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite ends it itself when the disk is full
                self.execute("ROLLBACK")
            raise

    @contextmanager
    def named(self) -> Iterator[None]:
        """Raise the error that ``name`` gives for one of SQLite's."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise self._name(error) from error
