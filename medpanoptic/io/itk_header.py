"""What the header of a MetaImage or NRRD says, checked before ITK reads it.

ITK takes what is missing for 1 mm, 0 and identity, knows no unit, and prints its complaints to the terminal.
Source: the MetaIO reference (MetaImage tags), the NRRD format definition (teem.sourceforge.net, sections 4 and 5)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medpanoptic.errors import GeometryError, ReadError

_HEADER_BYTES = 65536
_UNKNOWN_FRAME = "the file does not say how it lies in the patient: its axes are taken as left, back and head"
_ITK_SPACES = {
    "left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las",
}  # fmt: skip
_NRRD_UNITS = {"": 1.0, "mm": 1.0, "millimeter": 1.0, "um": 1e-3, "\u00b5m": 1e-3, "micron": 1e-3, "nm": 1e-6,
               "cm": 10.0, "m": 1000.0}  # fmt: skip
_META_TYPES = {
    "MET_CHAR", "MET_UCHAR", "MET_SHORT", "MET_USHORT", "MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG",
    "MET_LONG_LONG", "MET_ULONG_LONG", "MET_FLOAT", "MET_DOUBLE",
}  # fmt: skip


@dataclass(frozen=True)
class ItkHeader:
    """What ITK does not tell.

    pixels, start : the file that holds the pixels, and the byte where they start in it, -1 if unknown. compressed :
    not raw bytes. scale : mm of one unit of the file. calibrated : False where it gives no spacing. notes : what is
    taken on trust.
    """

    pixels: Path
    start: int
    compressed: bool
    scale: float = 1.0
    calibrated: bool = True
    notes: tuple[str, ...] = ()


def read_itk_header(path: Path) -> ItkHeader:
    """Read and check the header of a .mha, .mhd or .nrrd.

    Raises ReadError: NOT-FOUND, ITK-UNREADABLE, ITK-EXTERNAL (pixels elsewhere), SHAPE. GeometryError:
    GEO-PIXEL-SPACING, GEO-AFFINE, GEO-ORIENTATION (an NRRD space that is not a patient's), ITK-UNITS.
    """
    if not path.is_file():
        raise ReadError("NOT-FOUND", f"{path}: no such file")
    with path.open("rb") as file:
        text = file.read(_HEADER_BYTES).decode("latin-1")
    return _read_nrrd(path, text) if path.suffix.lower() == ".nrrd" else _read_meta(path, text)


def _read_meta(path: Path, text: str) -> ItkHeader:
    last = re.search(r"^ElementDataFile[ \t]*=[ \t]*(\S.*)$", text, re.MULTILINE)
    fields = dict(re.findall(r"^(\w+)[ \t]*=[ \t]*(.*?)[ \t\r]*$", text[: last.start()] if last else "", re.MULTILINE))
    ndim = int(fields["NDims"]) if re.fullmatch(r"[1-9]", fields.get("NDims", "")) else 0
    sizes = _numbers(fields, ("DimSize",), ndim)
    known = fields.get("ElementType", "").upper() in _META_TYPES
    if not (last and ndim and sizes and known) or any(n < 1 or n != int(n) for n in sizes):
        raise ReadError("ITK-UNREADABLE", f"{path.name}: not a MetaImage file, or its header is damaged")
    if ndim not in (2, 3):
        raise ReadError("SHAPE", f"{path.name}: {ndim} axes; an image has 2 or 3 (give one volume per file)")
    if fields.get("BinaryData", "True").upper() not in {"TRUE", "1"}:
        raise ReadError("ITK-UNREADABLE", f"{path.name}: pixels as text are not read; save it as binary")
    skipped = fields.get("HeaderSize", "0")
    if not skipped.isdigit():
        raise ReadError("ITK-UNREADABLE", f"{path.name}: HeaderSize is not the size of a header")
    spacing = _numbers(fields, ("ElementSpacing", "ElementSize"), ndim)
    calibrated = _check_spacing(path, spacing, ndim)
    matrix = _numbers(fields, ("TransformMatrix", "Rotation", "Orientation"), ndim * ndim)
    origin = _numbers(fields, ("Offset", "Position", "Origin"), ndim)
    if origin == [] or matrix == []:
        raise GeometryError("GEO-AFFINE", f"{path.name}: its direction or origin is garbled")
    _check_affine(path, matrix or [], origin or [], ndim)
    notes = () if (matrix and origin) or ndim == 2 else (_UNKNOWN_FRAME,)
    pixels, start = _place(path, last.group(1), last.end() + 1)
    compressed = fields.get("CompressedData", "").upper().startswith("T")
    return ItkHeader(pixels, start + int(skipped), compressed, 1.0, calibrated, notes)


def _read_nrrd(path: Path, text: str) -> ItkHeader:
    # the header ends at the first empty line
    head, end, _ = text.replace("\r\n", "\n").partition("\n\n")
    fields = {key.lower(): value.strip() for key, value in re.findall(r"^([\w ]+):[ \t]*(.*)$", head, re.MULTILINE)}
    target = fields.get("data file", fields.get("datafile", "LOCAL"))
    if not head.startswith("NRRD") or not (end or target != "LOCAL"):
        raise ReadError("ITK-UNREADABLE", f"{path.name}: not an NRRD file, or its header is damaged")
    pixels, start = _place(path, target, len(head) + 2)
    space, vectors = fields.get("space", "").lower(), fields.get("space directions", "")
    if space and space not in _ITK_SPACES:
        raise GeometryError(
            "GEO-ORIENTATION", f"{path.name}: its space is not a patient's (left-posterior-superior and the like)"
        )
    ndim = 2 if vectors.count("(") == 2 or (not vectors and fields.get("dimension") == "2") else 3
    _check_affine(path, _loose(vectors), _loose(fields.get("space origin", "")), ndim)
    # NaN stands at axes that are not of space
    spacing = [n for n in _loose(fields.get("spacings", "")) if n == n]
    calibrated = True if vectors else _check_spacing(path, spacing or None, ndim)
    notes: tuple[str, ...] = () if (vectors and space) or ndim == 2 else (_UNKNOWN_FRAME,)
    scale = _nrrd_scale(path, fields)
    if scale != 1.0:
        notes = (*notes, "its unit of length is not mm; converted")
    start = start + int(skip) if (skip := fields.get("byte skip", "0")).isdigit() and "line skip" not in fields else -1
    return ItkHeader(pixels, start, fields.get("encoding", "raw").lower() != "raw", scale, calibrated, notes)


def _loose(text: str) -> list[float]:
    """Return all numbers of a text, whatever stands between them ("none" is an axis that is not of space)."""
    return [float(word) for word in re.findall(r"[-+.\w]+", text) if _is_number(word)]


def _nrrd_scale(path: Path, fields: Mapping[str, str]) -> float:
    quoted = re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", "")))
    units = {unit.strip().lower() for unit in quoted} - {""}
    if len(units) > 1 or not units <= set(_NRRD_UNITS):
        raise GeometryError("ITK-UNITS", f"{path.name}: its units of length are unknown, or differ between axes")
    return _NRRD_UNITS[units.pop() if units else ""]


def _place(path: Path, target: str, start: int) -> tuple[Path, int]:
    """Return the file that holds the pixels and where they start; refuse names that could be any file of the disk."""
    target = target.strip()
    if target.upper() == "LOCAL":
        return path, start
    plain = re.fullmatch(r"[^/\\%\x00-\x1f]+", target) and not target.upper().startswith("LIST")
    beside = path.parent / target
    if not plain or beside.resolve().parent != path.parent.resolve():
        raise ReadError("ITK-EXTERNAL", f"{path.name}: its pixels lie in other files or folders; save it as one file")
    if not beside.is_file():
        raise ReadError("ITK-UNREADABLE", f"{path.name}: the file that holds its pixels is not beside it")
    return beside, 0


def _numbers(fields: Mapping[str, str], names: Sequence[str], count: int) -> list[float] | None:
    """Return the numbers of the first of some fields that is there, [] where they are none or too few."""
    text = next((fields[name] for name in names if name in fields), None)
    if text is None:
        return None
    words = text.split()
    return [float(w) for w in words] if len(words) == count and all(map(_is_number, words)) else []


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_spacing(path: Path, spacing: list[float] | None, ndim: int) -> bool:
    """Tell whether there is a spacing; a volume must have one, and each must be positive."""
    if spacing is None and ndim == 2:
        return False
    if not spacing or not all(0 < s < math.inf for s in spacing):
        raise GeometryError("GEO-PIXEL-SPACING", f"{path.name}: its spacing is missing, garbled or not positive")
    return True


def _check_affine(path: Path, matrix: Sequence[float], origin: Sequence[float], ndim: int) -> None:
    if not all(map(math.isfinite, [*matrix, *origin])):
        raise GeometryError("GEO-AFFINE", f"{path.name}: its direction or origin is NaN or infinite")
    square = len(matrix) == ndim * ndim
    if square and abs(np.linalg.det(np.reshape(matrix, (ndim, ndim)))) < 1e-12:
        raise GeometryError("GEO-AFFINE", f"{path.name}: its affine is singular: two axes point the same way")
