"""What lies at a path, what of it can be read, and why the rest cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medpanoptic.errors import ReadError
from medpanoptic.io.archive import is_archive, unpacked
from medpanoptic.io.dicom import SeriesInfo, SeriesReport, find_series
from medpanoptic.io.dicom_header import SkippedFile
from medpanoptic.io.files import IMAGE_ENDINGS, ITK_ENDINGS, NIFTI_ENDINGS, is_dicom, read_file

_OTHER_ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS, *IMAGE_ENDINGS)
# image files are read whole for their verdict; in a folder, only those that take a moment
_LARGEST_IN_FOLDER = 2**28


def inspect(path: str | Path) -> SeriesReport:
    """Report on a folder, a file or an archive: each DICOM series and image file with a verdict, and what was left out.

    Rows as ``find_series`` gives them; a file of another format has its format as modality and no handle. DICOM pixels
    are not read, except where two slices share a position; other files are.
    Raises ReadError: NOT-FOUND, FORMAT (one file of an unknown format), and for archives as ``archive.unpacked``.
    """
    place = Path(path)
    if is_archive(place):
        with unpacked(place) as inside:
            return inspect(inside)
    if place.is_file() and not is_dicom(place):
        return SeriesReport((_file_row(place, place.name),), ())
    report = find_series(place)
    images = [s for s in report.skipped if _is_image(place / s.name, s)] if place.is_dir() else []
    rows = tuple(_file_row(place / s.name, s.name) for s in images)
    return replace(report, series=(*report.series, *rows), skipped=tuple(s for s in report.skipped if s not in images))


def _is_image(path: Path, skipped: SkippedFile) -> bool:
    known = path.name.lower().endswith(_OTHER_ENDINGS) and skipped.reason == "not DICOM"
    return known and path.stat().st_size <= _LARGEST_IN_FOLDER


def _file_row(path: Path, name: str) -> SeriesInfo:
    kind = next((e for e in _OTHER_ENDINGS if path.name.lower().endswith(e)), path.suffix).removesuffix(".gz")
    kind = kind.lstrip(".").upper()
    try:
        volume = read_file(path)
    except ReadError as error:
        if error.code in {"NOT-FOUND", "FORMAT"}:
            raise
        return SeriesInfo("", kind, name, 0, (), (), error.code, error.message)
    slices = volume.shape[0] if volume.ndim == 3 else 1
    spacing = tuple(float(v) for v in volume.spacing) if volume.calibrated else ()
    return SeriesInfo("", kind, name, slices, volume.shape, spacing, "OK", "", volume.notes)
