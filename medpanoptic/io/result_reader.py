"""Read a result from any format that has a reader; the format is told from the files, not from their endings alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medpanoptic.errors import ReadError
from medpanoptic.io.formats import FORMATS
from medpanoptic.result import PanopticResult
from medpanoptic.volume import Volume

# a JSON table of a large study has some megabytes; a file beyond this is no table of segments
_MAX_JSON_BYTES = 2**30


def read_result(path: str | Path, *, format: str | None = None, image: Volume | None = None) -> PanopticResult:
    """Read a result: a folder that ``write_result`` made, or one file of a format that can be read.

    path : a result folder or its segments.json; a DICOM SEG or RTSTRUCT; a COCO panoptic JSON; GeoJSON of
        QuPath; or a folder that holds exactly one of them. format : its name in ``FORMATS``; None finds it out.
    image : the image that the result belongs to, for formats without a grid of their own (RTSTRUCT and GeoJSON must
        have it; COCO takes its geometry). Other formats are checked against its grid where both are known.
    A result folder comes back as it was written, but for the source UIDs, which are not stored; docs/formats/ says what
    the others keep.
    Raises ReadError: NOT-FOUND, RESULT-UNKNOWN (of no format that can be read), RESULT-AMBIGUOUS (a folder of several),
    FORMAT-UNKNOWN, FORMAT-WRITE-ONLY, RESULT-MISSING, RESULT-FORMAT, RESULT-VERSION, RESULT-SHAPE, RESULT-DAMAGED, and
    those of each format; ResultError.
    """
    place = Path(path)
    if format is not None:
        _check_readable(format)
        return FORMATS[format].read(place, image)
    name, file = find_result(place)
    return FORMATS[name].read(file, image)


def readable() -> list[str]:
    """Return the names of the formats that ``read_result`` takes."""
    return [name for name, row in FORMATS.items() if row.reader]


def find_result(path: Path) -> tuple[str, Path]:
    """Return the format of a path and the file or folder to read.

    A folder with segments.json is that result, whatever else is in it: the other files are made from it.
    Raises ReadError: NOT-FOUND, RESULT-MISSING (a folder without one), RESULT-UNKNOWN, RESULT-AMBIGUOUS.
    """
    if not path.exists():
        raise ReadError("NOT-FOUND", f"{path}: no such file or folder")
    if path.is_file():
        return _format_of_file(path), path
    if (path / FORMATS["json"].files[0]).is_file():
        return "json", path
    found = [(name, file) for file in sorted(path.iterdir()) if file.is_file() and (name := _guess(file))]
    if len(found) > 1:
        names = ", ".join(file.name for _, file in found[:5])
        raise ReadError("RESULT-AMBIGUOUS", f"{path} holds {len(found)} results ({names}); name one of the files")
    if not found:
        raise ReadError("RESULT-MISSING", f"{path} holds no segments.json and no file of {', '.join(readable())}")
    return found[0]


def _check_readable(name: str) -> None:
    if name not in FORMATS:
        raise ReadError("FORMAT-UNKNOWN", f"no format {name!r}; {', '.join(readable())} can be read")
    if not FORMATS[name].reader:
        raise ReadError("FORMAT-WRITE-ONLY", f"{name} is written and not read; {', '.join(readable())} can be read")


def _format_of_file(path: Path) -> str:
    name = _guess(path)
    if not name:
        raise ReadError(
            "RESULT-UNKNOWN",
            f"{path} is not of a format that can be read ({', '.join(readable())}); name the folder of a result",
        )
    return name


def _guess(path: Path) -> str:
    """Return the name of a readable format, or ""."""
    if path.suffix.lower() in (".json", ".geojson"):
        return _json_format(path)
    from medpanoptic.io.dicom_files import looks_like_dicom

    return _dicom_format(path) if looks_like_dicom(path) else ""


def _json_format(path: Path) -> str:
    if path.name == FORMATS["json"].files[0]:
        return "json"
    if path.stat().st_size > _MAX_JSON_BYTES:
        return ""
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return ""
    first = data[0] if isinstance(data, list) and data else data
    if isinstance(first, dict) and first.get("type") in ("FeatureCollection", "Feature"):
        return "geojson"
    if not isinstance(data, dict):
        return ""
    if data.get("format") == "medpanoptic-result":
        return "json"
    is_coco = {"annotations", "categories", "images"} <= set(data) and FORMATS["coco"].reader
    return "coco" if is_coco else ""


def _dicom_format(path: Path) -> str:
    from medpanoptic.io.dicom_files import read_dataset

    try:
        sop_class = str(read_dataset(path, path.name, ["SOPClassUID"]).get("SOPClassUID", ""))
    except ReadError:
        return ""
    return next((name for name, row in FORMATS.items() if row.reader and sop_class in row.sop_classes), "")
