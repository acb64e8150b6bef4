"""Sign a review: a locked version folder with all outputs, under the reader's name and a chain of hashes.

The signature is a name and SHA-256 sums, not a cryptographic one: it shows changes, it does not prove who signed.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medpanoptic import __version__
from medpanoptic.errors import ReviewError
from medpanoptic.io import FORMATS, write_result
from medpanoptic.io.dicom_sr import Reader, write_dicom_sr
from medpanoptic.io.new_folder import new_folder
from medpanoptic.measure import Axis, DrawnAxes
from medpanoptic.result import Provenance
from medpanoptic.review.case_files import IMAGE, JOURNAL, SIGNATURE, file_digest
from medpanoptic.review.lesions_csv import WORKLIST, write_lesions
from medpanoptic.review.rejected import write_rejected
from medpanoptic.review.session import ReviewSession
from medpanoptic.volume import Source

# csv and picture for everyone; SEG, SR and secondary capture where there is a DICOM source
_PLAIN = ("csv", "png")
_REPORT = "dicom-sr"  # written apart, since it names the reader
_DICOM = ("dicom-seg", _REPORT, "dicom-sc")


def sign(
    session: ReviewSession,
    *,
    organization: str = "",
    allow_unread: bool = False,
    formats: Sequence[str] | None = None,
    image: Path | str | Mapping[str, Path | str] | None = None,
    on_step: Callable[[float, str], None] | None = None,
) -> Path:
    """Write CASE/review/vN, whole or not at all, lock the session, and return the folder.

    It holds the result (rejected lesions left out), the formats, lesions.csv (the list, with those rejected in this and
    in earlier versions), rejected.json (their voxels), the journal, and signature.json with the SHA-256 of every file.
    A review that found nothing is signed like any other.
    organization : the reader's; with it the DICOM report is verified, else it names the reader as observer only.
    allow_unread : sign although lesions were not read. formats : names of ``FORMATS``; None takes csv and png, and the
    DICOM objects where the image is a DICOM series.
    image : the file, folder or {channel: path} that was read; its place is kept in image.json, so that the review can
    be trained on. Paths may hold names: nothing else records it.
    on_step : called with the part that is done (0 to 1) and what comes next: "result", the name of a format, "list",
    "hashes"; at the end with 1 and "signed".
    Raises ReviewError: REVIEW-CASE (a session without a case folder), REVIEW-SIGNED, REVIEW-UNREAD, REVIEW-BUSY;
    WriteError. Until it returns, edits are refused (REVIEW-BUSY), also those of another thread.
    """
    opened = session.opened
    if opened is None:
        raise ReviewError("REVIEW-CASE", "only a review of a case folder can be signed: use ReviewSession.open")
    unread = [i for i in session.things if session.row(i).segment.verdict == "unread"]
    if unread and not allow_unread:
        raise ReviewError(
            "REVIEW-UNREAD", f"{len(unread)} lesions are unread, such as {unread[:5]}; read them or allow it"
        )
    moment = session.begin_signing()
    try:
        names = usual_formats(session.live.source, session.ids.ndim) if formats is None else list(formats)
        step = _steps(on_step, ["result", "json", "nifti", *names, "list", "hashes"])
        target = opened.folder / f"v{session.version}"
        with new_folder(target, frozenset(), _refuse) as draft:
            _write_files(session, draft, moment, Reader(session.reader, organization.strip()), names, step)
            if image is not None:
                _write_image(image, draft / IMAGE)
            step("hashes")
            line = _seal(session, draft, moment)
        session.lock(line)
    finally:
        session.signing = False
    step("signed")
    return target


def _write_files(
    session: ReviewSession, draft: Path, moment: str, reader: Reader, names: Sequence[str], step: Callable[[str], None]
) -> None:
    step("result")
    result = session.live.freeze(_provenance(session, moment))
    axes, plain = drawn_axes(session), [n for n in names if n != _REPORT]
    write_result(result, draft, formats=plain, volume=session.volume, axes=axes, on_format=step)
    if _REPORT in names:
        step(_REPORT)
        write_dicom_sr(result, draft, session.volume, reader=reader, verified=bool(reader.organization), axes=axes)
    step("list")
    write_lesions(session, draft / WORKLIST, str(session.version))
    write_rejected(session.live, draft)


def _steps(told: Callable[[float, str], None] | None, names: Sequence[str]) -> Callable[[str], None]:
    done = itertools.count()

    def step(name: str) -> None:
        if told is not None:
            told(1.0 if name == "signed" else next(done) / len(set(names)), name)

    return step


def usual_formats(source: Source, ndim: int) -> list[str]:
    """Return the formats that a signed version has without being asked. source : of the image."""
    wanted = [*_PLAIN, *(_DICOM if source.sop_uids and source.paths else ())]
    return [name for name in wanted if name in FORMATS and ndim in FORMATS[name].ndims]


def drawn_axes(session: ReviewSession) -> dict[int, DrawnAxes]:
    """Return {lesion: the long and the short axis that the reader drew, None for the one found}; none without both."""
    affine, ndim = session.affine, session.ids.ndim
    found = {}
    for segment_id in session.things:
        lines = session.row(segment_id).long_axis, session.row(segment_id).short_axis
        if any(lines):
            long_axis, short_axis = (Axis.of_reader(*line, affine, ndim) if line else None for line in lines)
            found[segment_id] = (long_axis, short_axis)
    return found


def _refuse(target: Path) -> None:
    raise ReviewError("REVIEW-BUSY", f"{target.name} is there already: another program signed; open the case anew")


def _provenance(session: ReviewSession, moment: str) -> Provenance:
    model = session.live.base.provenance
    parameters = {**model.parameters, "review_version": session.version, "reader": session.reader}
    return replace(model, medpanoptic_version=__version__, created=moment, parameters=parameters)


def _write_image(image: Path | str | Mapping[str, Path | str], path: Path) -> None:
    places = {"": image} if isinstance(image, str | Path) else dict(image)
    # absolute, since the next program starts elsewhere; links are left as the user gave them
    content = {"image": {name: os.path.abspath(place) for name, place in places.items()}}
    path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _seal(session: ReviewSession, draft: Path, moment: str) -> dict[str, Any]:
    """Add the journal, ending in the line that names every other file, and the signature; return that line."""
    files = {p.relative_to(draft).as_posix(): file_digest(p) for p in sorted(draft.rglob("*")) if p.is_file()}
    fields = {"action": "sign", "version": session.version, "reader": session.reader, "time": moment, "files": files}
    line = session.journal.prepare(fields)
    (draft / JOURNAL).write_bytes(session.journal.text_with(line))
    signature = {
        "format": "medpanoptic-signature",
        "version": session.version,
        "reader": session.reader,
        "time": moment,
        "sign": line["hash"],
        "files": {**files, JOURNAL: file_digest(draft / JOURNAL)},
    }
    text = json.dumps(signature, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (draft / SIGNATURE).write_text(text, encoding="utf-8")
    return line
