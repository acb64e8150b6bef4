"""Fill the slices between drawn ones by shape, so that a slanted lesion is not cut off.

Source: Raya & Udupa 1990, 10.1109/42.52980 (signed distances); the centres are aligned as in Herman, Zheng & Bucholtz,
Shape-based interpolation, IEEE Computer Graphics & Applications, May 1992, 69-79.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpanoptic.errors import ReviewError


def interpolate_slices(
    mask: NDArray[np.bool_], axis: int, spacing: Sequence[float], keys: Sequence[int] | None = None
) -> NDArray[np.bool_]:
    """Return a mask with the slices between key slices filled.

    mask : (slice, row, column) bool. axis : along which slices are counted. spacing : (3,) mm.
    keys : the slices that are right; what lies between two of them is replaced. None takes every slice that has voxels,
    so that gaps are filled and nothing else changes. A key slice itself never changes.
    Raises ReviewError (REVIEW-SLICES) with fewer than two key slices with voxels, or where nothing lies between them.
    """
    if mask.ndim != 3:
        raise ReviewError("REVIEW-SLICES", "only a volume has slices to fill between")
    stack = np.moveaxis(mask, axis, 0)
    drawn = np.flatnonzero(stack.any((1, 2)))
    chosen = drawn if keys is None else np.intersect1d(drawn, keys)
    if len(chosen) < 2 or (np.diff(chosen) == 1).all():
        raise ReviewError("REVIEW-SLICES", "draw the lesion on two slices with others between them first")
    plane = [float(s) for a, s in enumerate(spacing) if a != axis]
    filled = stack.copy()
    for low, high in zip(chosen.tolist(), chosen[1:].tolist(), strict=False):
        if high - low > 1:
            filled[low + 1 : high] = _between(stack[low], stack[high], high - low, plane)
    return np.moveaxis(filled, 0, axis)


def _between(
    first: NDArray[np.bool_], last: NDArray[np.bool_], steps: int, spacing: Sequence[float]
) -> NDArray[np.bool_]:
    """Return (steps - 1, row, column): the slices from one mask to another."""
    centres = [np.array(ndimage.center_of_mass(m)) for m in (first, last)]
    # the aligned shapes may reach over the border of the crop while they are mixed
    margin = int(np.ceil(np.abs(centres[1] - centres[0]).max())) + 1
    distances = [signed_distance(np.pad(m, margin), spacing) for m in (first, last)]
    inner = (slice(margin, -margin),) * 2
    made = []
    for step in range(1, steps):
        part = step / steps
        centre = (1 - part) * centres[0] + part * centres[1]
        moved = [ndimage.shift(d, centre - c, order=1, mode="nearest") for d, c in zip(distances, centres, strict=True)]
        made.append(((1 - part) * moved[0] + part * moved[1])[inner] > 0)
    return np.array(made)


def signed_distance(mask: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    """Return mm to the rim, positive inside; the rim lies half-way between the last voxel in and the first out."""
    inside = np.asarray(ndimage.distance_transform_edt(mask, spacing))
    outside = np.asarray(ndimage.distance_transform_edt(~mask, spacing))
    half = 0.5 * min(spacing)
    return np.where(mask, inside - half, half - outside)
