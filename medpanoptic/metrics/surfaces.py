"""How far two masks lie apart: the 95th percentile of their surfaces' distance, in mm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpanoptic.errors import DataError


def hausdorff_95(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: Sequence[float]) -> float:
    """Return HD95 of two masks (*S) in the unit of ``spacing`` (one length per axis).

    From each surface voxel (in the mask, with a face or the image's border outside) to the nearest surface voxel of
    the other mask; the larger of the two 95th percentiles. NaN if both are empty, infinite if one is.
    Raises DataError (METRIC-SHAPE). Equal to MONAI's ``HausdorffDistanceMetric(percentile=95)``.
    """
    if a.shape != b.shape:
        raise DataError("METRIC-SHAPE", f"masks {a.shape} and {b.shape} differ in shape")
    if not (a.any() and b.any()):
        return math.nan if a.any() == b.any() else math.inf
    either = ndimage.find_objects((a | b).astype(np.uint8))[0]
    rims = [_surface(mask[either]) for mask in (a, b)]
    distances = [ndimage.distance_transform_edt(~other, sampling=spacing)[own] for own, other in (rims, rims[::-1])]
    return float(max(np.percentile(d, 95) for d in distances))


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask & ~ndimage.binary_erosion(mask)
