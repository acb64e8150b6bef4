"""overlay.png: segments drawn over the image, for a person to look at."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment

from medpanoptic.errors import WriteError
from medpanoptic.geometry import Affine, voxel_spacing
from medpanoptic.io.drawing import GAP, NOTE, RGB, display_limits, font, resize, side_by_side, to_gray
from medpanoptic.result import PanopticResult
from medpanoptic.volume import Channel, Volume

ALPHA = 0.4
_PANEL = 420  # pixels of the longest side of a 3D panel
_MAX_SIDE = 8192  # a larger 2D image is drawn smaller
# letters at the left, right and top of each plane, in the order axial, coronal, sagittal
_LETTERS = (("R", "L", "A"), ("R", "L", "H"), ("A", "P", "H"))


class _Palette(NamedTuple):
    """Sorted ids (void first), and the RGB and kind of each."""

    ids: NDArray[np.int64]
    colors: NDArray[np.uint8]
    is_thing: NDArray[np.bool_]


def write_overlay(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write overlay.png; without a volume the segments lie over black."""
    image = volume if volume is not None else _black(result)
    path = folder / "overlay.png"
    # a third of the time of the usual level, for a quarter more bytes
    Image.fromarray(render_overlay(image, result)).save(path, compress_level=1)
    return [path]


def _black(result: PanopticResult) -> Volume:
    return Volume(np.zeros((1, *result.ids.shape), np.uint8), result.affine, (Channel("none"),))


def render_overlay(volume: Volume, result: PanopticResult, channel: str | None = None) -> RGB:
    """Draw a result over its image.

    volume : (C, *S) on the grid of ``result``. channel : name of the channel to show (default: RGB, else the first
    that is present). Returns (H, W, 3) uint8. 2D: the image at its own size. 3D: axial, coronal and sagittal planes
    through the largest thing, head up, patient's right on the left, square pixels, and a legend.
    Raises WriteError: FORMAT-SHAPE, CHANNEL-NAME.
    """
    if volume.shape != result.ids.shape:
        raise WriteError(
            "FORMAT-SHAPE", f"the image has shape {volume.shape}, the result {result.ids.shape}: not one case"
        )
    palette = _palette(result)
    if result.ndim == 2:
        step = -(-max(result.ids.shape) // _MAX_SIDE)
        picture = _picture(volume, channel)[::step, ::step]
        return _blend(picture, np.searchsorted(palette.ids, result.ids[::step, ::step]), palette)
    canvas = side_by_side(_planes(volume, result, channel, palette))
    return np.vstack([canvas, _legend(result, canvas.shape[1])])


# ---- gray values


def _picture(volume: Volume, channel: str | None) -> RGB:
    """Return a 2D image as (H, W, 3) uint8."""
    if channel is None and len(volume.channels) == 3 and volume.array.dtype == np.uint8:
        return np.moveaxis(volume.array, 0, -1)
    index = _channel_index(volume, channel)
    image, unit = volume.array[index], volume.channels[index].unit
    return np.stack([to_gray(image, display_limits(image, unit), unit)] * 3, axis=-1)


def _channel_index(volume: Volume, channel: str | None) -> int:
    names = [c.name for c in volume.channels]
    if channel is None:
        return next((i for i, c in enumerate(volume.channels) if c.present), 0)
    if channel not in names:
        raise WriteError("CHANNEL-NAME", f"the image has no channel {channel!r}; it has {', '.join(names)}")
    return names.index(channel)


# ---- colours


def _palette(result: PanopticResult) -> _Palette:
    rows = sorted((s.id, result.segment_color(s), result.classes[s.class_id].is_thing) for s in result.segments)
    colors = np.array([(0, 0, 0), *(r[1] for r in rows)], np.uint8)
    return _Palette(np.array([0, *(r[0] for r in rows)]), colors, np.array([False, *(r[2] for r in rows)]))


def _blend(picture: RGB, index: NDArray[np.int64], palette: _Palette) -> RGB:
    """Lay colours over (H, W, 3) with ``ALPHA``; things get a full-colour outline of one pixel, stuff stays pale."""
    things = palette.is_thing[index]
    alpha = np.where(index == 0, 0.0, np.where(things, ALPHA, ALPHA / 2)).astype(np.float32)
    alpha[_outlines(index) & things] = 1.0
    mixed = picture.astype(np.float32)
    mixed += alpha[..., None] * (palette.colors[index] - mixed)
    return np.rint(mixed).astype(np.uint8)


def _outlines(ids: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return the pixels of each segment that touch another segment by a side."""
    edge = np.zeros(ids.shape, bool)
    rows = ids[1:] != ids[:-1]
    columns = ids[:, 1:] != ids[:, :-1]
    edge[1:] |= rows
    edge[:-1] |= rows
    edge[:, 1:] |= columns
    edge[:, :-1] |= columns
    return edge


# ---- planes of a volume


def display_axes(affine: Affine) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tell how to turn an array to the patient: ``np.flip(array.transpose(order), flips)``.

    The axes then run most nearly to the head, to the back and to the patient's left. Oblique volumes are shown on
    their own grid.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    _, axis_of = linear_sum_assignment(-np.abs(directions))  # patient axis x, y, z -> array axis
    order = tuple(int(axis_of[world]) for world in (2, 1, 0))
    flips = tuple(k for k, world in enumerate((2, 1, 0)) if directions[world, axis_of[world]] < 0)
    return order, flips


def _planes(volume: Volume, result: PanopticResult, channel: str | None, palette: _Palette) -> list[RGB]:
    order, flips = display_axes(result.affine)
    channel_index = _channel_index(volume, channel)
    unit = volume.channels[channel_index].unit
    image = np.flip(volume.array[channel_index].transpose(order), flips)
    ids = np.flip(result.ids.transpose(order), flips)
    limits = display_limits(volume.array[channel_index], unit)
    spacing = voxel_spacing(result.affine, 3)[list(order)]
    scale = _PANEL / max(spacing * ids.shape)
    panels = []
    for axis, place in enumerate(_centre(result, ids)):
        gray = to_gray(_plane(image, axis, place), limits, unit)
        shape = tuple(max(1, round(n * scale)) for n in np.delete(spacing * ids.shape, axis))
        index = _nearest(np.searchsorted(palette.ids, _plane(ids, axis, place)), shape)
        picture = np.stack([resize(gray, shape)] * 3, axis=-1)
        panels.append(_lettered(_blend(picture, index, palette), _LETTERS[axis]))
    return panels


def _plane(array: NDArray, axis: int, place: int) -> NDArray:
    plane = np.take(array, place, axis)
    # coronal and sagittal planes have the head at the end of their rows: turn it up
    return plane if axis == 0 else plane[::-1]


def _centre(result: PanopticResult, ids: NDArray[np.int32]) -> list[int]:
    """Return, per axis, the plane with most of the largest thing, or the middle plane."""
    if not result.things:
        return [n // 2 for n in ids.shape]
    largest = max(result.things, key=lambda s: result.sizes[s.id]).id
    inside = ids == largest
    return [int(inside.sum(axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3)]


def _nearest(plane: NDArray, shape: tuple[int, ...]) -> NDArray:
    rows, columns = ((np.arange(n) + 0.5) * old / n for n, old in zip(shape, plane.shape, strict=True))
    return plane[np.ix_(rows.astype(int), columns.astype(int))]


# ---- lettering


def _lettered(panel: RGB, letters: tuple[str, str, str]) -> RGB:
    picture = Image.fromarray(panel)
    draw = ImageDraw.Draw(picture)
    height, width = panel.shape[:2]
    places = (((4, height // 2), "lm"), ((width - 4, height // 2), "rm"), ((width // 2, 3), "mt"))
    for letter, (xy, anchor) in zip(letters, places, strict=True):
        draw.text(xy, letter, (255, 255, 255), font(), anchor, stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(picture)


def _legend(result: PanopticResult, width: int) -> RGB:
    """Return a strip of class swatches and names, wrapped to ``width``, and the note."""
    letters, row = font(), 20
    places, x, y = [], GAP, 0
    for text, color in [*((c.name, c.color) for c in result.classes), (NOTE, None)]:
        needed = int(letters.getlength(text)) + (18 if color else 0)
        if x > GAP and x + needed > width:
            x, y = GAP, y + row
        places.append((x, y, text, color))
        x += needed + 16
    strip = Image.new("RGB", (width, y + row + 2))
    draw = ImageDraw.Draw(strip)
    for x, y, text, color in places:
        if color:
            draw.rectangle((x, y + 5, x + 11, y + 16), fill=color)
        draw.text((x + (18 if color else 0), y + 11), text, (220, 220, 220), letters, "lm")
    return np.asarray(strip)
