"""Regions that a hand draws: strokes of a ball or disc, polygons on a slice. Never a whole volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medpanoptic.errors import ReviewError
from medpanoptic.geometry import Affine
from medpanoptic.result import Box


@dataclass(frozen=True, eq=False)
class Region:
    """Some voxels: a half-open box of the native grid and a bool mask of its shape."""

    box: Box
    mask: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.mask.shape != tuple(stop - start for start, stop in self.box):
            raise ReviewError("REVIEW-REGION", f"the mask has shape {self.mask.shape}, its box is {self.box}")


def slices(box: Sequence[tuple[int, int]]) -> tuple[slice, ...]:
    """Return the slices that cut a box out of an array."""
    return tuple(slice(start, stop) for start, stop in box)


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Return the half-open box around the true voxels; all (0, 0) if there is none."""
    box = []
    for axis in range(mask.ndim):
        along = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append((int(along[0]), int(along[-1]) + 1) if len(along) else (0, 0))
    return tuple(box)


def region_of_mask(mask: NDArray[np.bool_]) -> Region:
    """Return the region of a whole (*S) mask."""
    box = bounding_box(mask)
    return Region(box, mask[slices(box)])


def region_of_indices(indices: Sequence[NDArray[np.integer]], shape: Sequence[int]) -> Region:
    """Return the region of voxels listed as one index array per axis, as ``np.nonzero`` gives; none outside counts.

    This is the form in which napari reports what its brush changed.
    """
    points = np.stack([np.asarray(i, np.int64).ravel() for i in indices], 1)
    points = points[((points >= 0) & (points < np.array(shape))).all(1)]
    if not len(points):
        return Region(((0, 0),) * len(shape), np.zeros((0,) * len(shape), bool))
    low, high = points.min(0), points.max(0) + 1
    mask = np.zeros(high - low, bool)
    mask[tuple((points - low).T)] = True
    return Region(tuple(zip(low.tolist(), high.tolist(), strict=True)), mask)


def grow_box(box: Box, margin: Sequence[int], shape: Sequence[int]) -> Box:
    """Return a box wider by ``margin`` voxels on each side, inside ``shape``."""
    return tuple((max(0, a - m), min(n, b + m)) for (a, b), m, n in zip(box, margin, shape, strict=True))


def reach(radius_mm: float, affine: Affine, ndim: int) -> list[int]:
    """Return how many voxels a ball spans from its centre along each axis; right for sheared affines too."""
    inverse = np.linalg.pinv(affine[:3, :ndim])
    return [int(np.ceil(radius_mm * np.linalg.norm(row) - 1e-9)) for row in inverse]


def stroke(
    points: ArrayLike, radius_mm: float, affine: Affine, shape: Sequence[int], axis: int | None = None
) -> Region:
    """Return the voxels whose centre lies within ``radius_mm`` of the way from point to point.

    points : (n, ndim) native voxel indices, whole or not. axis : None paints with a ball; 0, 1 or 2 with a disc on the
    slice of the first point along that axis. The voxel under each point always counts, however small the radius.
    Raises ReviewError (REVIEW-REGION) without a point or with a radius below 0.
    """
    way = np.atleast_2d(np.asarray(points, float))
    ndim = len(shape)
    if not way.size or way.shape[1] != ndim or not np.isfinite(way).all() or not radius_mm >= 0:
        raise ReviewError("REVIEW-REGION", f"a stroke needs points of {ndim} indices and a radius of 0 mm or more")
    margin = reach(radius_mm, affine, ndim)
    if axis is not None:
        way[:, axis] = np.rint(way[0, axis])
        margin[axis] = 0
    low = np.maximum(np.rint(way.min(0)).astype(int) - margin, 0)
    high = np.minimum(np.rint(way.max(0)).astype(int) + margin + 1, shape)
    mask = np.zeros(np.maximum(high - low, 0), bool)
    metric = affine[:3, :ndim].T @ affine[:3, :ndim]
    for start, stop in zip(way[[0, *range(len(way) - 1)]], way, strict=True):
        _add_capsule(mask, low, start, stop, radius_mm, metric, margin)
    return Region(tuple(zip(low.tolist(), (low + mask.shape).tolist(), strict=True)), mask)


def _add_capsule(
    mask: NDArray[np.bool_],
    origin: NDArray[np.integer],
    start: NDArray[np.float64],
    stop: NDArray[np.float64],
    radius: float,
    metric: NDArray[np.float64],
    margin: Sequence[int],
) -> None:
    """Set the voxels of ``mask`` within ``radius`` of the line from start to stop (indices of the whole grid)."""
    low = np.clip(np.rint(np.minimum(start, stop)).astype(int) - margin - origin, 0, mask.shape)
    high = np.clip(np.rint(np.maximum(start, stop)).astype(int) + margin + 1 - origin, low, mask.shape)
    axes = [np.arange(a, b, dtype=float) + o for a, b, o in zip(low, high, origin, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1) - start
    line = stop - start
    length = float(line @ metric @ line)
    along = np.clip((grid @ (metric @ line)) / length, 0, 1) if length else np.zeros(grid.shape[:-1])
    away = grid - along[..., None] * line
    near = np.einsum("...i,ij,...j->...", away, metric, away) <= radius**2 + 1e-9
    mask[slices(list(zip(low.tolist(), high.tolist(), strict=True)))] |= near
    for point in (start, stop):
        at = np.rint(point).astype(int) - origin
        if ((at >= 0) & (at < mask.shape)).all():
            mask[tuple(at)] = True


def polygon(vertices: ArrayLike, shape: Sequence[int], axis: int = 0, index: int = 0) -> Region:
    """Return the voxels of one slice whose centre lies in a polygon.

    vertices : (n >= 3, 2) indices along the other two axes, in array order; in 2D, (row, column), and ``axis`` and
    ``index`` play no part. The even-odd rule holds where the outline crosses itself.
    Raises ReviewError (REVIEW-REGION) with fewer than three corners or a slice outside.
    """
    from skimage.draw import polygon2mask

    corners = np.asarray(vertices, float)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise ReviewError("REVIEW-REGION", "a polygon needs three or more corners of two indices each")
    plane = [n for a, n in enumerate(shape) if len(shape) == 2 or a != axis]
    if len(shape) == 3 and not 0 <= index < shape[axis]:
        raise ReviewError("REVIEW-REGION", f"slice {index} is not one of the {shape[axis]} along axis {axis}")
    low = np.clip(np.floor(corners.min(0)).astype(int), 0, plane)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, low, plane)
    mask = np.asarray(polygon2mask(tuple(high - low), corners - low), bool)
    box = list(zip(low.tolist(), high.tolist(), strict=True))
    if len(shape) == 3:
        mask = np.expand_dims(mask, axis)
        box.insert(axis, (index, index + 1))
    return Region(tuple(box), mask)
