"""The files of a review: CASE/review/journal.jsonl and the signed versions CASE/review/v1, v2 ... Only reads.

The last signed version, or the model's own result in CASE, is what a review starts from.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpanoptic.errors import ReviewError
from medpanoptic.io import read_result
from medpanoptic.result import PanopticResult
from medpanoptic.review.edit import Row
from medpanoptic.review.history import last_id, signed_rows
from medpanoptic.review.journal import JournalText, read_journal
from medpanoptic.review.rejected import with_rejected
from medpanoptic.volume import Volume

FOLDER = "review"
JOURNAL = "journal.jsonl"
SIGNATURE = "signature.json"
IMAGE = "image.json"
FORMAT = "medpanoptic-review"
FORMAT_VERSION = 1
# the files that say what a result is; pictures and DICOM objects follow from them
_RESULT_FILES = ("segments.json", "panoptic.nii.gz", "panoptic.tif", "stuff.nii.gz", "stuff.tif")
# after one of these the edits before it are no longer waiting
_ENDS = ("sign", "discard")


@dataclass(frozen=True, eq=False)
class OpenedCase:
    """What a review of a case starts from.

    folder : CASE/review. model : the result in CASE; base : the last signed version with what it rejected back in its
    place, or ``model``. version : the one that signing will make. text : the journal so far; pending : lines that it
    lacks because signing was cut off after the version was in place. unsaved : lines since the last signature. begun :
    whether a begin line is among them.
    discarded : how many lines were set aside on opening. rows : the table as it was last signed, see ``signed_rows``.
    last_id : the largest id that the journal ever used.
    """

    folder: Path
    model: PanopticResult
    base: PanopticResult
    version: int
    text: JournalText
    pending: tuple[dict[str, Any], ...]
    unsaved: tuple[dict[str, Any], ...]
    begun: bool
    discarded: int
    digests: Mapping[str, str]
    rows: Mapping[int, Row]
    last_id: int

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.folder / JOURNAL


@dataclass(frozen=True)
class Unsaved:
    """A review that was left or killed before it was signed. first, last : ISO times of its edits."""

    reader: str
    version: int
    edits: int
    first: str
    last: str


def find_unsaved(case: Path | str) -> Unsaved | None:
    """Tell whether a case holds edits that were never signed; reads the journal only.

    Raises ReviewError (JOURNAL-DAMAGED).
    """
    folder = Path(case) / FOLDER
    text, pending = _whole_journal(folder)
    lines = _since_last_end([*text.lines, *pending])
    edits = [line for line in lines if "rows" in line or line["action"] in ("undo", "redo")]
    if not edits:
        return None
    last = edits[-1]
    return Unsaved(str(last["reader"]), _latest(folder) + 1, len(edits), str(edits[0]["time"]), str(last["time"]))


def signed_versions(case: Path | str) -> list[Path]:
    """Return the folders of the signed versions of a case, oldest first."""
    folder = Path(case) / FOLDER
    found = folder.iterdir() if folder.is_dir() else ()
    names = [p for p in found if p.is_dir() and re.fullmatch(r"v[1-9][0-9]*", p.name)]
    return sorted(names, key=lambda p: int(p.name[1:]))


def _latest(folder: Path) -> int:
    versions = signed_versions(folder.parent)
    return int(versions[-1].name[1:]) if versions else 0


def open_case(case: Path, volume: Volume | None, *, discard: bool) -> OpenedCase:
    """Read and check all that a review of a case starts from; see ``ReviewSession.open`` for the errors."""
    folder = case / FOLDER
    model = read_result(case)
    versions = signed_versions(case)
    if versions:
        check_signed(versions[-1])
    base = with_rejected(read_result(versions[-1]), versions[-1]) if versions else model
    text, pending = _whole_journal(folder)
    unsaved = _since_last_end([*text.lines, *pending])
    digests = {"model": digest_of(case), "base": digest_of(versions[-1] if versions else case)}
    _check_same_case([*text.lines, *pending], unsaved, digests, image_key(volume))
    discarded = len(unsaved) if discard else 0
    kept = () if discard else tuple(unsaved)
    version = _latest(folder) + 1
    lines = [*text.lines, *pending]
    try:
        rows, last = signed_rows(lines), last_id(lines)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ReviewError("JOURNAL-DAMAGED", f"the journal's rows are not whole ({type(error).__name__})") from error
    return OpenedCase(
        folder, model, base, version, text, tuple(pending), kept, bool(unsaved), discarded, digests, rows, last
    )


def _check_same_case(
    lines: Sequence[Mapping[str, Any]], unsaved: Sequence[Mapping[str, Any]], digests: Mapping[str, str], image: str
) -> None:
    begins = [line for line in lines if line["action"] == "begin"]
    if begins and begins[-1].get("journal") != FORMAT_VERSION:
        raise ReviewError("REVIEW-VERSION", "the review was made by a later version of this program: update it")
    if begins and begins[-1]["model"] != digests["model"]:
        raise ReviewError(
            "REVIEW-BASE", "the case was segmented or saved anew since its review began: move its folder review away"
        )
    begin = next((line for line in unsaved if line["action"] == "begin"), None)
    if begin is not None and begin["base"] != digests["base"]:
        raise ReviewError("REVIEW-BASE", "the unsaved review was based on another version; open the case with discard")
    if begin is not None and begin["image"] != image:
        raise ReviewError("REVIEW-IMAGE", "the unsaved review began with another image: open the case with that one")


def begin_line(opened: OpenedCase | None, volume: Volume | None) -> dict[str, Any]:
    """Return the first line of a review: what it is about, by digests alone."""
    digests = {"model": "", "base": ""} if opened is None else dict(opened.digests)
    version = 1 if opened is None else opened.version
    head = {"action": "begin", "format": FORMAT, "journal": FORMAT_VERSION, "version": version}
    return {**head, **digests, "image": image_key(volume)}


def image_key(volume: Volume | None) -> str:
    """Return a hash that names the source series of an image; "" for one without UIDs."""
    if volume is None or not volume.source.series_uid:
        return ""
    source = volume.source
    text = "\n".join((source.study_uid, source.series_uid, *source.sop_uids))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of(case: Path) -> str:
    """Return the SHA-256 (hex) of the files that say what a result is."""
    names = [name for name in _RESULT_FILES if (case / name).is_file()]
    return hashlib.sha256("".join(f"{name} {file_digest(case / name)}\n" for name in names).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _since_last_end(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    ends = [i for i, line in enumerate(lines) if line["action"] in _ENDS]
    return list(lines[ends[-1] + 1 if ends else 0 :])


def _whole_journal(folder: Path) -> tuple[JournalText, list[dict[str, Any]]]:
    """Read the journal and the lines that only the copy in the last signed version has.

    Signing puts the version in place first and writes its line into the journal after.
    """
    text = read_journal(folder / JOURNAL)
    versions = signed_versions(folder.parent)
    if not versions:
        return text, []
    copy = read_journal(versions[-1] / JOURNAL).lines
    hashes = [line["hash"] for line in copy]
    own = [line["hash"] for line in text.lines]
    if own[: len(hashes)] != hashes[: len(own)]:
        raise ReviewError(
            "REVIEW-TAMPERED", f"the journal of the case and that of {versions[-1].name} tell different stories"
        )
    return text, list(copy[len(own) :])


def check_signed(folder: Path) -> dict[str, Any]:
    """Check that a signed version is as it was signed, by hash, and return its signature.

    Raises ReviewError (REVIEW-TAMPERED) naming what was changed, is missing or was added; (JOURNAL-DAMAGED).
    """

    def refuse(what: str) -> ReviewError:
        return ReviewError("REVIEW-TAMPERED", f"signed version {folder.name}: {what}; put back a copy as it was signed")

    try:
        signature = json.loads((folder / SIGNATURE).read_text(encoding="utf-8"))
        files = dict(signature["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise refuse(f"{SIGNATURE} is missing or damaged") from None
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {SIGNATURE}
    if odd := sorted(there ^ set(files)):
        raise refuse(f"files are missing or were added: {', '.join(odd[:5])}")
    for name, digest in sorted(files.items()):
        if file_digest(folder / name) != digest:
            raise refuse(f"{name} was changed since")
    text = read_journal(folder / JOURNAL)
    sign = text.lines[-1] if text.lines and not text.torn else {}
    listed = {name: digest for name, digest in files.items() if name != JOURNAL}
    told = {k: signature.get(k) for k in ("sign", "reader", "time", "version")}
    said = {k: sign.get("hash" if k == "sign" else k) for k in told}
    if sign.get("action") != "sign" or said != told or sign["files"] != listed:
        raise refuse(f"{SIGNATURE} and {JOURNAL} do not agree")
    return dict(signature)
