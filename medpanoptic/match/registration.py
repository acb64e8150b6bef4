"""Bring a prior image to a current one: by their frame of reference, else by a rigid registration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpanoptic.errors import ReviewError
from medpanoptic.geometry import Affine, spatial_affine, to_index, to_world
from medpanoptic.volume import Volume

if TYPE_CHECKING:
    import SimpleITK

_GRID_MM = 3.0  # both images are brought to this before: enough to find a lesion again, and quick
_MOST_VOXELS = 192  # per axis; a larger image gets a coarser grid
_SEED = 20260102  # of the voxels that the metric looks at
_SAMPLED = 0.2


@dataclass(frozen=True, eq=False)
class Registration:
    """How a prior study lies over a current one.

    matrix : (4, 4) rigid, prior LPS mm -> current LPS mm. method : "frame" where both share their frame of reference
    (the matrix is 1 then), else "rigid". similarity : mutual information (larger is better), NaN for "frame".
    """

    matrix: NDArray[np.float64]
    method: Literal["frame", "rigid"]
    similarity: float = float("nan")

    def to_current(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Move (N, 3) LPS mm points of the prior study into the current one."""
        moved = np.atleast_2d(points_mm) @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        return np.asarray(moved, float)


def register(
    prior: Volume, current: Volume, prior_channel: int = 0, current_channel: int = 0, threads: int = 1
) -> Registration:
    """Register two 3D images of one patient.

    A shared, named frame of reference is taken at its word. Else: six parameters (turn and shift), Mattes mutual
    information (so CT may meet MR), three levels from coarse to fine, started from the centres of mass. Oblique and
    sheared grids are fine. threads : 1 gives the same numbers on every run; more are quicker and differ in the last
    digits. Raises ReviewError: MATCH-DIMS (not 3D), MATCH-FAILED (nothing to hold on to, or the fit ran away).
    """
    if prior.ndim != 3 or current.ndim != 3:
        raise ReviewError("MATCH-DIMS", "only volumes can be registered")
    frames = {prior.source.frame_of_reference_uid, current.source.frame_of_reference_uid}
    if len(frames) == 1 and frames != {""}:
        return Registration(np.eye(4), "frame")
    moving, fixed = _to_grid(prior, prior_channel), _to_grid(current, current_channel)
    try:
        with _threads(threads):
            matrix, similarity = _fit(fixed, moving, threads)
    except RuntimeError as error:
        raise ReviewError(
            "MATCH-FAILED", "the two images could not be registered; do they show the same region?"
        ) from error
    # the transform of ITK goes from fixed to moving points
    inverse = np.asarray(np.linalg.inv(matrix), np.float64)
    return Registration(inverse, "rigid", similarity)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Bound the threads of all of ITK, as its filters inside a registration take the global number."""
    import SimpleITK as sitk  # noqa: N813

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(number)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _to_grid(volume: Volume, channel: int) -> SimpleITK.Image:
    """Return a channel on an axis-aligned isotropic LPS grid around the volume, float32."""
    import SimpleITK as sitk  # noqa: N813

    shape = np.array(volume.shape)
    corners = to_world(
        np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1).T, volume.affine
    )
    low, high = corners.min(0), corners.max(0)
    step = max(_GRID_MM, float((high - low).max()) / _MOST_VOXELS)
    size = np.floor((high - low) / step).astype(int) + 1  # x, y, z
    grid = spatial_affine((step,) * 3, low)
    # grid index -> index of the volume, one matrix for scipy
    ends = to_index(to_world(np.vstack([np.zeros(3), np.eye(3)]), grid), volume.affine)
    array = np.asarray(volume.array[channel], np.float32)
    array = ndimage.gaussian_filter(array, np.maximum(0, 0.4 * step / volume.spacing - 0.4))
    moved = ndimage.affine_transform(
        array, (ends[1:] - ends[0]).T, ends[0], tuple(size[::-1]), order=1, mode="constant", cval=float(array.min())
    )
    image = sitk.GetImageFromArray(moved)
    image.SetSpacing((step,) * 3)
    image.SetOrigin(low.tolist())
    return image


def _fit(fixed: SimpleITK.Image, moving: SimpleITK.Image, threads: int) -> tuple[Affine, float]:
    import SimpleITK as sitk  # noqa: N813

    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(threads)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(_SAMPLED, _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.002, 300, 0.8, 1e-9)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 0])
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    method.SetInitialTransform(start, inPlace=False)
    found = method.Execute(fixed, moving)
    origin = np.array(found.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(found.TransformPoint(tuple(axis))) - origin for axis in np.eye(3).tolist()]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.array(columns).T, origin
    return matrix, -float(method.GetMetricValue())
