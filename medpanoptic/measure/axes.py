"""The two diameters of a lesion on its acquisition planes: the longest, and the longest across it.

Source: RECIST 1.1 (Eisenhauer et al. 2009, 10.1016/j.ejca.2008.10.026), section 3: the longest diameter in the plane of
measurement; for nodes the short axis, across it in the same plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from medpanoptic.geometry import Affine, to_index, to_world
from medpanoptic.measure.contours import contour_edges

Point = tuple[float, ...]

# the four points of the outline around a single pixel
_DIAMOND = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, -0.5], [0.0, 0.5]])
_FEW = 256
_TIE = 1e-9  # lengths closer than this (relative) are equal: the first one found stays
_PASSES = 3  # looks at the neighbours of a rim's pixels; few corners are left after them
_BLOCK = 1_000_000  # cells of slabs x edges at once
# directions in which a part's width is taken: its diameter is at most the largest width / cos(half a step between them)
_DIRECTIONS = 8
_ANGLES = np.arange(_DIRECTIONS) * np.pi / _DIRECTIONS
_WIDEST = 1 / np.cos(np.pi / (2 * _DIRECTIONS))


@dataclass(frozen=True)
class Axis:
    """A straight line on one plane.

    start, stop : (slice, row, column) or (row, column), voxel indices, 0 is the centre of the first voxel.
    start_mm, stop_mm : the same in LPS mm. length_mm : their distance. drawn : by a reader, not found by ``find_axes``.
    """

    start: Point
    stop: Point
    start_mm: Point
    stop_mm: Point
    length_mm: float
    drawn: bool = False

    @classmethod
    def between(cls, start: Point, stop: Point, affine: Affine) -> Axis:
        """Make an axis from two voxel index points (2 or 3 numbers) and the affine of their grid."""
        ends = to_world([start, stop], affine)
        (a, b), (a_mm, b_mm) = ([tuple(float(v) for v in p) for p in pair] for pair in ((start, stop), ends))
        return cls(a, b, a_mm, b_mm, float(np.linalg.norm(ends[1] - ends[0])))

    @classmethod
    def of_reader(cls, start_mm: Point, stop_mm: Point, affine: Affine, ndim: int = 3) -> Axis:
        """Make an axis that a reader drew from its ends, (x, y, z) LPS mm, and the affine of the grid."""
        ends = to_index([start_mm, stop_mm], affine, ndim)
        a, b = (tuple(float(v) for v in p) for p in ends)
        a_mm, b_mm = (tuple(float(v) for v in p) for p in (start_mm, stop_mm))
        return cls(a, b, a_mm, b_mm, float(np.linalg.norm(np.subtract(stop_mm, start_mm))), drawn=True)


# long and short axis that a reader drew; None where the one that is found counts
DrawnAxes = tuple[Axis | None, Axis | None]


def find_axes(mask: NDArray[np.bool_], offset: tuple[int, ...], affine: Affine) -> tuple[Axis, Axis]:
    """Find the long and the short axis of a mask.

    mask : (slice, row, column) or (row, column) bool, with at least one voxel set. offset : index of its first voxel in
    the grid of ``affine``.
    The long axis is the longest straight line between two points of the outline on one plane of the slice axis, over
    all planes; the short axis the longest line at right angles to it that stays inside, on the same plane. The outline
    runs half-way between the centres of voxels inside and outside (see ``contours``), so n voxels in a row are n
    spacings long. Parts that do not touch on a plane are measured apart; holes count as inside, since a diameter runs
    across necrosis. A bent lesion's long axis may leave it.
    Angles and lengths are mm on the plane: right for anisotropic, oblique and sheared grids.
    """
    stack = mask if mask.ndim == 3 else mask[None]
    basis = _plane_basis(affine[:3, mask.ndim - 2 : mask.ndim])
    plane, corner, part, ends = _longest(stack, basis)
    across = _longest_across(ndimage.binary_fill_holes(part), ends, basis)
    shift = np.array([plane, *corner], float) + np.array([*([0] * (3 - mask.ndim)), *offset], float)
    return _axis(ends, shift, affine, mask.ndim), _axis(across, shift, affine, mask.ndim)


def _plane_basis(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (2, 2) B with ``index @ B`` in mm on the plane, from the (3, 2) row and column steps, sheared or not."""
    return np.linalg.cholesky(steps.T @ steps).astype(np.float64)


def _axis(ends: NDArray[np.float64], shift: NDArray[np.float64], affine: Affine, ndim: int) -> Axis:
    start, stop = sorted((np.concatenate([[0.0], p]) + shift)[3 - ndim :].tolist() for p in ends)
    return Axis.between(tuple(start), tuple(stop), affine)


def _longest(
    stack: NDArray[np.bool_], basis: NDArray[np.float64]
) -> tuple[int, tuple[int, int], NDArray[np.bool_], NDArray[np.float64]]:
    """Return plane, first row and column, mask (rows, columns) and the (2, 2) ends of the longest line of any part."""
    joined = np.zeros((3, 3, 3), bool)
    joined[1] = True  # neighbours on the plane, corners too; planes stay apart
    parts, _ = ndimage.label(stack, joined)
    boxes = ndimage.find_objects(parts)
    # no line in a box is longer than its diagonal: small parts need no closer look
    sizes = np.array([[s.stop - s.start for s in box[1:]] for box in boxes], float)
    bounds = np.maximum(*(np.linalg.norm(sizes * sign @ basis, axis=1) for sign in ([1, 1], [1, -1])))
    best, found = 0.0, None
    for index in np.argsort(-bounds, kind="stable").tolist():
        if bounds[index] <= best:
            break
        box = boxes[index]
        part = parts[box][0] == index + 1
        points = _rims(part)
        if found is not None and _most_diameter(points @ basis) <= best:
            continue
        ends = _diameter(points, basis)
        length = float(np.linalg.norm((ends[1] - ends[0]) @ basis))
        if length > best * (1 + _TIE):
            best, found = length, (box[0].start, (box[1].start, box[2].start), part, ends)
    if found is None:
        raise ValueError("the mask is empty")
    return found


def _rims(part: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return (N, 2) points with the hull of the outline: some first and last pixels of rows with their diamonds."""
    rows = np.flatnonzero(part.any(axis=1))
    first, last = part[rows].argmax(axis=1), part.shape[1] - 1 - part[rows][:, ::-1].argmax(axis=1)
    centres = np.concatenate([_bulges(np.stack([rows, first], 1), 1), _bulges(np.stack([rows, last], 1), -1)])
    return (centres[:, None] + _DIAMOND).reshape(-1, 2)


def _bulges(side: NDArray[np.intp], sign: int) -> NDArray[np.intp]:
    """Leave out, of (N, 2) pixels by row, some that lie on or behind the line between their neighbours.

    None of those is a corner of the hull. sign : 1 for first pixels, -1 for last ones.
    """
    for _ in range(_PASSES):
        row, column = np.diff(side, axis=0).T
        corner = (row[:-1] * column[1:] - row[1:] * column[:-1]) * sign > 0
        side = side[np.concatenate([[True], corner, [True]])] if len(side) > 2 else side
    return side


def _most_diameter(flat: NDArray[np.float64]) -> float:
    """Return what the diameter of (N, 2) points in mm cannot exceed, within 2 % of it."""
    along = flat @ np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])
    return float(np.ptp(along, axis=0).max()) * _WIDEST


def _diameter(points: NDArray[np.float64], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (2, 2) ends of the longest line between two of (N, 2) points."""
    if len(points) > _FEW:  # the hull of few points costs more than all their pairs
        points = points[np.sort(ConvexHull(points @ basis).vertices)]
    points = points[np.lexsort(points.T[::-1])]
    squares = pdist(points @ basis, "sqeuclidean")
    longest = int((squares >= squares.max() * (1 - _TIE)).argmax())
    ends = np.cumsum(np.arange(len(points) - 1, 0, -1))  # pairs are listed by their first point
    i = int(np.searchsorted(ends, longest, side="right"))
    j = len(points) - int(ends[i] - longest)
    return points[[i, j]]


def _longest_across(
    part: NDArray[np.bool_], ends: NDArray[np.float64], basis: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the (2, 2) ends of the longest line inside a part at right angles to the line between ``ends``."""
    along = (ends[1] - ends[0]) @ basis
    along /= np.linalg.norm(along)
    turn = np.array([along, [-along[1], along[0]]]).T  # mm on the plane -> (along, across)
    edges = contour_edges(part) @ basis @ turn
    edges = edges[np.arange(len(edges))[:, None], np.argsort(edges[..., 0], axis=1)]
    cuts = np.unique(edges[..., 0])
    cuts = cuts[np.concatenate([[True], np.diff(cuts) > _TIE * np.ptp(cuts)])]
    step = max(1, _BLOCK // len(edges))
    lines = [_best_chord(edges, cuts[i : i + step + 1]) for i in range(0, len(cuts) - 1, step)]
    chord = max(lines, key=lambda line: line[1, 1] - line[0, 1])
    return chord @ turn.T @ np.linalg.inv(basis)


def _best_chord(edges: NDArray[np.float64], cuts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (2, 2) ends (along, across) of the longest chord between the first and the last cut.

    edges : (E, 2, 2) (along, across), each going forward. cuts : sorted places of the outline's points. No edge ends
    between two cuts, so a chord changes linearly there and is longest at one of the two: no sampling is needed.
    """
    (a, va), (b, vb) = edges[:, 0].T, edges[:, 1].T
    middle = (cuts[:-1] + cuts[1:]) / 2
    where, edge = np.nonzero((a <= middle[:, None]) & (b >= middle[:, None]))
    slope = (vb[edge] - va[edge]) / (b[edge] - a[edge])
    at_middle = va[edge] + slope * (middle[where] - a[edge])
    # an outline is closed: an even number of edges crosses each strip, and every second gap is inside
    order = np.lexsort((at_middle, where))
    where, edge, slope = where[order], edge[order], slope[order]
    best = None
    for cut in (cuts[where], cuts[where + 1]):
        across = va[edge] + slope * (cut - a[edge])
        i = 2 * int((across[1::2] - across[::2]).argmax())
        line = np.array([[cut[i], across[i]], [cut[i], across[i + 1]]])
        if best is None or line[1, 1] - line[0, 1] > best[1, 1] - best[0, 1]:
            best = line
    if best is None:
        raise ValueError("no outline")
    return best
