"""Array order for display, and back: head up, patient's right on the left of the screen.

napari draws the last two axes as screen rows (downwards) and columns (to the right), and slides along the first.
So a volume is shown with axis 0 running from head to feet, axis 1 from anterior to posterior and axis 2 from the
patient's right to left: axial, coronal and sagittal planes all look as in a radiology viewer. Only whole axes are
permuted and flipped, no voxel is resampled, so the way back is exact. 2D images keep the order of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from medpanoptic.geometry import Affine, check_affine, voxel_spacing

# LPS directions in which the display axes 0, 1, 2 run: to the feet, to posterior, to the patient's left
DISPLAY_DIRECTIONS = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
# (towards minus, towards plus) on the LPS axes
_LETTERS = (("R", "L"), ("A", "P"), ("F", "H"))
# the sine of 10 degrees: what tilts less needs no second letter
_OBLIQUE = 0.17
# viewer.dims.order of each plane: the last two axes are screen rows and columns
PLANES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}


@dataclass(frozen=True)
class DisplayOrder:
    """How an array of the native grid is reordered for display.

    axes : display axis d shows native axis ``axes[d]``.
    flips : whether display axis d runs against its native axis.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    @property
    def _slices(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)

    def to_display(self, array: NDArray) -> NDArray:
        """Return a view of a (*S) array in display order."""
        return array.transpose(self.axes)[self._slices]

    def to_native(self, array: NDArray) -> NDArray:
        """Return a view in native order of an array in display order; the exact inverse of ``to_display``."""
        return array[self._slices].transpose(tuple(int(a) for a in np.argsort(self.axes)))

    def display_affine(self, affine: Affine, shape: tuple[int, ...]) -> Affine:
        """Return the (4, 4) matrix, display index -> LPS mm, for a native ``affine`` and native ``shape``."""
        moved = affine.copy()
        for display_axis, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            step = affine[:3, axis]
            moved[:3, display_axis] = -step if flip else step
            if flip:
                moved[:3, 3] += step * (shape[axis] - 1)
        return moved

    def directions(self, affine: Affine) -> NDArray[np.float64]:
        """Return (3, ndim): in column d the LPS unit vector along which display axis d runs."""
        steps = affine[:3, list(self.axes)] * np.where(self.flips, -1.0, 1.0)
        return steps / np.linalg.norm(steps, axis=0)


def direction_letters(direction: NDArray[np.float64]) -> str:
    """Return the letters of an LPS direction, the nearest axis first: "A", or "AL" where it runs obliquely.

    An axis counts where the direction leans towards it by 10 degrees or more. Source: DICOM PS3.3 C.7.6.1.1.1
    """
    weights = np.abs(direction)
    nearest_first = [axis for axis in np.argsort(-weights, kind="stable") if weights[axis] >= _OBLIQUE]
    return "".join(_LETTERS[axis][int(direction[axis] > 0)] for axis in nearest_first)


def display_order(affine: Affine, ndim: int) -> DisplayOrder:
    """Return the axis permutation and flips whose axes come closest to head-feet, anterior-posterior, right-left.

    affine : (4, 4) index -> LPS mm; oblique or sheared is fine, the nearest axes count.
    ndim : 2 or 3; 2D images stay as stored.
    """
    if ndim == 2:
        return DisplayOrder((0, 1), (False, False))
    matrix = check_affine(affine)[:3, :3]
    cosines = DISPLAY_DIRECTIONS @ (matrix / np.linalg.norm(matrix, axis=0))  # [display axis, native axis]
    # rounded, so that noise in an exactly diagonal plane does not decide; the first of equals wins
    axes = max(permutations(range(3)), key=lambda p: round(sum(abs(cosines[d, a]) for d, a in enumerate(p)), 6))
    return DisplayOrder(axes, tuple(bool(cosines[d, a] < 0) for d, a in enumerate(axes)))


def display_placement(
    affine: Affine, shape: tuple[int, ...], order: DisplayOrder
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return napari ``scale`` and ``translate`` in mm for an array in display order.

    No rotation: napari slices oblique layers wrongly, so the voxel grid is the viewer's grid. The translation is the
    position of the first voxel along each display axis; series of one orientation therefore lie over each other
    however their grids differ.
    """
    ndim = len(shape)
    shown = order.display_affine(affine, shape)
    spacing = voxel_spacing(shown, ndim)
    unit = shown[:3, :ndim] / spacing
    translate = tuple(float(v) for v in unit.T @ shown[:3, 3]) if ndim == 3 else (0.0, 0.0)
    return tuple(float(v) for v in spacing), translate
