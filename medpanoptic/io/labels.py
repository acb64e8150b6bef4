"""Label maps: whole numbers that name things, on the grid of their image or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import GeometryError, ReadError
from medpanoptic.geometry import Affine, to_world
from medpanoptic.io.files import is_dicom, read_dicom, read_file
from medpanoptic.volume import Volume

# corners of image and labels may differ by this part of the smallest voxel: rounding of headers, not a shift
_PLACE_TOLERANCE = 0.1
_LARGEST = int(np.iinfo(np.int32).max)
# above it float32 cannot hold every whole number, so that a label may have become its neighbour
_LARGEST_IN_FLOAT = 2**24


def read_labels(path: str | Path, like: Volume | None = None) -> Volume:
    """Read a map of instances or classes: NIfTI, MHA, NRRD, PNG, TIFF or DICOM, one channel, 0 = background.

    like : the image that the labels belong to. Labels that are stored with flipped or swapped axes but lie in the same
    place come back on its grid; any other place is refused. Sizes alone are compared where either has no pixel size.
    Returns a Volume, array (1, *S) int32. Whole numbers in a floating file are taken, and the indices of a palette;
    an empty map is valid.
    Raises ReadError: LABEL-FRACTION, LABEL-NAN, LABEL-RANGE (below 0, or over 2**31 - 1), LABEL-COLOR; GeometryError:
    LABEL-SHAPE, LABEL-PLACE; and all that ``read_volume`` raises.
    """
    place = Path(path)
    try:
        volume = read_dicom(place, None) if is_dicom(place) else read_file(place, is_label=True)
    except ReadError as error:
        raise type(error)(error.code, f"label map {error.message}") from None
    if volume.array.shape[0] != 1:
        raise ReadError(
            "LABEL-COLOR", f"{place.name}: {volume.array.shape[0]} channels (colour?), a label map has one of integers"
        )
    labels = replace(volume, array=_whole(volume.array, place.name))
    return labels if like is None else _on_grid(labels, like, place.name)


def _whole(array: NDArray, name: str) -> NDArray[np.int32]:
    """Return the labels as int32, each unchanged."""
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        if not finite.all():
            count = int((~finite).sum())
            raise ReadError("LABEL-NAN", f"{name}: {count} labels of the mask are NaN or infinite, not integers")
        fractions = int(np.count_nonzero(array != np.round(array)))
        if fractions:
            raise ReadError(
                "LABEL-FRACTION",
                f"{name}: {fractions} labels of the mask are no whole numbers (resampled linearly?); use nearest "
                "neighbour for masks",
            )
    largest = _LARGEST_IN_FLOAT if array.dtype.kind == "f" else _LARGEST
    low, high = array.min(), array.max()
    if low < 0 or high > largest:
        what = f"labels of the mask go from {low:.0f} to {high:.0f}"
        raise ReadError("LABEL-RANGE", f"{name}: {what}; they must be whole numbers from 0 to {largest}")
    return array.astype(np.int32)


def _on_grid(labels: Volume, like: Volume, name: str) -> Volume:
    """Flip and swap the stored axes onto the image's grid (LABEL-SHAPE, LABEL-PLACE)."""
    if labels.ndim != like.ndim or sorted(labels.shape) != sorted(like.shape):
        raise GeometryError(
            "LABEL-SHAPE", f"{name}: the mask's size {labels.shape} does not match the image's, {like.shape}"
        )
    if not (labels.calibrated and like.calibrated):
        if labels.shape != like.shape:
            raise GeometryError("LABEL-SHAPE", f"{name}: mask {labels.shape} and image {like.shape} differ in shape")
        return replace(labels, affine=like.affine, calibrated=like.calibrated)
    order, flips = _axes(labels.affine, like.affine, labels.ndim)
    array = np.flip(labels.array[0].transpose(order), tuple(i for i, flip in enumerate(flips) if flip))
    if array.shape != like.shape or _distance(labels, like, order, flips) > _PLACE_TOLERANCE * like.spacing.min():
        raise GeometryError(
            "LABEL-PLACE",
            f"{name}: the mask lies in another place than the image (their affine, direction or origin differ); "
            "resample it onto the image with nearest neighbour",
        )
    moved = [] if order == list(range(labels.ndim)) and not any(flips) else ["stored axes were turned onto the image's"]
    return replace(labels, array=np.ascontiguousarray(array)[None], affine=like.affine, notes=(*labels.notes, *moved))


def _axes(ours: Affine, target: Affine, ndim: int) -> tuple[list[int], list[bool]]:
    """For each axis of the target, which of ours runs along it, and whether it runs the other way."""
    a, b = (m[:3, :ndim] / np.linalg.norm(m[:3, :ndim], axis=0) for m in (ours, target))
    cosines = b.T @ a
    order = [int(i) for i in np.abs(cosines).argmax(axis=1)]
    if len(set(order)) < ndim:
        return list(range(ndim)), [False] * ndim
    return order, [bool(cosines[i, axis] < 0) for i, axis in enumerate(order)]


def _distance(labels: Volume, like: Volume, order: list[int], flips: list[bool]) -> float:
    """Largest distance in mm between the corners of both grids."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in like.shape], indexing="ij")).reshape(like.ndim, -1).T
    own = np.empty_like(corners)
    for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
        own[:, source] = labels.shape[source] - 1 - corners[:, axis] if flip else corners[:, axis]
    gap = to_world(own, labels.affine) - to_world(corners, like.affine)
    return float(np.linalg.norm(gap, axis=1).max())
