"""The files that every result folder holds: segments.json, the id map, the stuff map."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import tifffile
from numpy.typing import NDArray

from medpanoptic.classes import ClassTable
from medpanoptic.errors import ReadError, WriteError
from medpanoptic.geometry import Affine, check_affine, same_grid, voxel_spacing
from medpanoptic.io.dropped import read_masks, write_masks
from medpanoptic.measure import is_calibrated
from medpanoptic.result import Box, Dropped, Origin, PanopticResult, Provenance, Segment, Verdict
from medpanoptic.volume import Source, Volume

NAME = "medpanoptic-result"
VERSION = 1
TABLE = "segments.json"
# what tifffile raises on damaged files
_TIFF_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    struct.error,
    zlib.error,
)


def map_name(kind: str, ndim: int) -> str:
    """Return the file name of a map: ``panoptic`` or ``stuff``, as NIfTI for volumes and TIFF for 2D."""
    return f"{kind}.nii.gz" if ndim == 3 else f"{kind}.tif"


def measure_name(ndim: int) -> str:
    """Return the key of a segment's physical size."""
    return "area_mm2" if ndim == 2 else "volume_mm3"


# ---- segments.json


def table_json(result: PanopticResult) -> dict[str, Any]:
    """Return the plain form of everything but the maps. Holds no UID of the source, no path, no time of its own."""
    return {
        "format": NAME,
        "version": VERSION,
        "shape": list(result.ids.shape),
        "affine_lps": result.affine.tolist(),
        "calibrated": is_calibrated(result),
        "stuff_map": result.stuff is not None,
        **({} if result.source.downsample == 1 else {"downsample": float(result.source.downsample)}),
        "classes": result.classes.to_json(),
        "segments": [_segment_json(result, s) for s in result.segments],
        "dropped": [
            {"class_id": d.class_id, "score": float(d.score), "reason": d.reason, "box": _plain_box(d.box)}
            for d in result.dropped
        ],
        "provenance": {**_provenance_fields(result.provenance), "parameters": dict(result.provenance.parameters)},
    }


def _provenance_fields(provenance: Provenance) -> dict[str, str]:
    return {
        "bundle": provenance.bundle,
        "bundle_version": provenance.bundle_version,
        "weights_sha256": provenance.weights_sha256,
        "medpanoptic_version": provenance.medpanoptic_version,
        "created": provenance.created,
    }


def _segment_json(result: PanopticResult, segment: Segment) -> dict[str, Any]:
    size = result.sizes[segment.id]
    return {
        **asdict(segment),
        "score": float(segment.score),
        "box": _plain_box(result.boxes[segment.id]),
        "size": size,
        measure_name(result.ndim): size * result.voxel_size if is_calibrated(result) else None,
    }


def _plain_box(box: Box) -> list[list[int]]:
    return [[int(start), int(stop)] for start, stop in box]


def _plain_value(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise WriteError(
        "JSON-VALUE", f"provenance parameters may hold numbers, text, lists and tables, not {type(value).__name__}"
    )


def write_json(path: Path, data: Mapping[str, Any]) -> Path:
    """Write UTF-8 JSON with sorted keys, one entry or table row a line.

    Raises WriteError (JSON-VALUE) for what JSON cannot hold.
    """
    try:
        entries = [f"{_dump(key)}: {_dump_rows(data[key])}" for key in sorted(data)]
    except ValueError as error:
        raise WriteError("JSON-VALUE", "a score or parameter is not a finite number, which JSON cannot hold") from error
    path.write_text("{\n" + ",\n".join(entries) + "\n}\n", encoding="utf-8", newline="\n")
    return path


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_plain_value)


def _dump_rows(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n  " + ",\n  ".join(_dump(row) for row in value) + "\n]"
    return _dump(value)


def write_table(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write segments.json."""
    return [write_json(folder / TABLE, table_json(result))]


def read_json(path: Path) -> dict[str, Any]:
    """Read a segments.json and check that it is one of ours.

    Raises ReadError: RESULT-MISSING (no such file), RESULT-FORMAT (not ours), RESULT-VERSION (from a later version).
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReadError("RESULT-MISSING", f"{path} does not exist; a result folder holds {TABLE}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReadError("RESULT-FORMAT", f"{path} is not JSON; was it cut short?") from error
    if not isinstance(data, dict) or data.get("format") != NAME:
        raise ReadError("RESULT-FORMAT", f"{path} is not a medpanoptic result (its 'format' is not {NAME!r})")
    if not isinstance(data.get("version"), int):
        raise ReadError("RESULT-FORMAT", f"{path} does not say its version in a whole number")
    if data["version"] != VERSION:
        raise ReadError(
            "RESULT-VERSION", f"{path} has version {data['version']}; this program reads {VERSION}: update it"
        )
    return data


def result_from_json(
    data: Mapping[str, Any], ids: NDArray[np.int32], stuff: NDArray[np.uint8] | None, folder: Path
) -> PanopticResult:
    """Build a result from the plain form, the maps, and the masks of dropped candidates in ``folder``.

    Raises ReadError (RESULT-FORMAT, RESULT-DAMAGED), ResultError.
    """
    garbled = ""
    try:
        parts: dict[str, Any] = {
            "segments": tuple(_segment(entry) for entry in data["segments"]),
            "classes": ClassTable.from_json(data["classes"]),
            "affine": check_affine(data["affine_lps"]),
            "source": Source(downsample=float(data.get("downsample", 1.0))),
            "provenance": _provenance(data["provenance"]),
            "dropped": read_masks([_dropped(entry) for entry in data["dropped"]], folder),
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # a missing key is one of ours; other texts quote what stands there
        garbled = f"no {error}" if isinstance(error, KeyError) else type(error).__name__
    if garbled:
        raise ReadError("RESULT-FORMAT", f"{folder / TABLE} lacks or garbles a required entry ({garbled})")
    return PanopticResult(ids=ids, stuff=stuff, **parts)


def _segment(entry: Mapping[str, Any]) -> Segment:
    number, class_id = entry["id"], entry["class_id"]
    if type(number) is not int or type(class_id) is not int:
        raise TypeError
    # files written before it was added do not have it
    doubt = entry.get("uncertainty")
    score = float(entry["score"])
    if entry["origin"] not in get_args(Origin) or entry["verdict"] not in get_args(Verdict) or not 0 <= score <= 1:
        raise ValueError
    uid = str(entry["tracking_uid"])
    doubt = None if doubt is None else float(doubt)
    return Segment(number, class_id, score, entry["origin"], entry["verdict"], uid, doubt)


def _provenance(entry: Mapping[str, Any]) -> Provenance:
    if not isinstance(entry["parameters"], dict):
        raise TypeError
    return Provenance(**entry)


def _dropped(entry: Mapping[str, Any]) -> Dropped:
    box = tuple((int(start), int(stop)) for start, stop in entry["box"])
    return Dropped(entry["class_id"], entry["score"], entry["reason"], box)


# ---- the maps


def write_maps(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write the id map (int32) and, where there are any, the stuff map (uint8) and the masks of dropped candidates."""
    maps: list[tuple[str, NDArray]] = [("panoptic", result.ids)]
    if result.stuff is not None:
        maps.append(("stuff", result.stuff))
    spacing = voxel_spacing(result.affine, 2) if is_calibrated(result) else None
    paths = [_write_map(folder / map_name(kind, result.ndim), array, result.affine, spacing) for kind, array in maps]
    return [*paths, *write_masks(result.dropped, folder)]


def _write_map(path: Path, array: NDArray, affine: Affine, spacing: NDArray[np.float64] | None) -> Path:
    if array.ndim == 3:
        from medpanoptic.io.nifti import write_nifti

        write_nifti(path, array, affine)
    else:
        write_tiff(path, array, spacing)
    return path


def write_tiff(path: Path, array: NDArray, spacing: NDArray[np.float64] | None) -> None:
    """Write a (row, column) map losslessly; ``spacing`` (row, column) mm becomes the resolution tags.

    TIFF keeps resolution as pixels per centimetre in fractions of 32 bits; the exact affine is in segments.json.
    """
    tags: dict[str, Any] = {}
    if spacing is not None:
        tags = {"resolution": (10 / spacing[1], 10 / spacing[0]), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        path, array, compression="zlib", photometric="minisblack", metadata=None, software="medpanoptic", **tags
    )


def read_folder(path: Path, image: Volume | None = None) -> PanopticResult:
    """Read a result folder, or the segments.json in it. ``image`` gives the source that the files do not name.

    Raises ReadError: RESULT-MISSING, RESULT-FORMAT, RESULT-VERSION, RESULT-SHAPE, RESULT-DAMAGED; ResultError.
    """
    table = path / TABLE if path.is_dir() else path
    data = read_json(table)
    shape = _shape(data, table)
    ids = read_map(table.parent, "panoptic", shape, np.int32)
    stuff = read_map(table.parent, "stuff", shape, np.uint8) if data.get("stuff_map") else None
    result = result_from_json(data, ids, stuff, table.parent)
    known = image is not None and same_grid(image.affine, result.affine, image.shape, shape)
    return replace(result, source=image.source) if image is not None and known else result


def _shape(data: Mapping[str, object], table: Path) -> tuple[int, ...]:
    shape = data.get("shape")
    if not isinstance(shape, list) or len(shape) not in (2, 3) or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ReadError("RESULT-FORMAT", f"{table} has no usable 'shape'")
    return tuple(shape)


def read_map(folder: Path, kind: str, shape: tuple[int, ...], dtype: type) -> NDArray:
    """Read the ``panoptic`` or ``stuff`` map of a result folder as (*S) of ``dtype``.

    Raises ReadError: RESULT-MISSING (no file), RESULT-DAMAGED (unreadable), RESULT-SHAPE (not the shape in the table).
    """
    path = folder / map_name(kind, len(shape))
    if not path.is_file():
        raise ReadError("RESULT-MISSING", f"{path} does not exist, but {TABLE} beside it says that it should")
    array = _read_nifti_map(path) if len(shape) == 3 else _read_tiff_map(path, shape)
    _check_shape(path, array.shape, shape)
    if array.dtype != dtype:
        raise ReadError("RESULT-DAMAGED", f"{path} holds {array.dtype}, expected {np.dtype(dtype)}")
    return array


def _check_shape(path: Path, found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if tuple(found) != shape:
        raise ReadError("RESULT-SHAPE", f"{path} has shape {tuple(found)}, {TABLE} beside it says {shape}")


def _read_tiff_map(path: Path, shape: tuple[int, ...]) -> NDArray:
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            # before anything is allocated
            _check_shape(path, page.shape, shape)
            return page.asarray()
    except _TIFF_ERRORS as error:
        raise ReadError(
            "RESULT-DAMAGED", f"{path} cannot be read ({type(error).__name__}); write the result again"
        ) from error


def _read_nifti_map(path: Path) -> NDArray:
    from medpanoptic.io.nifti import read_nifti

    try:
        return read_nifti(path).array[0]
    except ReadError as error:
        raise ReadError("RESULT-DAMAGED", f"{path} cannot be read ({error}); write the result again") from error
