"""Planes in step: where the crosshair stands, what a canvas must show of it. Pure functions, no napari, no Qt.

Points are viewer coordinates: mm along the display axes (to the feet, to posterior, to the patient's left), or pixels
where the size is unknown. A plane is named by its ``dims.order``, see ``orientation.PLANES``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_medpanoptic.orientation import PLANES

Point = tuple[float, ...]
# a jump shows the lesion at a fifth of the canvas: seen in its surroundings, and large enough to judge its edge
SHARE_OF_CANVAS = 0.2
# a tiny lesion is not blown up until only blurred voxels are seen
SMALLEST_VIEW_MM = 60.0
SMALLEST_VIEW_PIXELS = 60  # in 2D, where a pixel may be that of a microscope


def plane_name(order: Sequence[int]) -> str:
    """Return "axial", "coronal" or "sagittal" for a ``dims.order`` of three axes; the slider axis decides."""
    return next(name for name, axes in PLANES.items() if axes[0] == order[0])


def other_planes(order: Sequence[int]) -> tuple[str, str]:
    """Return the two planes that the main canvas does not show, in the order axial, coronal, sagittal."""
    shown = plane_name(order)
    first, second = (name for name in PLANES if name != shown)
    return first, second


def moved(point: Sequence[float], axes: Sequence[int], values: Sequence[float]) -> Point:
    """Return the point with new values on some axes."""
    new = list(point)
    for axis, value in zip(axes, values, strict=True):
        new[axis] = float(value)
    return tuple(new)


def stepped(point: Sequence[float], axis: int, steps: int, limits: tuple[float, float, float]) -> Point:
    """Return the point ``steps`` slices further along an axis, inside ``limits`` (first, last, distance)."""
    first, last, distance = limits
    return moved(point, (axis,), (min(max(point[axis] + steps * distance, first), last),))


def crosshair_lines(
    point: Sequence[float], displayed: Sequence[int], extent: NDArray[np.float64], gap: float
) -> NDArray[np.float32]:
    """Return (8, 2) ends of four segments in scene coordinates (column, row), with a gap around the point.

    displayed : the (row, column) axes. extent : (2, axes) first and last viewer coordinate of the data.
    gap : half the side of the square left free, so that the lines never hide what they point at.
    """
    row_axis, column_axis = displayed
    row, column = point[row_axis], point[column_axis]
    top, bottom = extent[:, row_axis]
    left, right = extent[:, column_axis]
    ends = [
        ((left, row), (max(left, column - gap), row)),
        ((min(right, column + gap), row), (right, row)),
        ((column, top), (column, max(top, row - gap))),
        ((column, min(bottom, row + gap)), (column, bottom)),
    ]
    return np.array(ends, np.float32).reshape(8, 2)


def is_in_view(
    point: Sequence[float], displayed: Sequence[int], center: Sequence[float], zoom: float, canvas: Sequence[float]
) -> bool:
    """Tell whether a point lies in the inner 90 % of a canvas.

    center : camera centre on the (row, column) axes. zoom : canvas pixels per mm. canvas : (height, width) pixels.
    """
    half = 0.45 * np.asarray(canvas, float) / zoom
    offset = np.abs(np.array([point[axis] for axis in displayed]) - np.asarray(center, float))
    return bool(np.all(offset <= half))


def jump_zoom(size_mm: Sequence[float], canvas: Sequence[float], smallest_mm: float = SMALLEST_VIEW_MM) -> float:
    """Return the zoom (canvas pixels per mm) at which a box of ``size_mm`` takes a fifth of the canvas.

    size_mm : the box's lengths along any axes, the largest counts; a small one is shown with ``smallest_mm`` around it.
    canvas : (height, width) in pixels, the smaller counts.
    """
    wanted = max(max(size_mm, default=0.0) / SHARE_OF_CANVAS, smallest_mm)
    return float(min(canvas)) / wanted
