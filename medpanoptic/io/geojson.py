"""GeoJSON for QuPath: one feature per thing and per stuff segment, streamed.

Source: RFC 7946 with the members that QuPath 0.4 and later reads and writes: ``id`` (a UUID), ``objectType``,
``name``, ``classification`` {name, color}, ``measurements``, ``isLocked``, ``metadata`` (0.5 and later).
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpanoptic.identity import Identity, identify
from medpanoptic.io.dicom_common import segment_label
from medpanoptic.io.outline import Part, outlines
from medpanoptic.measure import is_calibrated
from medpanoptic.result import PanopticResult, Segment, without_rejected
from medpanoptic.volume import Volume

_DECIMALS = 3  # of a pixel, where a coarser level is scaled to the finest


def write_annotations(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write annotations.geojson: things as annotations, whose shape and class a person can edit in QuPath.

    Coordinates are (x, y) in pixels of the slide's finest level, (0, 0) the top left corner of the first pixel; they
    run along pixel edges, so that filling them gives the id map back. Stuff is there as locked annotations. Rejected
    things are left out: QuPath would count them.
    """
    return [_write(result, folder / "annotations.geojson", "annotation", volume)]


def write_detections(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write detections.geojson: as ``write_annotations``, with things as detections.

    QuPath draws and counts tens of thousands of them; their class can be changed, their shape cannot.
    """
    return [_write(result, folder / "detections.geojson", "detection", volume)]


def _write(result: PanopticResult, path: Path, kind: str, volume: Volume | None) -> Path:
    source = result.source if result.source.sop_uids or volume is None else volume.source
    identity = identify(result, source)
    result = without_rejected(result)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for number, feature in enumerate(_features(result, kind, source.downsample, identity)):
            text = json.dumps(feature, ensure_ascii=False, allow_nan=False)
            file.write(("," if number else "") + "\n" + text)
        file.write("\n]}\n")
    return path


def _features(result: PanopticResult, kind: str, scale: float, identity: Identity) -> Iterator[dict[str, Any]]:
    """Yield one feature at a time; stuff first, so that things lie on top."""
    pixel_um2 = result.voxel_size * 1e6 if is_calibrated(result) else None
    for segment in sorted(result.segments, key=lambda s: (result.classes[s.class_id].is_thing, s.id)):
        is_thing = result.classes[segment.class_id].is_thing
        box = result.boxes[segment.id]
        mask = result.ids[tuple(slice(*axis) for axis in box)] == segment.id
        parts = outlines(mask)
        first = np.array([start for start, _ in box])
        uid = identity.tracking_uid(segment) if is_thing else identity.uid(f"geojson segment {segment.id}")
        yield {
            "type": "Feature",
            "id": str(uuid_of(uid)),
            "geometry": _geometry(parts, first, scale),
            "properties": {
                **_properties(result, segment, kind if is_thing else "annotation"),
                "measurements": _measurements(result.sizes[segment.id], segment.score, pixel_um2),
                "metadata": _metadata(segment, result, pixel_checksum(mask, first)),
            },
        }


def _properties(result: PanopticResult, segment: Segment, kind: str) -> dict[str, Any]:
    info = result.classes[segment.class_id]
    properties: dict[str, Any] = {
        "objectType": kind,
        "name": segment_label(result, segment),
        "classification": {"name": info.name, "color": list(info.color)},
    }
    if not info.is_thing:
        # a click on a cell should not take the tissue around it
        properties["isLocked"] = True
    return properties


def _measurements(size: int, score: float, pixel_um2: float | None) -> dict[str, float]:
    """QuPath's own name for an area; ``pixel_um2`` None where no pixel size is known."""
    area = {"Area px^2": float(size)} if pixel_um2 is None else {"Area µm^2": round(size * pixel_um2, 4)}
    return {**area, "Score": float(score)}


def _metadata(segment: Segment, result: PanopticResult, checksum: str) -> dict[str, str]:
    """QuPath keeps text here, and gives it back when it exports; ``geojson_read`` needs it."""
    return {
        "id": str(segment.id),
        "origin": segment.origin,
        "verdict": segment.verdict,
        **({"tracking_uid": segment.tracking_uid} if segment.tracking_uid else {}),
        "class": json.dumps(result.classes[segment.class_id].to_json(), ensure_ascii=False, separators=(",", ":")),
        "pixels": checksum,
    }


def pixel_checksum(mask: NDArray[np.bool_], first: NDArray[np.int64]) -> str:
    """Return 8 hex digits that tell whether an object still has the pixels it was written with.

    mask : (row, column) in its tight box. first : row and column where the box starts.
    """
    place = np.array([*first, *mask.shape], "<i8").tobytes()
    return f"{zlib.crc32(np.packbits(mask).tobytes(), zlib.crc32(place)):08x}"


def _geometry(parts: list[Part], first: NDArray[np.int64], scale: float) -> dict[str, Any]:
    polygons = [[_ring(ring, first, scale) for ring in (part.outer, *part.holes)] for part in parts]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _ring(ring: NDArray[np.int64], first: NDArray[np.int64], scale: float) -> list[list[float]]:
    """Return closed (x, y) positions. Source: RFC 7946 3.1.6"""
    closed = np.concatenate([ring, ring[:1]]) + first
    points = closed[:, ::-1]
    return points.tolist() if scale == 1 else np.round(points * scale, _DECIMALS).tolist()


def uuid_of(uid: str) -> uuid.UUID:
    """Return the UUID inside a DICOM UID "2.25.N", so that it can be found again; a derived one for other UIDs."""
    digits = uid.removeprefix("2.25.")
    if uid.startswith("2.25.") and digits.isdigit() and int(digits) < 2**128:
        return uuid.UUID(int=int(digits))
    return uuid.uuid5(uuid.NAMESPACE_OID, uid)
