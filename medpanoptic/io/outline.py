"""Outlines of masks along pixel edges: exact, so that filling them gives the mask back. And the filling.

Corners are whole numbers: (0, 0) is the top left corner of the first pixel, whose centre is (0.5, 0.5).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# unit steps (row, column) by heading: 0 right, 1 down, 2 left, 3 up; a right turn is heading + 1
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))


class Part(NamedTuple):
    """One piece of a mask. Each ring is (N, 2) int (row, column) corners, closed by its first one, not repeated."""

    outer: NDArray[np.int64]
    holes: tuple[NDArray[np.int64], ...]


def outlines(mask: NDArray[np.bool_]) -> list[Part]:
    """Trace a mask (row, column) into its parts.

    Pixels that meet at a corner only are parts of their own (4-connected), so every ring is simple, and rings touch in
    single corners at most: valid polygons in the sense of OGC simple features. Outer rings have a positive area in
    (row down, column right), holes a negative one. [] for an empty mask.
    """
    rings = _rings(mask)
    outers = [ring for ring, _ in rings if signed_area(ring) > 0]
    holes = [(ring, pixel) for ring, pixel in rings if signed_area(ring) < 0]
    if len(outers) == 1:
        return [Part(outers[0], tuple(ring for ring, _ in holes))]
    # which hole lies in which part
    labels, _ = ndimage.label(mask)
    of_label = {int(labels[pixel]): ring for ring, pixel in rings if signed_area(ring) > 0}
    return [
        Part(of_label[k], tuple(ring for ring, pixel in holes if int(labels[pixel]) == k)) for k in sorted(of_label)
    ]


def signed_area(ring: NDArray[np.integer]) -> float:
    """Return the area of a ring in pixels; positive where it runs right along the top and down on the right."""
    rows, columns = ring[:, 0], ring[:, 1]
    inner = np.dot(columns[:-1], rows[1:]) - np.dot(columns[1:], rows[:-1])
    return float(inner + columns[-1] * rows[0] - columns[0] * rows[-1]) / 2


def _edges(mask: NDArray[np.bool_]) -> dict[tuple[int, int], list[int]]:
    """Return corner -> headings of the pixel edges that leave it, the inside on their right."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    leaving: dict[tuple[int, int], list[int]] = {}
    # top edges run right, right edges down, bottom edges left, left edges up
    for heading, (neighbour, corner) in enumerate(
        (
            (padded[:-2, 1:-1], (0, 0)),
            (padded[1:-1, 2:], (0, 1)),
            (padded[2:, 1:-1], (1, 1)),
            (padded[1:-1, :-2], (1, 0)),
        )
    ):
        found = np.argwhere(inside & ~neighbour) + corner
        for row, column in found.tolist():
            leaving.setdefault((row, column), []).append(heading)
    return leaving


def _rings(mask: NDArray[np.bool_]) -> list[tuple[NDArray[np.int64], tuple[int, int]]]:
    """Return each simple ring with a pixel of the piece that it bounds."""
    leaving = _edges(mask)
    rings = []
    while leaving:
        start = next(iter(leaving))
        pixel = _right_pixel(start, leaving[start][0])
        rings += [(ring, pixel) for ring in _split(_walk(leaving, start))]
    return rings


def _walk(leaving: dict[tuple[int, int], list[int]], start: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Follow edges from ``start`` back to it and use them up; return (row, column, heading) of each."""
    row, column = start
    wanted = first = leaving[start][0]
    path: list[tuple[int, int, int]] = []
    while (row, column) in leaving and not (path and (row, column) == start and wanted == first):
        choices = leaving[row, column]
        heading = wanted if wanted in choices else choices[0]
        choices.remove(heading)
        if not choices:
            del leaving[row, column]
        path.append((row, column, heading))
        row, column = row + _STEPS[heading][0], column + _STEPS[heading][1]
        # where two pixels meet at a corner, the right turn stays with the own one
        wanted = (heading + 1) % 4
    return path


def _split(path: list[tuple[int, int, int]]) -> list[NDArray[np.int64]]:
    """Cut a closed walk where it comes back to a corner, and drop the corners at which it goes straight on."""
    if len({(row, column) for row, column, _ in path}) == len(path):
        return [_corners(path)]
    rings = []
    stack: list[tuple[int, int, int]] = []
    seen: set[tuple[int, int]] = set()
    for row, column, heading in path:
        if (row, column) in seen:
            at = next(i for i, (r, c, _) in enumerate(stack) if (r, c) == (row, column))
            rings.append(_corners(stack[at:]))
            seen -= {(r, c) for r, c, _ in stack[at:]}
            del stack[at:]
        stack.append((row, column, heading))
        seen.add((row, column))
    return [*rings, _corners(stack)]


def _corners(ring: list[tuple[int, int, int]]) -> NDArray[np.int64]:
    turns = [
        (r, c) for (r, c, heading), (_, _, before) in zip(ring, [ring[-1], *ring], strict=False) if heading != before
    ]
    return np.array(turns)


def _right_pixel(corner: tuple[int, int], heading: int) -> tuple[int, int]:
    """Return the pixel on the right of the edge that leaves a corner."""
    row, column = corner
    return ((row, column), (row, column - 1), (row - 1, column - 1), (row - 1, column))[heading]


def fill(loops: list[NDArray[np.float64]], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return (rows, columns) uint8, 1 where a pixel's centre is inside, by the even-odd rule over all loops.

    loops : closed outlines (N, 2) (row, column), 0 the centre of the first pixel. A centre on an outline belongs to
    what lies right of or below it, so that outlines that share an edge share no pixel.
    """
    inside = np.zeros(shape, np.uint8)
    if not loops:
        return inside
    points = np.ceil(np.concatenate(loops)).clip(0, shape).astype(int)
    (top, left), (bottom, right) = points.min(axis=0), points.max(axis=0)
    # which centres an edge lies left of, per row it passes: the parity of those before a centre tells inside
    crossings = np.zeros((bottom - top, right - left + 1), np.uint8)
    for loop in loops:
        (r0, c0), (r1, c1) = (loop - (top, left)).T, np.roll(loop - (top, left), -1, axis=0).T
        first = np.clip(np.ceil(np.minimum(r0, r1)), 0, len(crossings)).astype(int)
        last = np.clip(np.ceil(np.maximum(r0, r1)), 0, len(crossings)).astype(int)  # not with it
        count = last - first
        edge = np.repeat(np.arange(len(loop)), count)
        row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        column = c0[edge] + (row - r0[edge]) * (c1[edge] - c0[edge]) / (r1[edge] - r0[edge])
        np.bitwise_xor.at(crossings, (row, np.clip(np.ceil(column), 0, crossings.shape[1] - 1).astype(int)), 1)
    inside[top:bottom, left:right] = np.bitwise_xor.accumulate(crossings, axis=1)[:, :-1]
    return inside
