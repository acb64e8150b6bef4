"""segments.csv: one row per segment, for spreadsheets and pandas."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from medpanoptic.io.result_files import measure_name
from medpanoptic.measure import DrawnAxes, is_calibrated, measure, measure_columns, measure_row
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.volume import Volume

_HEAD = ("id", "class_id", "class", "is_thing", "score", "uncertainty", "origin", "verdict")
_AXES = {2: ("row", "column"), 3: ("slice", "row", "column")}


def write_csv(
    result: PanopticResult,
    folder: Path,
    volume: Volume | None = None,
    *,
    axes: Mapping[int, DrawnAxes] | None = None,
) -> list[Path]:
    """Write segments.csv. Things have all measures, stuff only its size; boxes are half-open, centroids LPS mm.

    volume : the image, for the grey values of each channel. Cells that need mm stay empty where none are known.
    axes : id -> the axes that a reader drew, in place of those found.
    """
    path = folder / "segments.csv"
    calibrated = is_calibrated(result, volume)
    measured = {m.segment_id: measure_row(m, calibrated) for m in measure(result, volume, axes=axes)}
    columns = csv_columns(result.ndim, volume)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for segment in result.segments:
            row = {**_fields(result, segment, calibrated), **measured.get(segment.id, {})}
            writer.writerow([_cell(row.get(name, "")) for name in columns])
    return [path]


def csv_columns(ndim: int, volume: Volume | None = None) -> list[str]:
    """Return the header of segments.csv: the table's fields, the measures, and what each channel adds."""
    common, added = measure_columns(ndim), measure_columns(ndim, volume)
    boxes = [f"{axis}_{end}" for axis in _AXES[ndim] for end in ("start", "stop")]
    return [*_HEAD, *common[1:], *boxes, "tracking_uid", *added[len(common) :]]


def _fields(result: PanopticResult, segment: Segment, calibrated: bool) -> Mapping[str, object]:
    info = result.classes[segment.class_id]
    doubt = "" if segment.uncertainty is None else segment.uncertainty
    values = (segment.id, info.id, info.name, int(info.is_thing), segment.score, doubt, segment.origin, segment.verdict)
    size = result.sizes[segment.id]
    row: dict[str, object] = {**dict(zip(_HEAD, values, strict=True)), "size": size}
    if calibrated:
        row[measure_name(result.ndim)] = size * result.voxel_size
    for axis, ends in zip(_AXES[result.ndim], result.boxes[segment.id], strict=True):
        row |= {f"{axis}_{name}": end for name, end in zip(("start", "stop"), ends, strict=True)}
    return {**row, "tracking_uid": segment.tracking_uid}


def _cell(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
