"""What is to be delivered, what was, and when to try again: a small SQLite file that survives a restart.

Rows hold a peer's address, handles, digests, codes and the peer's status; no UID, name or date of a patient.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medpanoptic.batch.database import Database, Row
from medpanoptic.errors import BatchError
from medpanoptic.pacs.parcels import DELIVERED, REFUSED

QUEUED, GIVEN_UP, REPLACED = "queued", "given-up", "replaced"
STATES = (QUEUED, DELIVERED, REFUSED, GIVEN_UP, REPLACED)
VERSION = 1
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS objects(
    id INTEGER PRIMARY KEY, peer TEXT NOT NULL, study TEXT NOT NULL, path TEXT NOT NULL, digest TEXT NOT NULL,
    state TEXT NOT NULL CHECK(state IN {STATES}), code TEXT DEFAULT '', status TEXT DEFAULT '', attempts INT DEFAULT 0,
    next_try REAL DEFAULT 0, changed REAL, UNIQUE(peer, study, path, digest));
CREATE INDEX IF NOT EXISTS by_due ON objects(peer, state, next_try);
"""


class Outbox:
    """An open outbox for one peer. now : wall clock, which outlives a restart; one that jumps costs a pause at most.

    Raises BatchError from any method: OUTBOX-DAMAGED, OUTBOX-DISK.
    """

    def __init__(self, path: Path, peer: str, now: Callable[[], float] = time.time) -> None:
        self._peer, self._now = peer, now
        self._database = Database(path, lambda error: _named(path, error))
        (found,) = (self._database.first("PRAGMA user_version") or {}).values()
        if found > VERSION:
            raise BatchError("OUTBOX-VERSION", f"{path} was made by a newer version of this program")
        self._database.script(_SCHEMA + f"PRAGMA user_version={VERSION};")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def plan(self, study: str, outputs: Mapping[str, str], again: bool = False) -> None:
        """Queue the outputs (path -> SHA-256) of a study that were never queued; drop what they have replaced.

        again : also queue what was refused or given up.
        """
        with self._database.transaction():
            for path, digest in outputs.items():
                self._database.execute(
                    "INSERT OR IGNORE INTO objects(peer, study, path, digest, state, changed) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    *(self._peer, study, path, digest, QUEUED, self._now()),
                )
            known = "SELECT * FROM objects WHERE peer = ? AND study = ?"
            for row in list(self._database.rows(known, self._peer, study)):
                current = outputs.get(row["path"]) == row["digest"]
                if not current and row["state"] != DELIVERED:
                    self._set(row["id"], state=REPLACED)
                # a result that came back to what it was, or a new try that was asked for
                elif current and (row["state"] == REPLACED or (again and row["state"] in (REFUSED, GIVEN_UP))):
                    self._set(row["id"], state=QUEUED, code="", status="", attempts=0, next_try=0)

    def due(self, longest_s: float, limit: int) -> list[Row]:
        """Return rows to deliver now, oldest first, those of one study together.

        longest_s : no pause is longer; a time further away is of a clock that has been set back.
        """
        now = self._now()
        return list(
            self._database.rows(
                "SELECT * FROM objects WHERE peer = ? AND state = ? AND (next_try <= ? OR next_try > ?) "
                "ORDER BY attempts, study, path LIMIT ?",
                *(self._peer, QUEUED, now, now + longest_s, limit),
            )
        )

    def wait_s(self) -> float | None:
        """Return the seconds until the next row is due, None if none is queued."""
        query = "SELECT next_try FROM objects WHERE peer = ? AND state = ? ORDER BY next_try LIMIT 1"
        row = self._database.first(query, self._peer, QUEUED)
        return None if row is None else max(0.0, row["next_try"] - self._now())

    def note(self, row: int, **fields: Any) -> None:
        """Write down what became of a row; it is on the disk when this returns."""
        with self._database.transaction():
            self._set(row, **fields)

    def counts(self) -> dict[str, int]:
        """Return the number of objects in each state."""
        rows = self._database.rows("SELECT state, count(*) AS n FROM objects WHERE peer = ? GROUP BY state", self._peer)
        found = {row["state"]: row["n"] for row in rows}
        return {state: found.get(state, 0) for state in STATES}

    def codes(self) -> list[Row]:
        """Return (state, code, status, number) of all objects that are not simply delivered."""
        return list(
            self._database.rows(
                "SELECT state, code, status, count(*) AS number FROM objects WHERE peer = ? AND code != '' "
                "GROUP BY state, code, status ORDER BY number DESC",
                self._peer,
            )
        )

    def delivered(self, study: str) -> tuple[int, int]:
        """Return (delivered, all current) objects of a study."""
        row = next(
            self._database.rows(
                "SELECT sum(state = ?) AS sent, count(*) AS n FROM objects WHERE peer = ? AND study = ? AND state != ?",
                *(DELIVERED, self._peer, study, REPLACED),
            )
        )
        return row["sent"] or 0, row["n"]

    # ---- inside

    def _set(self, row: int, **fields: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in (*fields, "changed"))
        self._database.execute(f"UPDATE objects SET {names} WHERE id = ?", *fields.values(), self._now(), row)


def _named(path: Path, error: sqlite3.DatabaseError) -> BatchError:
    """Give an error of SQLite a name that says what to do."""
    if isinstance(error, sqlite3.OperationalError):
        return BatchError("OUTBOX-DISK", f"{path} cannot be read or written ({error})")
    text = f"{path} is damaged; remove it: everything is sent again, which changes nothing at the peer"
    return BatchError("OUTBOX-DAMAGED", text)
