"""What is measured of each lesion: size, place, the two diameters, grey values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import ResultError
from medpanoptic.geometry import Affine, to_world, voxel_size
from medpanoptic.measure.axes import Axis, DrawnAxes, find_axes
from medpanoptic.measure.intensity import Intensity, has_peak, intensity, peak_sphere
from medpanoptic.result import Box, PanopticResult, Segment
from medpanoptic.volume import Volume

if TYPE_CHECKING:
    import pandas

_CENTROID = ("centroid_x_mm", "centroid_y_mm", "centroid_z_mm")
_VALUES = ("mean", "std", "min", "max")


@dataclass(frozen=True)
class Measures:
    """The measures of one thing.

    box : half-open, in voxels; size : voxels; volume_mm3 in 3D, area_mm2 in 2D, the other None.
    centroid_mm : (3,) LPS mm, mean of the voxel centres. long_axis, short_axis : see ``find_axes``.
    intensities : one per channel that is present, none without an image.
    Where no pixel size is known (``Volume.calibrated``) 1 mm stands in for a pixel, and all mm are pixels.
    """

    segment_id: int
    box: Box
    size: int
    volume_mm3: float | None
    area_mm2: float | None
    centroid_mm: tuple[float, float, float]
    long_axis: Axis
    short_axis: Axis
    intensities: tuple[Intensity, ...] = ()


def measure(
    result: PanopticResult,
    volume: Volume | None = None,
    segments: Sequence[Segment] | None = None,
    axes: Mapping[int, DrawnAxes] | None = None,
) -> list[Measures]:
    """Measure every thing of a result, in the order of its table, or the segments given, in their order.

    volume : the image on the grid of the result, for grey values. axes : id -> long and short axis that a reader drew,
    in place of those found. Raises ResultError (RESULT-SHAPE) if the image is another.
    """
    if volume is not None and volume.shape != result.ids.shape:
        raise ResultError(
            "RESULT-SHAPE", f"the image has shape {volume.shape}, the result {result.ids.shape}: not one case"
        )
    found = []
    for segment in result.things if segments is None else segments:
        box = result.boxes[segment.id]
        mask = result.ids[tuple(slice(*axis) for axis in box)] == segment.id
        measures = measure_segment(segment.id, mask, box, result.affine, volume)
        found.append(with_axes(measures, (axes or {}).get(segment.id, (None, None))))
    return found


def with_axes(measures: Measures, axes: DrawnAxes) -> Measures:
    """Return the measures with the axes that a reader drew, where there are any, in place of those found."""
    long_axis, short_axis = axes
    return replace(measures, long_axis=long_axis or measures.long_axis, short_axis=short_axis or measures.short_axis)


def measure_segment(
    segment_id: int, mask: NDArray[np.bool_], box: Box, affine: Affine, volume: Volume | None = None
) -> Measures:
    """Measure one segment inside its box: the cost is that of the lesion, not of the image.

    mask : bool, the shape of ``box``, at least one voxel set (it may have empty margins); box : half-open, in voxels of
    the grid of ``affine``, index -> LPS mm. volume : the whole image on that grid.
    Raises ResultError (RESULT-IDS) if the mask is empty.
    """
    size = int(np.count_nonzero(mask))
    if size == 0:
        raise ResultError("RESULT-IDS", f"segment {segment_id} has no voxel in its box: nothing to measure")
    offset = tuple(int(start) for start, _ in box)
    amount = size * voxel_size(affine, mask.ndim)
    x, y, z = to_world([_centre(mask, offset, size)], affine)[0].tolist()
    long_axis, short_axis = find_axes(mask, offset, affine)
    return Measures(
        segment_id,
        box,
        size,
        amount if mask.ndim == 3 else None,
        amount if mask.ndim == 2 else None,
        (x, y, z),
        long_axis,
        short_axis,
        _intensities(mask, box, affine, volume) if volume is not None else (),
    )


def _centre(mask: NDArray[np.bool_], offset: tuple[int, ...], size: int) -> list[float]:
    """Return the mean index of the voxels, from their counts along each axis."""
    axes = range(mask.ndim)
    counts = [np.count_nonzero(mask, axis=tuple(a for a in axes if a != axis)) for axis in axes]
    return [float(n @ np.arange(len(n))) / size + start for n, start in zip(counts, offset, strict=True)]


def _intensities(mask: NDArray[np.bool_], box: Box, affine: Affine, volume: Volume) -> tuple[Intensity, ...]:
    sphere = peak_sphere(affine) if any(has_peak(c, mask.ndim) for c in volume.channels) else None
    return tuple(
        intensity(array, mask, box, affine, channel, sphere)
        for array, channel in zip(volume.array, volume.channels, strict=True)
        if channel.present
    )


def measures_table(result: PanopticResult, volume: Volume | None = None) -> pandas.DataFrame:
    """Return the measures of every thing as a table: one row each, columns as ``measure_columns``.

    Cells in mm are NaN where no pixel size is known. Raises ResultError (RESULT-SHAPE) as ``measure``.
    """
    import pandas

    calibrated = is_calibrated(result, volume)
    rows = [measure_row(m, calibrated) for m in measure(result, volume)]
    return pandas.DataFrame(rows, columns=measure_columns(result.ndim, volume))


def is_calibrated(result: PanopticResult, volume: Volume | None = None) -> bool:
    """Tell whether mm are known: both the result's ``parameters["calibrated"]`` and the image can say no."""
    return bool(result.provenance.parameters.get("calibrated", True)) and (volume is None or volume.calibrated)


def measure_columns(ndim: int, volume: Volume | None = None) -> list[str]:
    """Return the names of what ``measure_row`` gives, in its order, units in the names.

    id, size, volume_mm3 or area_mm2, centroid_x_mm, centroid_y_mm, centroid_z_mm, long_axis_mm, short_axis_mm, and
    CHANNEL_mean_UNIT, _std_, _min_, _max_ and, of a PET, _peak_ for each channel that is present.
    """
    names = ["id", "size", "volume_mm3" if ndim == 3 else "area_mm2", *_CENTROID, "long_axis_mm", "short_axis_mm"]
    for channel in volume.channels if volume is not None else ():
        if channel.present:
            values = (*_VALUES, "peak") if has_peak(channel, ndim) else _VALUES
            names += [_value_name(channel.name, value, channel.unit) for value in values]
    return names


def measure_row(measures: Measures, calibrated: bool = True) -> dict[str, float | int]:
    """Return one row of the table; without ``calibrated`` only what does not depend on mm."""
    row: dict[str, float | int] = {"id": measures.segment_id, "size": measures.size}
    if calibrated:
        amounts = {"volume_mm3": measures.volume_mm3, "area_mm2": measures.area_mm2}
        row |= {name: value for name, value in amounts.items() if value is not None}
        row |= dict(zip(_CENTROID, measures.centroid_mm, strict=True))
        row |= {"long_axis_mm": measures.long_axis.length_mm, "short_axis_mm": measures.short_axis.length_mm}
    for values in measures.intensities:
        found = {name: getattr(values, name) for name in (*_VALUES, "peak")}
        row |= {_value_name(values.channel, n, values.unit): v for n, v in found.items() if v is not None}
    return row


def _value_name(channel: str, value: str, unit: str) -> str:
    return "_".join(part for part in (channel, value, unit) if part)
