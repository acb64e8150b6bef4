"""Affines, frames, voxel <-> mm.

One frame everywhere: array index (slice, row, column) or (row, column) -> patient LPS mm, zero-based
voxel centres, a 4x4 float64 matrix. Only NIfTI and MONAI speak RAS.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medpanoptic.errors import GeometryError

Affine = NDArray[np.float64]

# RAS and LPS differ by the sign of the first two world axes; the matrix is its own inverse.
LPS_RAS_FLIP: Affine = np.diag([-1.0, -1.0, 1.0, 1.0])


def spatial_affine(spacing: ArrayLike, origin: ArrayLike | None = None) -> Affine:
    """Make an axis-aligned affine from a spacing.

    spacing : (2,) or (3,) mm, in array axis order (row, column) or (slice, row, column).
    origin : (3,) LPS mm of voxel 0, default 0.
    Returns (4, 4) float64, index -> LPS mm. The last array axis runs along +x (to the patient's left),
    the one before along +y, a slice axis along +z. For 2D the first index column is row -> y, the second
    column -> x; the third is the unit normal so that the matrix stays invertible.
    """
    values = np.asarray(spacing, float)
    if values.shape not in {(2,), (3,)} or not np.all(np.isfinite(values)) or np.any(values <= 0):
        raise GeometryError("GEO-SPACING", f"spacing must be 2 or 3 positive numbers, got {values.tolist()}")
    affine = np.zeros((4, 4))
    world = (2, 1, 0) if len(values) == 3 else (1, 0)
    for axis, (world_axis, step) in enumerate(zip(world, values, strict=True)):
        affine[world_axis, axis] = step
    if len(values) == 2:
        affine[2, 2] = 1.0
    affine[3, 3] = 1.0
    if origin is not None:
        affine[:3, 3] = np.asarray(origin, float)
    return affine


def check_affine(affine: ArrayLike) -> Affine:
    """Return ``affine`` as (4, 4) float64.

    Raises GeometryError (GEO-AFFINE) if the shape is wrong, a value is not finite, or it is singular.
    """
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise GeometryError("GEO-AFFINE", f"an affine must be 4 x 4, got shape {matrix.shape}")
    if not np.all(np.isfinite(matrix)):
        raise GeometryError("GEO-AFFINE", "the affine holds values that are NaN or infinite")
    if abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
        raise GeometryError("GEO-AFFINE", "the affine is singular: two voxel axes point the same way or have no length")
    return matrix


def is_rigid(affine: Affine) -> bool:
    """Tell whether the index axes stand upright on each other: no shear, as that of a tilted acquisition."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < 1e-5)


def voxel_spacing(affine: Affine, ndim: int) -> NDArray[np.float64]:
    """Return the (ndim,) mm lengths of the first ``ndim`` index axes."""
    return np.linalg.norm(affine[:3, :ndim], axis=0)


def voxel_size(affine: Affine, ndim: int) -> float:
    """Return the mm2 (2D) or mm3 (3D) of one pixel; right for sheared affines too."""
    if ndim == 2:
        return float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))
    return float(abs(np.linalg.det(affine[:3, :3])))


def to_world(indices: ArrayLike, affine: Affine) -> NDArray[np.float64]:
    """Turn voxel indices into patient positions.

    indices : (N, 2 | 3) in array axis order, 0 is the centre of the first voxel.
    Returns (N, 3) float64, LPS mm.
    Source: DICOM PS3.3 C.7.6.2.1.1
    """
    points = np.atleast_2d(np.asarray(indices, float))
    ndim = points.shape[1]
    return points @ affine[:3, :ndim].T + affine[:3, 3]


def to_index(points: ArrayLike, affine: Affine, ndim: int = 3) -> NDArray[np.float64]:
    """Turn patient positions (N, 3) LPS mm into continuous voxel indices (N, ndim)."""
    inverse = np.linalg.inv(affine)
    moved = np.atleast_2d(np.asarray(points, float)) @ inverse[:3, :3].T + inverse[:3, 3]
    return moved[:, :ndim]


def lps_to_ras(affine: Affine) -> Affine:
    """Turn an index -> LPS matrix into index -> RAS, or back: the flip is its own inverse."""
    return LPS_RAS_FLIP @ affine


def reverse_axes(affine: Affine) -> Affine:
    """Turn an affine for indices (slice, row, column) into one for (column, row, slice), or back.

    NIfTI, ITK and MONAI count the first axis fastest along x; numpy arrays here are (slice, row, column).
    """
    return affine[:, [2, 1, 0, 3]]


def same_grid(
    a: Affine, b: Affine, shape_a: tuple[int, ...], shape_b: tuple[int, ...], tolerance_mm: float = 1e-3
) -> bool:
    """Tell whether two arrays share shape and lie within ``tolerance_mm`` of each other at every corner."""
    if tuple(shape_a) != tuple(shape_b):
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape_a], indexing="ij")).reshape(len(shape_a), -1).T
    return bool(np.abs(to_world(corners, a) - to_world(corners, b)).max() <= tolerance_mm)
