"""Grey values inside a lesion, and SUVpeak."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from medpanoptic.geometry import Affine
from medpanoptic.result import Box
from medpanoptic.volume import Channel

PEAK_ML = 1.0
PEAK_RADIUS_MM = (3 * PEAK_ML * 1000 / (4 * np.pi)) ** (1 / 3)  # 6.2 mm
_FINE = 5  # points per axis in a voxel, to tell how much of it lies in the sphere


@dataclass(frozen=True)
class Intensity:
    """Grey values of one channel inside a segment, in the channel's unit (HU, SUV, BQML or "" for stored values).

    std : of the population (divided by n). peak : mean in a sphere of 1 ml (see ``peak_mean``); PET volumes only.
    """

    channel: str
    modality: str
    unit: str
    mean: float
    std: float
    min: float
    max: float
    peak: float | None = None


def has_peak(channel: Channel, ndim: int) -> bool:
    """Tell whether a peak is measured: in PET volumes."""
    return channel.modality == "PT" and ndim == 3


def intensity(
    array: NDArray, mask: NDArray[np.bool_], box: Box, affine: Affine, channel: Channel, sphere: NDArray | None = None
) -> Intensity:
    """Measure one channel inside a mask.

    array : (*S) of the whole image; mask : bool, shape of ``box``; sphere : of ``peak_sphere``, to make it but once.
    """
    inside = array[tuple(slice(*axis) for axis in box)][mask].astype(np.float64)
    peak = None
    if has_peak(channel, array.ndim):
        peak = peak_mean(array, mask, box, peak_sphere(affine) if sphere is None else sphere)
    return Intensity(
        channel.name,
        channel.modality,
        channel.unit,
        float(inside.mean()),
        float(inside.std()),
        float(inside.min()),
        float(inside.max()),
        peak,
    )


def peak_sphere(affine: Affine) -> NDArray[np.float64]:
    """Return the part of each voxel that lies in a sphere of 1 ml around the middle one.

    affine : (4, 4) of a 3D grid, also sheared. Returns (2a + 1, 2b + 1, 2c + 1), 0 to 1, each voxel sampled at
    5 x 5 x 5 points.
    """
    steps = affine[:3, :3]
    # the sphere reaches r times the length of each row of the inverse in that index
    reach = np.ceil(PEAK_RADIUS_MM * np.linalg.norm(np.linalg.inv(steps), axis=1) + 0.5).astype(int)
    fine = [(np.arange((2 * n + 1) * _FINE) + 0.5) / _FINE - n - 0.5 for n in reach.tolist()]
    parts = [axis[:, None] * steps[:, k] for k, axis in enumerate(fine)]
    points = parts[0][:, None, None] + parts[1][None, :, None] + parts[2][None, None]
    near = (np.square(points).sum(axis=-1) <= PEAK_RADIUS_MM**2).astype(float)
    shape = [side for n in reach.tolist() for side in (2 * n + 1, _FINE)]
    return near.reshape(shape).mean(axis=(1, 3, 5))


def peak_mean(array: NDArray, mask: NDArray[np.bool_], box: Box, sphere: NDArray[np.float64]) -> float:
    """Return the highest mean in a sphere of 1 ml whose centre is a voxel of the lesion (SUVpeak).

    The sphere may reach out of the lesion, as in a small one it must; voxels that it cuts count by the part inside it,
    and what lies outside the image counts nothing. The centre is where the mean is highest, not the hottest voxel: less
    open to noise, and never lower. Source: PERCIST 1.0 (Wahl et al. 2009, 10.2967/jnumed.108.057307); the choice of
    centre as in Lodge et al. 2012, 10.2967/jnumed.111.101733.
    """
    reach = [n // 2 for n in sphere.shape]
    wide = [(start - r, stop + r) for (start, stop), r in zip(box, reach, strict=True)]
    kept = [(max(0, a), min(n, b)) for (a, b), n in zip(wide, array.shape, strict=True)]
    missing = [(k - a, b - m) for (a, b), (k, m) in zip(wide, kept, strict=True)]
    values = np.pad(array[tuple(slice(*axis) for axis in kept)].astype(np.float64), missing)
    weight = np.pad(np.ones([b - a for a, b in kept]), missing)
    sums = _sphere_sums(values, sphere)
    weights = _sphere_sums(weight, sphere) if np.any(np.array(missing) > 0) else float(sphere.sum())
    means = np.where(mask, sums / weights, -np.inf)
    place = np.unravel_index(int(means.argmax()), means.shape)
    # once more by plain addition: the transform leaves rounding in the last digits
    window = tuple(slice(p, p + n) for p, n in zip(place, sphere.shape, strict=True))
    return float((values[window] * sphere).sum() / (weight[window] * sphere).sum())


def _sphere_sums(values: NDArray[np.float64], sphere: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlate where the sphere fits whole: (n - m + 1) per axis. The sphere is its own mirror image."""
    shape = [fft.next_fast_len(n, real=True) for n in values.shape]
    product = fft.irfftn(fft.rfftn(values, shape) * fft.rfftn(sphere, shape), shape)
    return product[tuple(slice(m - 1, n) for n, m in zip(values.shape, sphere.shape, strict=True))]
