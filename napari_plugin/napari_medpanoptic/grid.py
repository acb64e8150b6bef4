"""Between the native grid of a case and the viewer: boxes, regions, points, brush strokes. No napari, no Qt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medpanoptic.geometry import Affine, to_index
from medpanoptic.result import Box
from medpanoptic.review import Region
from napari_medpanoptic.orientation import display_order, display_placement


class Grid:
    """One native grid as the viewer shows it: display index x scale + translate = viewer coordinates."""

    def __init__(self, affine: Affine, shape: tuple[int, ...]) -> None:
        self.affine, self.shape = affine, shape
        self.order = display_order(affine, len(shape))
        scale, translate = display_placement(affine, shape, self.order)
        self.scale, self.translate = np.array(scale), np.array(translate)

    def display_slices(self, box: Box) -> tuple[slice, ...]:
        """Return where a native box lies in an array in display order."""
        found = []
        for axis, flip in zip(self.order.axes, self.order.flips, strict=True):
            start, stop = box[axis]
            found.append(slice(self.shape[axis] - stop, self.shape[axis] - start) if flip else slice(start, stop))
        return tuple(found)

    def native_region(self, corner: Sequence[int], mask: NDArray[np.bool_]) -> Region:
        """Return the native region of a mask in display order whose first voxel is at ``corner``."""
        box: list[tuple[int, int]] = [(0, 0)] * len(self.shape)
        for d, (axis, flip) in enumerate(zip(self.order.axes, self.order.flips, strict=True)):
            start, stop = int(corner[d]), int(corner[d]) + mask.shape[d]
            box[axis] = (self.shape[axis] - stop, self.shape[axis] - start) if flip else (start, stop)
        return Region(tuple(box), np.ascontiguousarray(self.order.to_native(mask)))

    def native_index(self, point: Sequence[float]) -> tuple[float, ...]:
        """Return the continuous native index at viewer coordinates."""
        display = (np.asarray(point, float) - self.translate) / self.scale
        native = np.empty(len(self.shape))
        for d, (axis, flip) in enumerate(zip(self.order.axes, self.order.flips, strict=True)):
            native[axis] = self.shape[axis] - 1 - display[d] if flip else display[d]
        return tuple(native.tolist())

    def nearest(self, point: Sequence[float]) -> tuple[int, ...] | None:
        """Return the native voxel at viewer coordinates, or None outside the grid."""
        index = tuple(round(v) for v in self.native_index(point))
        inside = all(0 <= i < n for i, n in zip(index, self.shape, strict=True))
        return index if inside else None

    def display_points(self, native: ArrayLike) -> NDArray[np.float64]:
        """Return (N, ndim) display indices of (N, ndim) native indices."""
        indices = np.atleast_2d(np.asarray(native, float))
        last = np.array(self.shape) - 1
        moved = [
            last[axis] - indices[:, axis] if flip else indices[:, axis]
            for axis, flip in zip(self.order.axes, self.order.flips, strict=True)
        ]
        return np.stack(moved, axis=1)

    def native_points(self, display: ArrayLike) -> NDArray[np.float64]:
        """Return (N, ndim) native indices of (N, ndim) display indices."""
        points = np.atleast_2d(np.asarray(display, float))
        return np.array([self.native_index(p * self.scale + self.translate) for p in points])

    def display_points_of_mm(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Return (N, ndim) display indices of (N, 3) LPS mm."""
        return self.display_points(to_index(points_mm, self.affine, len(self.shape)))


def strokes(atoms: Iterable[Any]) -> list[tuple[int, int, tuple[int, ...], NDArray[np.bool_]]]:
    """Turn what napari's Labels layer reports of a stroke into (new label, old label, corner, mask) in display order.

    atoms : the value of its ``paint`` event: mask edits (slice_key, mask, old_values, new_value) or triples (indices,
    old values, new value). All voxels of one new and one old label make one entry.
    """
    places: dict[tuple[int, int], list[NDArray[np.int64]]] = {}
    for atom in atoms:
        indices, old, new = _voxels(atom)
        new = np.broadcast_to(np.asarray(new), old.shape)
        for pair in {(int(a), int(b)) for a, b in zip(new, old, strict=True)}:
            chosen = (new == pair[0]) & (old == pair[1])
            places.setdefault(pair, []).append(indices[chosen])
    found = []
    for (label, before), parts in places.items():
        points = np.concatenate(parts)
        low, high = points.min(axis=0), points.max(axis=0) + 1
        mask = np.zeros(high - low, bool)
        mask[tuple((points - low).T)] = True
        found.append((label, before, tuple(low.tolist()), mask))
    return found


def box_of_stroke(atoms: Iterable[Any]) -> tuple[slice, ...]:
    """Return the box, in display order, around all that napari's Labels layer reports of a stroke."""
    points = np.concatenate([_voxels(atom)[0] for atom in atoms])
    return tuple(slice(int(a), int(b) + 1) for a, b in zip(points.min(axis=0), points.max(axis=0), strict=True))


def _voxels(atom: Any) -> tuple[NDArray[np.int64], NDArray, Any]:
    if not hasattr(atom, "slice_key"):
        indices, old, new = atom
        old = np.asarray(old).ravel()
        return np.stack([np.broadcast_to(np.asarray(i).ravel(), old.shape) for i in indices], axis=1), old, new
    # slices and, across the plane that is painted, whole numbers
    starts = [key.start if isinstance(key, slice) else int(key) for key in atom.slice_key]
    sizes = [key.stop - key.start if isinstance(key, slice) else 1 for key in atom.slice_key]
    mask = np.ones(sizes, bool) if atom.mask is None else np.asarray(atom.mask).reshape(sizes)
    return np.argwhere(mask) + starts, np.asarray(atom.old_values).ravel(), atom.new_value
