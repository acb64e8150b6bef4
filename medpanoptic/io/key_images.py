"""Key images: an overview, and each lesion on the slice of its long axis, for viewers that show nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medpanoptic.geometry import Affine, voxel_spacing
from medpanoptic.io.drawing import NOTE, RGB, display_limits, font, resize, side_by_side, text_table, to_gray
from medpanoptic.io.overlay import render_overlay
from medpanoptic.measure import Axis, Intensity, Measures, is_calibrated
from medpanoptic.measure.contours import contours
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.volume import Volume

_PANEL = 480  # pixels of the longer side of a panel
_MARGIN_MM = 15.0  # around a lesion in a close view
_CLOSE_MM = 60.0  # the least that a close view shows
_MOST_ROWS = 30  # of the overview's table
_LONG, _SHORT = (255, 230, 0), (0, 230, 255)
_LETTERS = (("R", "L"), ("A", "P"), ("F", "H"))  # towards -x and +x, -y and +y, -z and +z


@dataclass(frozen=True)
class _View:
    """A part of a slice on a panel: first row and column, how many, and panel pixels per row and per column."""

    first: tuple[int, int]
    count: tuple[int, int]
    scale: tuple[float, float]

    @property
    def shape(self) -> tuple[int, int]:
        """Panel pixels (rows, columns)."""
        return max(1, round(self.count[0] * self.scale[0])), max(1, round(self.count[1] * self.scale[1]))

    def cut(self, plane: NDArray) -> NDArray:
        """Return the part of a (rows, columns) plane."""
        (r, c), (rows, columns) = self.first, self.count
        return plane[r : r + rows, c : c + columns]

    def place(self, points: Sequence[Sequence[float]] | NDArray) -> list[tuple[float, float]]:
        """Turn slice indices (row, column) into panel pixels (x, y)."""
        moved = (np.asarray(points, float) - self.first + 0.5) * self.scale - 0.5
        return [(float(x), float(y)) for y, x in moved]


def overview_image(result: PanopticResult, volume: Volume, measures: Sequence[Measures]) -> RGB:
    """Draw three planes through the largest thing over a table of all things, largest first. Returns (H, W, 3) uint8.

    volume : on the grid of ``result``, 3D.
    """
    planes = render_overlay(volume, result)
    segments = {s.id: s for s in result.things}
    rows = [
        [_name(result, segments[m.segment_id]), *_sizes(m, is_calibrated(result, volume)), *_grey_values(m)]
        for m in sorted(measures, key=lambda m: -m.size)
    ]
    more = len(rows) - _MOST_ROWS
    found = {segments[m.segment_id].class_id for m in measures}
    lines = [*rows[:_MOST_ROWS], *([[f"and {more} more"]] if more > 0 else [])]
    lines += [[f"no {c.name} found"] for c in result.classes.things if c.id not in found]
    return np.vstack([planes, text_table([*lines, [f"{NOTE}; not for measuring"]], planes.shape[1])])


def key_slice(measures: Measures, slices: int) -> int:
    """Return the slice on which a thing is shown: that of its long axis, of one drawn askew the middle."""
    axis = measures.long_axis
    return min(max(round((axis.start[0] + axis.stop[0]) / 2), 0), slices - 1)


def lesion_image(result: PanopticResult, volume: Volume, segment: Segment, measures: Measures, place: str) -> RGB:
    """Draw a lesion on the slice of its long axis: the whole slice, and a close view in each channel with both axes.

    volume : on the grid of ``result``, 3D. measures : of ``segment``. place : how the caption names the slice.
    Rows and columns are as stored, like the source in a viewer; letters name the patient's sides. Things are outlined
    in their colours, the long axis is yellow, the short one cyan. Returns (H, W, 3) uint8.
    """
    k = key_slice(measures, result.ids.shape[0])
    spacing = voxel_spacing(result.affine, 3)[1:]
    ids = result.ids[k]
    shown = [i for i, c in enumerate(volume.channels) if c.present]
    limits = {i: display_limits(volume.array[i], volume.channels[i].unit) for i in shown}
    whole, close = _whole_view(ids.shape, spacing), _close_view(measures, ids.shape, spacing)
    panels = []
    for view, i in [(whole, shown[0]), *((close, i) for i in shown)]:
        channel = volume.channels[i]
        gray = resize(to_gray(view.cut(volume.array[i, k]), limits[i], channel.unit), view.shape)
        panel = Image.fromarray(np.stack([gray] * 3, axis=-1))
        _outline(panel, view, ids, result)
        if view is close:
            for axis, color in ((measures.long_axis, _LONG), (measures.short_axis, _SHORT)):
                # a reader may draw the short axis on another slice: it has no place here
                if round((axis.start[0] + axis.stop[0]) / 2) == k:
                    _line(panel, view, axis, color)
            _write(panel, (8, 4), "la", channel.name)
        else:
            _number(panel, view, ids, segment.id)
        _letters(panel, result.affine)
        panels.append(np.asarray(panel))
    canvas = side_by_side(panels)
    named = (("long", measures.long_axis), ("short", measures.short_axis))
    drawn = [f"{name} axis drawn by the reader" for name, axis in named if axis.drawn]
    windows = ", ".join(f"{volume.channels[i].name} {_window_text(volume, i, limits[i])}" for i in shown)
    lines = [
        [
            f"{_name(result, segment)}:  "
            + ",  ".join([*_sizes(measures, is_calibrated(result, volume)), *_grey_values(measures)])
        ],
        [f"{place};  windows: {windows};  yellow: long axis, cyan: short axis;  {NOTE}, not for measuring"],
    ]
    lines += [[",  ".join(drawn)]] if drawn else []
    return np.vstack([canvas, text_table(lines, canvas.shape[1])])


# ---- text


def _name(result: PanopticResult, segment: Segment) -> str:
    return f"{result.classes[segment.class_id].name} {segment.id}"


def _sizes(measures: Measures, calibrated: bool) -> list[str]:
    if not calibrated or measures.volume_mm3 is None:
        return [f"{measures.size} voxels"]
    axes = f"{measures.long_axis.length_mm:.1f} x {measures.short_axis.length_mm:.1f} mm"
    return [axes, f"{measures.volume_mm3 / 1000:.3g} ml"]


def _grey_values(measures: Measures) -> list[str]:
    return [_grey_value(values) for values in measures.intensities]


def _grey_value(values: Intensity) -> str:
    unit = f" {values.unit}" if values.unit else ""
    peak = "" if values.peak is None else f", peak {_short(values.peak)}"
    return f"{values.channel} mean {_short(values.mean)}, max {_short(values.max)}{peak}{unit}"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _window_text(volume: Volume, index: int, limits: tuple[float, float]) -> str:
    return f"{_short(limits[0])} to {_short(limits[1])} {volume.channels[index].unit}".strip()


# ---- views


def _whole_view(shape: tuple[int, ...], spacing: NDArray[np.float64]) -> _View:
    scale = spacing * _PANEL / max(spacing * shape)
    return _View((0, 0), (shape[0], shape[1]), (float(scale[0]), float(scale[1])))


def _close_view(measures: Measures, shape: tuple[int, ...], spacing: NDArray[np.float64]) -> _View:
    """Return a square in mm around the lesion's box, cut at the border of the slice."""
    box = np.array(measures.box[1:], float)
    side = max(_CLOSE_MM, float((spacing * (box[:, 1] - box[:, 0])).max()) + 2 * _MARGIN_MM)
    middle, half = box.mean(axis=1), side / spacing / 2
    start = np.maximum(0, np.floor(middle - half)).astype(int)
    stop = np.minimum(shape, np.ceil(middle + half)).astype(int)
    count = stop - start
    scale = spacing * _PANEL / max(spacing * count)
    return _View((int(start[0]), int(start[1])), (int(count[0]), int(count[1])), (float(scale[0]), float(scale[1])))


# ---- drawing


def _outline(panel: Image.Image, view: _View, ids: NDArray[np.int32], result: PanopticResult) -> None:
    draw = ImageDraw.Draw(panel)
    here = set(np.unique(view.cut(ids)).tolist())
    for segment in result.things:
        if segment.id in here:
            for loop in contours(ids == segment.id):
                points = view.place(loop)
                draw.line([*points, points[0]], result.segment_color(segment), 2)


def _line(panel: Image.Image, view: _View, axis: Axis, color: tuple[int, int, int]) -> None:
    a, b = (np.array(p) for p in view.place([axis.start[1:], axis.stop[1:]]))
    draw = ImageDraw.Draw(panel)
    draw.line([*a, *b], color, 2)
    across = np.array([a[1] - b[1], b[0] - a[0]]) / max(1e-6, float(np.linalg.norm(b - a))) * 5
    for end in (a, b):
        draw.line([*(end - across), *(end + across)], color, 2)


def _number(panel: Image.Image, view: _View, ids: NDArray[np.int32], segment_id: int) -> None:
    rows, columns = np.nonzero(ids == segment_id)
    if not len(rows):  # a reader may draw the axis on a slice without the thing
        return
    ((x, y),) = view.place([(rows.min() - 0.5, columns.max() + 0.5)])
    anchor = "lb" if x < panel.width - 40 else "rb"
    _write(panel, (x + (3 if anchor == "lb" else -3), max(14.0, y)), anchor, str(segment_id))


def _letters(panel: Image.Image, affine: Affine) -> None:
    left, right = side_letters(affine[:3, 2])
    top, bottom = side_letters(affine[:3, 1])
    width, height = panel.size
    for text, place, anchor in (
        (left, (4.0, height / 2), "lm"),
        (right, (width - 4.0, height / 2), "rm"),
        (top, (width / 2, 3.0), "mt"),
        (bottom, (width / 2, height - 3.0), "mb"),
    ):
        _write(panel, place, anchor, text)


def side_letters(direction: NDArray[np.float64]) -> tuple[str, str]:
    """Return the patient's sides at the start and the end of a direction in LPS, such as ("R", "L") for +x."""
    axis = int(np.abs(direction).argmax())
    low, high = _LETTERS[axis]
    return (low, high) if direction[axis] > 0 else (high, low)


def _write(panel: Image.Image, place: tuple[float, float], anchor: str, text: str) -> None:
    ImageDraw.Draw(panel).text(place, text, (255, 255, 255), font(15), anchor, stroke_width=2, stroke_fill=(0, 0, 0))
