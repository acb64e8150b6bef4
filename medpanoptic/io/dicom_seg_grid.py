"""Where the frames of a DICOM Segmentation lie: one grid of slices, from positions, with gaps where nothing was found.

Source: DICOM PS3.3 C.7.6.16.2.1 (pixel measures), .2.3 (plane position), .2.4 (plane orientation)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import GeometryError
from medpanoptic.geometry import Affine
from medpanoptic.io.dicom_geometry import Plane, Stack, sort_planes
from medpanoptic.io.limits import check_size

if TYPE_CHECKING:
    from pydicom import Dataset

_PLACE_TOLERANCE = 0.1  # voxels between a frame's own position and the grid of the image
_SLACK_MM = 0.02  # as for the slices of a series
_FEW_GAPS = 3  # so many gaps may all be even by chance
_SINGLE = "a single slice: its depth is SpacingBetweenSlices or SliceThickness"
_WRONG_STEP = "SpacingBetweenSlices does not agree with the positions of the frames and was not used"


@dataclass(frozen=True, eq=False)
class Grid:
    """The grid that the frames lie on.

    affine : (4, 4), index (slice, row, column) -> LPS mm. slices : (F,) slice of each frame, 0 to shape[0] - 1.
    """

    affine: Affine
    shape: tuple[int, int, int]
    slices: NDArray[np.int64]
    notes: tuple[str, ...] = ()


def frame_grid(dataset: Dataset, name: str, image_affine: Affine | None = None) -> Grid:
    """Return the grid of the frames, from the first that is there to the last.

    image_affine : of the image that the segmentation belongs to; its slices are then those of the grid. Without it
    SpacingBetweenSlices is taken where the positions agree with it, else the smallest distance of two frames.
    Raises GeometryError: GEO-POSITION, GEO-ORIENTATION, GEO-PIXEL-SPACING, MIX-ORIENTATION, MIX-SPACING, GEO-SINGLE,
    GEO-SPACING (no even spacing fits the positions), GEO-TILT; ReadError: READ-TOO-LARGE.
    """
    planes, thickness, between = _planes(dataset, name)
    stack = sort_planes(planes, name)
    heights = (stack.positions - stack.positions[0]) @ stack.axes[2]
    hint = None if image_affine is None else _step_of(image_affine, stack.axes[2])
    step, notes = _step(heights, hint, between, thickness, name)
    counts = np.rint(heights / step).astype(np.int64)
    if hint is not None and np.abs(heights / step - counts).max() > _PLACE_TOLERANCE:
        raise GeometryError("SEG-GRID", f"{name}: the frames do not lie on the {step:.3f} mm slices of the image given")
    shape = (int(counts[-1]) + 1, int(dataset.Rows), int(dataset.Columns))
    check_size(shape, 4, name)
    affine = np.eye(4)
    affine[:3, 0] = _slice_vector(stack, counts, step, hint, image_affine, name)
    # row index runs down the column, by the first PixelSpacing value along the second direction
    affine[:3, 1] = stack.axes[1] * stack.spacing[0]
    affine[:3, 2] = stack.axes[0] * stack.spacing[1]
    affine[:3, 3] = stack.positions[0]
    slices = np.empty(len(counts), np.int64)
    slices[list(stack.order)] = counts
    return Grid(affine, shape, slices, notes)


def view_on(array: NDArray, image_affine: Affine, grid: Grid, name: str) -> NDArray:
    """Return the part of ``array`` (*S), which lies on the image's grid, that the frames cover, in their axis order.

    A view: what is written into it is in ``array``, whatever axes are swapped or run the other way.
    Raises GeometryError (SEG-GRID) if the frames are not on the image's voxels, or lie outside of the image.
    """
    inverse = np.linalg.inv(image_affine)
    step = inverse[:3, :3] @ grid.affine[:3, :3]  # image voxels per grid voxel
    axes = np.argmax(np.abs(step), axis=0)
    signs = np.sign(step[axes, [0, 1, 2]]).astype(int)
    exact = np.zeros((3, 3))
    exact[axes, [0, 1, 2]] = signs
    start = inverse[:3, :3] @ grid.affine[:3, 3] + inverse[:3, 3]
    origin = np.rint(start).astype(int)
    # off by this much in the farthest corner, in voxels of the image
    off = np.abs(start - origin) + np.abs(step - exact) @ (np.array(grid.shape) - 1)
    if len(set(axes.tolist())) < 3 or off.max() > _PLACE_TOLERANCE:
        raise GeometryError(
            "SEG-GRID",
            f"{name}: the segmentation (size {grid.shape}) does not lie on the voxels of the image given "
            f"(size {array.shape}); give the series that it was made of, or leave the image out",
        )
    window, turned = [], array.transpose(axes)
    for axis, sign, n in zip(axes, signs, grid.shape, strict=True):
        first, last = sorted((origin[axis], origin[axis] + sign * (n - 1)))
        if first < 0 or last >= array.shape[axis]:
            raise GeometryError(
                "SEG-GRID", f"{name}: the segmentation reaches out of the image given (size {array.shape})"
            )
        window.append(slice(first, last + 1) if sign > 0 else slice(last, first - 1 if first else None, -1))
    return turned[tuple(window)]


def _planes(dataset: Dataset, name: str) -> tuple[list[Plane], float | None, float | None]:
    """Return the plane of each frame, SliceThickness and SpacingBetweenSlices in mm."""
    shared = _item(dataset, "SharedFunctionalGroupsSequence")
    planes, measures = [], None
    for i, frame in enumerate(dataset.get("PerFrameFunctionalGroupsSequence") or (), 1):
        measures = _group(frame, shared, "PixelMeasuresSequence")
        planes.append(
            Plane(
                f"frame {i}",
                _numbers(_group(frame, shared, "PlanePositionSequence"), "ImagePositionPatient", 3),
                _numbers(_group(frame, shared, "PlaneOrientationSequence"), "ImageOrientationPatient", 6),
                _numbers(measures, "PixelSpacing", 2),
            )
        )
    if not planes:
        raise GeometryError("GEO-POSITION", f"{name}: the segmentation has no frames with a position")
    depth = [_numbers(measures, keyword, 1) for keyword in ("SliceThickness", "SpacingBetweenSlices")]
    thickness, between = (abs(d[0]) or None if d else None for d in depth)
    return planes, thickness, between


def _group(frame: Dataset, shared: Dataset | None, keyword: str) -> Dataset | None:
    own = _item(frame, keyword)
    return own if own is not None or shared is None else _item(shared, keyword)


def _item(dataset: Dataset, keyword: str) -> Dataset | None:
    items = dataset.get(keyword)
    return items[0] if items else None


def _numbers(item: Dataset | None, keyword: str, count: int) -> tuple[float, ...] | None:
    value: Any = None if item is None else item.get(keyword)
    try:
        numbers = tuple(float(v) for v in (value if count > 1 else [value]))
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(np.isfinite(numbers)) else None


def _step_of(image_affine: Affine, normal: NDArray[np.float64]) -> float:
    """Return the mm between the image's planes that are parallel to the frames: the largest step along the normal."""
    return float(np.abs(normal @ image_affine[:3, :3]).max())


def _step(
    heights: NDArray[np.float64],
    hint: float | None,
    between: float | None,
    thickness: float | None,
    name: str,
) -> tuple[float, tuple[str, ...]]:
    """Return the mm from slice to slice along the normal, and notes."""
    gaps = np.diff(heights)
    gaps = gaps[gaps > 0.01]
    if hint is not None:
        return hint, ()
    if not len(gaps):
        single = between or thickness
        if not single or not single < 1000:
            raise GeometryError("GEO-SINGLE", f"{name}: a single slice of unknown thickness; give the image too")
        return single, (_SINGLE,)
    for step in (between, float(gaps.min()), thickness):
        if step and (fitted := _fit(gaps, step)):
            return fitted, () if step is between or not between else (_WRONG_STEP,)
    raise GeometryError(
        "GEO-SPACING",
        f"{name}: the frames are {gaps.min():.3f} to {gaps.max():.3f} mm apart, which no even spacing fits; "
        "give the image too",
    )


def _fit(gaps: NDArray[np.float64], step: float) -> float | None:
    """Return the step that fits best if every gap is a whole number of steps, within 1 % or 0.02 mm; else None.

    A step that is hardly more than the tolerance fits everything; one that every gap is a multiple of is too short.
    """
    counts = np.rint(gaps / step)
    if step < 4 * _SLACK_MM or counts.min() < 1 or np.abs(gaps - counts * step).max() > max(0.01 * step, _SLACK_MM):
        return None
    if len(gaps) > _FEW_GAPS and np.gcd.reduce(counts.astype(np.int64)) > 1:
        return None
    fitted = float(gaps.sum() / counts.sum())
    return fitted if np.abs(np.cumsum(gaps) - np.cumsum(counts) * fitted).max() <= 0.1 * fitted else None


def _slice_vector(
    stack: Stack,
    counts: NDArray[np.int64],
    step: float,
    hint: float | None,
    image_affine: Affine | None,
    name: str,
) -> NDArray[np.float64]:
    """Return the (3,) mm of one slice step: along the normal, or sheared where the positions of a tilted scan are."""
    normal = stack.axes[2]
    if counts[-1] == 0:
        if hint is None or image_affine is None:
            return step * normal
        # the image's own step, towards the normal: it may be sheared
        vectors = image_affine[:3, :3].T
        vector = vectors[np.argmax(np.abs(vectors @ normal))]
        return vector * np.sign(vector @ normal)
    moved = stack.positions - stack.positions[0]
    vector = counts @ moved / (counts @ counts)
    sideways = float(np.linalg.norm(vector - (vector @ normal) * normal))
    if sideways > step:
        raise GeometryError("GEO-TILT", f"{name}: frames are shifted by more than their distance")
    if np.linalg.norm(moved - np.outer(counts, vector), axis=1).max() > max(0.1 * step, 0.1):
        raise GeometryError("GEO-SPACING", f"{name}: the frames are not on one line with even spacing")
    return vector
