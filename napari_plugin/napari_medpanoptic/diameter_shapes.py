"""What is drawn of two diameters: lines, ends to drag, lengths in dark boxes. No napari.

The boxes make the words legible over a white PET and over a dark CT. Sizes on the screen are in canvas pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medpanoptic.review.edit import Line
from napari_medpanoptic.grid import Grid
from napari_medpanoptic.units import Unit

COLORS = ("#ffd166", "#56b4e9")  # long, short
TEXT_SIZE = 10
_LINE, _END, _GAP = 2.0, 4.0, 10.0
_LETTER, _HALF_HEIGHT = 11.0, 12.0
_BOX_COLOR = "#000000c0"
_SQUARE = np.array([[-1.0, -1], [-1, 1], [1, 1], [1, -1]])


def diameter_shapes(grid: Grid, lines: Sequence[Line], unit: Unit, zoom: float) -> tuple[dict[str, Any], list[str]]:
    """Return what ``Shapes.add`` takes for two lines in LPS mm, and the words of each shape ("" for most).

    First the lines, then a ring at each of the four ends, then a box for each length. zoom : canvas pixels per mm.
    """
    shown = list(slice_axes(grid)[1:])
    scale = grid.scale[shown]

    def around(end: NDArray[np.float64], offsets_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        corners = np.repeat(end[None], len(offsets_mm), axis=0)
        corners[:, shown] += offsets_mm / scale
        return corners

    ends = [grid.display_points_of_mm(line) for line in lines]
    words = [unit.length(float(np.linalg.norm(np.subtract(*line)))) for line in lines]
    rings = [around(end, _SQUARE * _END / zoom) for pair in ends for end in pair]
    boxes = []
    for pair, text in zip(ends, words, strict=True):
        start, stop = (end[shown] * scale for end in pair)
        boxes.append(around(pair[0], label_box(start, stop, text, zoom) - start))
    look = {
        "data": [*ends, *rings, *boxes],
        "shape_type": ["line"] * 2 + ["ellipse"] * 4 + ["rectangle"] * 2,
        "edge_width": _LINE / zoom / float(grid.scale[-1]),
        "edge_color": [COLORS[k] for k in (0, 1, 0, 0, 1, 1, 0, 1)],
        "face_color": ["transparent"] * 2 + [COLORS[k] for k in (0, 0, 1, 1)] + [_BOX_COLOR] * 2,
    }
    return look, [""] * 6 + words


def slice_axes(grid: Grid) -> tuple[int, int, int]:
    """Return the display axes of the acquisition: across its slices (-1 in 2D), rows, columns."""
    ndim = len(grid.shape)
    across = grid.order.axes.index(0) if ndim == 3 else -1
    rows, columns = (axis for axis in range(ndim) if axis != across)
    return across, rows, columns


def label_box(start: ArrayLike, stop: ArrayLike, text: str, zoom: float) -> NDArray[np.float64]:
    """Return the corners (4, 2) of the box for ``text``: behind the upper end of a steep line, the right of a flat one.

    There it covers neither the lesion nor the words of the line across. start, stop : (row, column) mm, rows down.
    """
    near, far = np.asarray(start, float), np.asarray(stop, float)
    way = near - far
    # upwards, or to the right
    if (way[0] > 0) if abs(way[0]) >= abs(way[1]) else (way[1] < 0):
        near, way = far, -way
    length = float(np.linalg.norm(way))
    way = way / length if length else np.array([-1.0, 0.0])
    half = np.array([_HALF_HEIGHT, (len(text) + 1) * _LETTER / 2])
    # as far out as the box needs to leave the end free
    reach = float(np.min(half / np.maximum(np.abs(way), 1e-9))) + _GAP
    return np.asarray(near + (way * reach + _SQUARE * half) / zoom)
