"""The ledger: one SQLite file that says of every study what became of it. The client of a batch writes it;
``send`` adds only what was delivered.

It holds handles (keyed hashes), codes, counts and durations; no UID, path, name or date of a patient.
SQLite in WAL mode needs a local disk. Source: sqlite.org, "Write-Ahead Logging", section 1.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medpanoptic.batch.database import Database, Row
from medpanoptic.batch.settings import QUEUED, RUNNING, STATES, Outcome, Study
from medpanoptic.errors import BatchError

VERSION = 1
_REMOTE_DISKS = ("nfs", "cifs", "smb", "afs", "9p", "fuse.sshfs", "ceph", "lustre", "beegfs")
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS runs(
    run TEXT PRIMARY KEY, started REAL, ended REAL, model TEXT, model_hash TEXT, parameter_hash TEXT, parameters TEXT,
    software TEXT, workers INT, stopped TEXT, seconds REAL, finished INT);
CREATE TABLE IF NOT EXISTS studies(
    study TEXT PRIMARY KEY, kind TEXT, files INT, bytes INT, fingerprint TEXT, input_digest TEXT, model_hash TEXT,
    parameter_hash TEXT, state TEXT NOT NULL CHECK(state IN {STATES}), code TEXT DEFAULT '', stage TEXT DEFAULT '',
    attempts INT DEFAULT 0, fallback TEXT DEFAULT '', things INT DEFAULT 0, started REAL, duration_s REAL,
    worker TEXT DEFAULT '', peak_mb REAL, outputs TEXT DEFAULT '{{}}', delivered TEXT DEFAULT '', run TEXT);
CREATE TABLE IF NOT EXISTS attempts(
    study TEXT, run TEXT, attempt INT, code TEXT, kind TEXT, stage TEXT, signal INT, fallback TEXT, started REAL,
    duration_s REAL, peak_mb REAL, worker TEXT, seconds TEXT);
CREATE INDEX IF NOT EXISTS by_state ON studies(state);
CREATE INDEX IF NOT EXISTS by_study ON attempts(study);
"""


class Ledger:
    """An open ledger. ``clock`` gives wall time, which is recorded and never computed with: durations are monotonic.

    Raises BatchError from any method: LEDGER-DAMAGED, LEDGER-LOCKED (another program holds it), LEDGER-FULL (no room
    on its disk), LEDGER-VERSION, LEDGER-REMOTE, LEDGER-MISSING.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        busy_s: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path, self._clock = path, clock
        if read_only and not path.is_file():
            raise BatchError("LEDGER-MISSING", f"{path} does not exist: no batch has run there")
        if not read_only:
            _refuse_remote_disk(path)
            path.parent.mkdir(parents=True, exist_ok=True)
        # mode=rw also for readers: SQLite needs it to open a WAL file; they begin no write transaction
        mode = "rw" if read_only else "rwc"
        self._database = Database(path, lambda error: _named(path, error), mode=mode, busy_s=busy_s)
        self._check(read_only)

    def _check(self, read_only: bool) -> None:
        if self._value("PRAGMA quick_check(1)") != "ok":
            raise _named(self.path, sqlite3.DatabaseError("malformed"))
        found = self._value("PRAGMA user_version")
        if found > VERSION:
            raise BatchError("LEDGER-VERSION", f"{self.path} is of version {found}, this program knows {VERSION}")
        if read_only:
            self._value("SELECT count(*) FROM studies")
        else:
            self._database.execute("PRAGMA journal_mode=WAL")
            # a power cut may lose the last rows, never the file; result folders tell what was done
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.script(_SCHEMA + f"PRAGMA user_version={VERSION};")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    # ---- runs

    def begin_run(self, run: str, **fields: Any) -> None:
        """Note that a run starts, and put what an earlier one left unfinished back into the queue."""
        with self._database.transaction():
            self._insert("runs", run=run, started=self._clock(), **fields)
            self._database.execute("UPDATE studies SET state = ? WHERE state = ?", QUEUED, RUNNING)

    def end_run(self, run: str, stopped: str, seconds: float, finished: int) -> None:
        """Note how a run ended. Whatever still counts as running was given up: it is queued again."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE runs SET ended = ?, stopped = ?, seconds = ?, finished = ? WHERE run = ?",
                *(self._clock(), stopped, seconds, finished, run),
            )
            self._database.execute("UPDATE studies SET state = ? WHERE state = ?", QUEUED, RUNNING)

    def last_run(self) -> Row | None:
        """Return the newest run."""
        return self._database.first("SELECT * FROM runs ORDER BY rowid DESC LIMIT 1")

    # ---- studies

    def get(self, study: str) -> Row | None:
        """Return the row of one study."""
        return self._database.first("SELECT * FROM studies WHERE study = ?", study)

    def queue(self, study: Study, run: str, known_digest: str) -> None:
        """Put a study into the queue. known_digest : of the content for which whole and current results are there."""
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO studies(study, kind, files, bytes, fingerprint, state, run, input_digest) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT(study) DO UPDATE SET kind = excluded.kind, files = excluded.files, "
                "bytes = excluded.bytes, fingerprint = excluded.fingerprint, state = excluded.state, code = '', "
                "stage = '', attempts = 0, run = excluded.run, input_digest = excluded.input_digest",
                *(study.handle, study.kind, len(study.files), study.bytes, study.fingerprint),
                *(QUEUED, run, known_digest),
            )

    def start(self, study: str) -> None:
        """Note that a study was handed to a worker."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE studies SET state = ?, started = ?, attempts = attempts + 1 WHERE study = ?",
                *(RUNNING, self._clock(), study),
            )

    def attempted(self, study: str, run: str, outcome: Outcome, **final: Any) -> None:
        """Note one attempt and, with ``final`` fields, what the study's row becomes."""
        row = self.get(study) or {}
        with self._database.transaction():
            self._insert(
                "attempts",
                study=study,
                run=run,
                attempt=row.get("attempts", 0),
                code=outcome.code,
                kind=outcome.kind,
                stage=outcome.stage,
                signal=outcome.signal,
                fallback=outcome.fallback,
                started=row.get("started"),
                duration_s=outcome.duration_s,
                peak_mb=outcome.peak_mb,
                worker=outcome.worker,
                seconds=json.dumps(dict(outcome.seconds)),
            )
            self._update(study, final)

    def set(self, study: str, **fields: Any) -> None:
        """Change fields of a study's row."""
        with self._database.transaction():
            self._update(study, fields)

    def adopt(self, study: str, fields: Mapping[str, Any]) -> None:
        """Insert the row of a study that a result folder tells of."""
        with self._database.transaction():
            self._insert("studies", study=study, **fields)

    def ended_in(self, run: str) -> int:
        """Return how many studies came to an end in a run."""
        query = "SELECT count(*) AS n FROM studies WHERE run = ? AND state NOT IN (?, ?)"
        return int((self._database.first(query, run, QUEUED, RUNNING) or {})["n"])

    def first(self, state: str) -> str | None:
        """Return the handle of the study that has been in a state for longest, None if there is none."""
        row = self._database.first("SELECT study FROM studies WHERE state = ? ORDER BY rowid LIMIT 1", state)
        return None if row is None else str(row["study"])

    def handles(self, state: str) -> list[str]:
        """Return the handles of all studies in a state."""
        return [row["study"] for row in self._database.rows("SELECT study FROM studies WHERE state = ?", state)]

    def counts(self) -> dict[str, int]:
        """Return the number of studies in each state."""
        rows = self._database.rows("SELECT state, count(*) AS n FROM studies GROUP BY state")
        found = {row["state"]: row["n"] for row in rows}
        return {state: found.get(state, 0) for state in STATES}

    def codes(self) -> list[Row]:
        """Return (state, code, stage, number) of all studies that have a code."""
        return list(
            self._database.rows(
                "SELECT state, code, stage, count(*) AS number FROM studies WHERE code != '' "
                "GROUP BY state, code, stage ORDER BY number DESC, code"
            )
        )

    def totals(self) -> Row:
        """Return attempts, retries, fallbacks, and mean and largest duration and memory of the studies done."""
        return next(
            self._database.rows(
                "SELECT (SELECT count(*) FROM attempts) AS attempts, "
                "(SELECT count(*) FROM attempts WHERE code != '') AS failed_attempts, "
                "(SELECT count(*) FROM studies WHERE fallback != '') AS fallbacks, "
                "avg(duration_s) AS mean_s, max(duration_s) AS longest_s, max(peak_mb) AS peak_mb, "
                "sum(things) AS things FROM studies WHERE duration_s IS NOT NULL"
            )
        )

    def studies(self) -> Iterator[Row]:
        """Yield all rows, by handle, with ``outputs`` as a mapping."""
        for row in self._database.rows("SELECT * FROM studies ORDER BY study"):
            yield {**row, "outputs": json.loads(row["outputs"])}

    def export(self, path: Path) -> None:
        """Write all rows as JSON lines."""
        draft = path.with_name(f".{path.name}.part")
        try:
            with draft.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps(row, sort_keys=True) + "\n" for row in self.studies())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    # ---- inside

    def _value(self, query: str) -> Any:
        return next(iter((self._database.first(query) or {}).values()))

    def _insert(self, table: str, **fields: Any) -> None:
        marks = ", ".join("?" * len(fields))
        self._database.execute(
            f"INSERT OR REPLACE INTO {table}({', '.join(fields)}) VALUES ({marks})", *fields.values()
        )

    def _update(self, study: str, fields: Mapping[str, Any]) -> None:
        if fields:
            names = ", ".join(f"{name} = ?" for name in fields)
            self._database.execute(f"UPDATE studies SET {names} WHERE study = ?", *fields.values(), study)


def _named(path: Path, error: sqlite3.DatabaseError) -> BatchError:
    """Give an error of SQLite a name that says what to do."""
    text = str(error)
    if not isinstance(error, sqlite3.OperationalError) or "no such table" in text or "malformed" in text:
        return BatchError(
            "LEDGER-DAMAGED", f"{path} is damaged; batch --resume puts it aside and reads the results instead"
        )
    if "locked" in text or "busy" in text:
        return BatchError("LEDGER-LOCKED", f"{path} is held by another program; end it and run again with --resume")
    if "full" in text:
        return BatchError("LEDGER-FULL", f"no room left on the disk of {path}; make room and run again with --resume")
    return BatchError("LEDGER-DISK", f"{path} cannot be read or written ({text}); check its folder")


def _refuse_remote_disk(path: Path) -> None:
    """Refuse a network disk, on which WAL corrupts. Unknown kinds of disks pass."""
    import psutil

    place = os.path.realpath(path.parent)
    mounts = [p for p in psutil.disk_partitions(all=True) if Path(place).is_relative_to(p.mountpoint)]
    kind = max(mounts, key=lambda p: len(p.mountpoint)).fstype.lower() if mounts else ""
    if kind.startswith(_REMOTE_DISKS):
        raise BatchError("LEDGER-REMOTE", f"{path} would be on a network disk ({kind}): name a local folder (--ledger)")
