"""Find the studies in folders of any size: headers are read one by one, the list lies in a temporary database.

Memory does not grow with the number of files. The list holds paths, so it is never kept: SQLite deletes it when it is
closed or the process ends.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from medpanoptic.batch.keys import fingerprint, study_handle
from medpanoptic.batch.settings import Study
from medpanoptic.cases import IMAGE_SUFFIXES
from medpanoptic.errors import ReadError
from medpanoptic.io.dicom_files import looks_like_dicom, quiet_pydicom, read_dataset, walk_files

# in a folder whose files are not for a batch, or not yet: a study that is still coming in
HOLD = ".hold"
_COMMIT_EVERY = 1000
# .mhd names its pixel file inside: it cannot be handed on under a neutral name
_IMAGES = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix != ".mhd")
# a file of a few bytes is no slice of anything; the reader counts a larger one as missing from its series
_SMALLEST_IMAGE_BYTES = 512


class StudyIndex:
    """Every file of every study, by handle. ``skipped`` counts the other files, by reason; ``files`` all seen."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        # an empty name: a private database on disk that is deleted when closed
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(
            "CREATE TABLE files(study TEXT, kind TEXT, path BLOB UNIQUE, folder BLOB, size INT, mtime_ns INT);"
            "CREATE INDEX by_study ON files(study); CREATE INDEX by_folder ON files(folder, kind);"
        )
        self.skipped: Counter[str] = Counter()
        self.files = 0

    def close(self) -> None:
        """Delete the list."""
        self._database.close()

    def add_tree(self, root: Path, excluded: Path, progress: Callable[[int], None] | None = None) -> None:
        """Read the headers of a folder, or one file. ``excluded`` (our own output) and result folders are left out.

        Raises ReadError (NOT-FOUND).
        """
        if not root.exists():
            raise ReadError("NOT-FOUND", f"{root} does not exist")
        self._database.execute("BEGIN")
        for path, reason in _regular_files(root.absolute(), excluded):
            self.files += 1
            self._add(path, reason)
            if self.files % _COMMIT_EVERY == 0:
                self._database.execute("COMMIT")
                self._database.execute("BEGIN")
                if progress is not None:
                    progress(self.files)
        self._database.execute("COMMIT")

    def _add(self, path: Path, reason: str) -> None:
        if reason:
            self.skipped[reason] += 1
            return
        try:
            status = path.stat()
        except OSError:
            self.skipped["gone since its name was read"] += 1
            return
        try:
            found = _classify(path)
        except OSError:
            # it may be a slice: the studies beside it must not go on without it
            found = ("damaged", "")
        if found is None:
            self.skipped["neither DICOM nor an image"] += 1
            return
        kind, name = found
        study = study_handle(self._key, name) if name else None
        row = (study, kind, os.fsencode(path), os.fsencode(path.parent), status.st_size, status.st_mtime_ns)
        self._database.execute("INSERT OR IGNORE INTO files VALUES (?, ?, ?, ?, ?, ?)", row)

    def attach_damaged(self) -> None:
        """Give each unreadable file to the studies beside it, whose reader tells what that means for them.

        One that lies alone becomes a study of its own, so that it is refused and not lost.
        """
        damaged = self._database.execute(
            "SELECT path, folder, size, mtime_ns FROM files WHERE study IS NULL AND kind = 'damaged'"
        ).fetchall()
        # the column is unique: rows for several studies go to a table beside it
        self._database.execute("CREATE TABLE extra(study TEXT, path BLOB, size INT, mtime_ns INT)")
        for path, folder, size, mtime_ns in damaged:
            owners = self._database.execute(
                "SELECT DISTINCT study FROM files WHERE folder = ? AND kind = 'dicom'", (folder,)
            ).fetchall()
            if not owners:
                own = study_handle(self._key, os.fsdecode(path))
                self._database.execute("UPDATE files SET study = ? WHERE path = ?", (own, path))
            for (study,) in owners:
                self._database.execute("INSERT INTO extra VALUES (?, ?, ?, ?)", (study, path, size, mtime_ns))
        self._database.execute("CREATE INDEX by_extra ON extra(study)")

    def handles(self) -> Iterator[str]:
        """Yield the handle of every study, in the order they were met."""
        cursor = self._database.cursor()
        for (study,) in cursor.execute(
            "SELECT study FROM files WHERE study IS NOT NULL GROUP BY study ORDER BY min(rowid)"
        ):
            yield study

    def count(self) -> int:
        """Return the number of studies."""
        return int(self._database.execute("SELECT count(DISTINCT study) FROM files").fetchone()[0])

    def __contains__(self, handle: str) -> bool:
        row = self._database.execute("SELECT 1 FROM files WHERE study = ? LIMIT 1", (handle,)).fetchone()
        return row is not None

    def study(self, handle: str) -> Study:
        """Return a study with its files, sorted by path."""
        rows = self._database.execute(
            "SELECT path, size, mtime_ns FROM files WHERE study = ?1 "
            "UNION SELECT path, size, mtime_ns FROM extra WHERE study = ?1 ORDER BY path",
            (handle,),
        ).fetchall()
        (kind,) = self._database.execute("SELECT kind FROM files WHERE study = ? LIMIT 1", (handle,)).fetchone()
        files = tuple((os.fsdecode(path), size, mtime_ns) for path, size, mtime_ns in rows)
        return Study(handle, "dicom" if kind == "damaged" else kind, files, fingerprint(self._key, files))


def scan_inputs(
    inputs: Iterable[Path], key: bytes, excluded: Path, progress: Callable[[int], None] | None = None
) -> StudyIndex:
    """Read the headers below every input and group the files by StudyInstanceUID, across folders.

    NIfTI, MHA, NRRD, PNG, TIFF and JPEG files are studies of one file. excluded : the output folder.
    progress : called now and then with the number of files seen. Raises ReadError (NOT-FOUND).
    """
    index = StudyIndex(key)
    with quiet_pydicom():  # once for all: each file is then read with less ado
        for path in inputs:
            index.add_tree(Path(path), excluded.absolute(), progress)
    index.attach_damaged()
    return index


def _regular_files(root: Path, excluded: Path) -> Iterator[tuple[Path, str]]:
    """Yield (file, "" or why it is left out); links that lead out of the root are left out."""
    if root.is_file():
        yield root, ""
        return
    folder: Path | None = None
    ours: Path | None = None  # a result folder of ours is output, whatever lies in it; so is one that is held back
    for path, _, reason in walk_files(root):
        if path.parent != folder:
            folder = path.parent
            if ours is None or not folder.is_relative_to(ours):
                ours = folder if any((folder / name).is_file() for name in ("segments.json", HOLD)) else None
        if ours is None and not path.is_relative_to(excluded):
            yield path, reason


def _classify(path: Path) -> tuple[str, str] | None:
    """Return (kind, name to hash): ("dicom", StudyInstanceUID), ("image", path), ("damaged", ""); None for others."""
    lower = path.name.lower()
    if lower.endswith(_IMAGES):
        return "image", str(path.resolve())
    if lower == "dicomdir" or not looks_like_dicom(path):
        return None
    try:
        dataset = read_dataset(path, "file", ["StudyInstanceUID"])
        uid = str(dataset.get("StudyInstanceUID") or "").strip()
    except ReadError:
        uid = ""
    except Exception:  # pydicom converts a garbled element on access, and raises nearly any type
        uid = ""
    if uid:
        return "dicom", uid
    return ("damaged", "") if path.stat().st_size > _SMALLEST_IMAGE_BYTES else None
