"""The list of lesions as a CSV file: in each signed version, and whenever a reader asks for it."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from medpanoptic.errors import WriteError
from medpanoptic.measure import measure_columns, measure_row
from medpanoptic.review.session import ReviewSession
from medpanoptic.review.worklist import worklist

WORKLIST = "lesions.csv"
NOT_SIGNED = "not signed"


def save_lesions(session: ReviewSession, path: Path | str) -> Path:
    """Write the list of lesions as it is now, whole or not at all, and return its path; nothing is signed by that.

    Rows and columns as in lesions.csv of a signed version: all of ``worklist``, mean, std, min, max of each channel and
    the peak of a PET, and ``version``; where the review is not signed that says so. Lesions that are rejected, also by
    earlier versions, are listed as such. An older file of the name is replaced. Raises WriteError (WRITE-OS).
    """
    target = Path(path)
    # mkstemp would close the file to everyone but its owner
    draft = target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
    try:
        write_lesions(session, draft, str(session.version) if session.signed else NOT_SIGNED)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, target)
    except OSError as error:
        raise WriteError(
            "WRITE-OS", f"{target.name} cannot be written: {error.strerror or type(error).__name__}"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return target


def write_lesions(session: ReviewSession, path: Path, version: str) -> None:
    """Write the list; its last column is ``version``, or the earlier one that rejected the lesion."""
    table = worklist(session, measure_all=True)
    common = len(measure_columns(session.ids.ndim))
    values = measure_columns(session.ids.ndim, session.volume)[common:]
    columns = [*table.columns, *values, "version"]
    before = {int(row["id"]): row for row in _rejected_before(session)}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in table.itertuples(index=False):
            measured = measure_row(session.measures(row.id))
            old = before.pop(row.id, None)
            of_version = old["version"] if old is not None and row.status == "rejected" else version
            cells = [*row, *(measured.get(name) for name in values)]
            writer.writerow([*("" if v != v or v is None else v for v in cells), of_version])
        writer.writerows([old.get(name, "") for name in columns] for old in before.values())


def _rejected_before(session: ReviewSession) -> list[dict[str, str]]:
    """Return the rows of lesions that earlier versions rejected, as they were listed then."""
    if session.opened is None or session.version == 1:
        return []
    before = session.version - 1
    with (session.opened.folder / f"v{before}" / WORKLIST).open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = [{"version": str(before), **row} for row in csv.DictReader(file)]
    return [row for row in rows if row["status"] == "rejected"]
