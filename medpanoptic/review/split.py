"""Cut one mask into parts: around seeds, on the two sides of a plane, or where it hangs together only in pieces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from medpanoptic.errors import ReviewError
from medpanoptic.geometry import Affine, to_world


def split_by_seeds(
    mask: NDArray[np.bool_], seeds: ArrayLike, spacing: Sequence[float], image: NDArray | None = None
) -> NDArray[np.int32]:
    """Give every voxel of a mask to one of two or more seeds by a watershed.

    mask : (*S) bool. seeds : (k, ndim) indices into it; one beside the mask counts for the nearest voxel in it.
    spacing : (ndim,) mm. image : None floods the distance to the rim, so the cut runs through the waist; (*S) numbers
    flood the strength of the edges, so the cut follows them.
    Returns (*S) int32, 0 outside, 1..k in the order of the seeds.
    Raises ReviewError (REVIEW-SEEDS) with fewer than two seeds on different voxels.
    """
    from skimage.segmentation import watershed

    points = np.rint(np.atleast_2d(np.asarray(seeds, float))).astype(int)
    if points.shape[1] != mask.ndim or not mask.any():
        raise ReviewError("REVIEW-SEEDS", f"a seed has {mask.ndim} indices and lies on the lesion to split")
    nearest = ndimage.distance_transform_edt(~mask, spacing, return_distances=False, return_indices=True)
    inside = [tuple(int(n) for n in nearest[(slice(None), *np.clip(p, 0, np.array(mask.shape) - 1))]) for p in points]
    if len(inside) < 2 or len(set(inside)) < len(inside):
        raise ReviewError("REVIEW-SEEDS", "a split needs two or more seeds on different voxels of the lesion")
    markers = np.zeros(mask.shape, np.int32)
    for number, place in enumerate(inside, 1):
        markers[place] = number
    if image is None:
        height = -ndimage.distance_transform_edt(np.pad(mask, 1), spacing)[(slice(1, -1),) * mask.ndim]
    else:
        height = ndimage.gaussian_gradient_magnitude(image.astype(np.float32), 1.0)
    return _fill(np.asarray(watershed(height, markers, mask=mask), np.int32), mask, spacing)


def _fill(labels: NDArray[np.int32], mask: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.int32]:
    """Give parts of the mask that no flood reached to the nearest label."""
    if not (mask & (labels == 0)).any():
        return labels
    nearest = ndimage.distance_transform_edt(labels == 0, spacing, return_distances=False, return_indices=True)
    return np.where(mask, labels[tuple(nearest)], 0).astype(np.int32)


def split_by_plane(
    mask: NDArray[np.bool_], offset: Sequence[int], affine: Affine, point_mm: ArrayLike, normal: ArrayLike
) -> NDArray[np.int32]:
    """Cut a mask by a plane.

    mask : (*S) bool; offset : index of its first voxel in the grid of ``affine``. point_mm, normal : (3,) LPS, any
    length. Returns (*S) int32: 0 outside, 1 on the side that the normal points away from, 2 on the other.
    Raises ReviewError (REVIEW-PLANE) without a direction, or where the plane leaves the lesion whole.
    """
    direction = np.asarray(normal, float)
    length = np.linalg.norm(direction)
    if direction.shape != (3,) or not np.isfinite(length) or length < 1e-9:
        raise ReviewError("REVIEW-PLANE", "the normal of a plane needs three numbers that are not all 0")
    indices = np.argwhere(mask)
    side = (to_world(indices + np.asarray(offset), affine) - np.asarray(point_mm, float)) @ direction > 0
    if side.all() or not side.any():
        raise ReviewError("REVIEW-PLANE", "the plane does not cross the lesion; nothing was split")
    labels = np.zeros(mask.shape, np.int32)
    labels[tuple(indices.T)] = np.where(side, 2, 1)
    return labels


def plane_of_line(
    start: Sequence[float], stop: Sequence[float], affine: Affine, axis: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the point (LPS mm) and normal of the plane that stands on a slice along a line drawn there.

    start, stop : native indices of two points on one slice (2D: on the image). axis : the axis along which the slice
    was taken; the plane runs along it. Raises ReviewError (REVIEW-PLANE) if the points are one.
    """
    ends = to_world([start, stop], affine)
    along = affine[:3, axis] if len(start) == 3 else affine[:3, 2]
    normal = np.cross(ends[1] - ends[0], along)
    if np.linalg.norm(normal) < 1e-9:
        raise ReviewError("REVIEW-PLANE", "a line to cut along needs two different points on the slice")
    return ends[0], normal


def split_pieces(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the connected pieces of a mask (corners join). Raises ReviewError (REVIEW-PIECES) if it is one."""
    labels, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    if count < 2:
        raise ReviewError("REVIEW-PIECES", "the lesion hangs together; split it by seeds or by a plane")
    return np.asarray(labels, np.int32)
