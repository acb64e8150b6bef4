"""One image on the grid of another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medpanoptic.errors import GeometryError
from medpanoptic.geometry import same_grid, to_index, to_world
from medpanoptic.volume import Volume


def resample_to(volume: Volume, reference: Volume, outside: float) -> Volume:
    """Return ``volume`` on the grid of ``reference``, or itself, untouched, if it is there already.

    Linear, float32; ``outside`` fills what the image does not cover. Works between voxel indices, so that sheared
    affines, which ITK images cannot have, are right too. A finer image is not smoothed first.
    Raises GeometryError: GEO-GRID (2D images of different grids), GEO-OVERLAP.
    """
    if volume.ndim == reference.ndim and same_grid(volume.affine, reference.affine, volume.shape, reference.shape):
        return volume
    if volume.ndim != 3 or reference.ndim != 3:
        raise GeometryError(
            "GEO-GRID",
            f"2D channels must share size and pixel size, got {volume.shape} and {reference.shape}",
        )
    import SimpleITK as sitk  # noqa: N813

    _check_overlap(volume, reference)
    matrix = np.linalg.inv(volume.affine) @ reference.affine
    # ITK counts the fastest axis first
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[2::-1, 2::-1].ravel().tolist())
    transform.SetTranslation(matrix[2::-1, 3].tolist())
    layers = []
    for layer in volume.array:
        image = sitk.GetImageFromArray(layer.astype(np.float32))
        moved = sitk.Resample(
            image, reference.shape[::-1], transform, sitk.sitkLinear,
            (0.0,) * 3, (1.0,) * 3, np.eye(3).ravel().tolist(), outside, sitk.sitkFloat32,
        )  # fmt: skip
        layers.append(sitk.GetArrayFromImage(moved))
    return replace(volume, array=np.stack(layers), affine=reference.affine)


def _check_overlap(volume: Volume, reference: Volume) -> None:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in reference.shape], indexing="ij")).reshape(3, -1).T
    seen = to_index(to_world(corners, reference.affine), volume.affine)
    last = np.array(volume.shape) - 1
    if np.any(seen.max(axis=0) < -0.5) or np.any(seen.min(axis=0) > last + 0.5):
        raise GeometryError("GEO-OVERLAP", "two channels do not overlap in space; do they belong together?")
