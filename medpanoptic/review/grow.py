"""A lesion from one click: grown in the image, or cut out of the model's own probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpanoptic.errors import ReviewError
from medpanoptic.geometry import voxel_spacing
from medpanoptic.review.live_map import LiveMap
from medpanoptic.review.probability import ProbabilityMap
from medpanoptic.review.regions import Region, grow_box, reach, slices
from medpanoptic.volume import Volume

# isocontour of PET lesions as a part of their hottest voxel. Source: EANM procedure guideline 1.0 (Boellaard et al.
# 2010, 10.1007/s00259-009-1297-4), 41 %
PET_PART = 0.41
# of the probability at its peak; 0.5 is where a network says "more likely than not"
PROBABILITY_PART = 0.5
_STEPS = 24  # thresholds that are tried in CT and MR
_SEARCHED = 60_000  # voxels that the search for a threshold looks at
# around the click: how far a lesion reaches, and where its peak and its grey values are looked for. In voxels, the
# largest side counts, where those are smaller: as in microscopy, where a nucleus has some 10 pixels
_REACH_MM, _REACH_VOXELS = 40.0, 80
_LOCAL_MM, _LOCAL_VOXELS = 4.0, 8


Method = Literal["auto", "probability", "image"]


def grow_at(
    live: LiveMap,
    index: Sequence[int],
    method: Method,
    volume: Volume | None,
    probability: NDArray | ProbabilityMap | None,
    reach_mm: float | None,
) -> Region:
    """Return the lesion at a click as a region of free voxels.

    index : native index of the click. method : "probability" uses ``probability`` (*S), "image" the PET channel of
    ``volume`` if it has one, else its first; "auto" the first of them that is given.
    reach_mm : how far from the click; None takes 40 mm, or 80 voxels where that is less.
    Raises ReviewError: REVIEW-GROW (nothing stands out, or the click is on a lesion); REVIEW-IMAGE (neither is given).
    """
    place = tuple(round(float(i)) for i in index)
    if len(place) != len(live.shape) or not all(0 <= p < n for p, n in zip(place, live.shape, strict=True)):
        raise ReviewError("REVIEW-GROW", f"the click {list(place)} is outside the image {live.shape}")
    use = method if method != "auto" else ("probability" if probability is not None else "image")
    affine = live.base.affine
    spacing = voxel_spacing(affine, len(place)).tolist()
    far = min(_REACH_MM, _REACH_VOXELS * max(spacing)) if reach_mm is None else reach_mm
    box = grow_box(tuple((p, p + 1) for p in place), reach(far, affine, len(place)), live.shape)
    where = slices(box)
    free = live.free_mask(box)
    seed = tuple(p - start for p, (start, _) in zip(place, box, strict=True))
    if not free[seed]:
        raise ReviewError("REVIEW-GROW", "the click lies on another lesion; click beside it, or reject it first")
    if use == "probability" and probability is not None:
        return Region(box, grow_probability(probability[where], seed, spacing, free))
    if use == "probability" or volume is None:
        raise ReviewError("REVIEW-IMAGE", f"growing in the {use} needs it; open the case with it, or draw the lesion")
    channel = main_channel(volume)
    crop = volume.array[channel][where]
    grow = grow_pet if volume.channels[channel].modality == "PT" else grow_image
    return Region(box, grow(crop, seed, spacing, free))


def main_channel(volume: Volume) -> int:
    """Return the channel in which lesions are looked for: PET where there is one, else the first that is present."""
    present = [i for i, c in enumerate(volume.channels) if c.present] or [0]
    return next((i for i in present if volume.channels[i].modality == "PT"), present[0])


def grow_pet(
    image: NDArray, seed: Sequence[int], spacing: Sequence[float], free: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Grow in PET: all that hangs together with the hottest voxel near the click and has 41 % of its uptake.

    image : (*S) SUV or Bq/ml of the surroundings. seed : index of the click. spacing : (ndim,) mm. free : (*S) bool,
    voxels that may be taken. Returns (*S) bool. Raises ReviewError (REVIEW-GROW) where nothing stands out.
    """
    values = image.astype(np.float32)
    peak = _peak_near(values, seed, spacing, free)
    if values[peak] <= 0:
        raise ReviewError("REVIEW-GROW", "there is no uptake at the click; draw the lesion instead")
    return _checked(_piece_at(free & (values >= PET_PART * values[peak]), peak), free)


def grow_probability(
    probability: NDArray, seed: Sequence[int], spacing: Sequence[float], free: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Cut the lesion at the click out of the model's probability of its class.

    probability : (*S), 0 to 1. All that hangs together above half of the peak near the click, then a watershed from the
    peaks in it, so that a neighbour that touches stays out. Other arguments and errors as in ``grow_pet``.
    """
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    values = ndimage.gaussian_filter(probability.astype(np.float32), 0.7)
    peak = _peak_near(values, seed, spacing, free)
    # a lesion that the model missed may be faint all over, but not absent
    if values[peak] < 0.02:
        raise ReviewError("REVIEW-GROW", "the model sees nothing at the click; grow in the image or draw the lesion")
    level = PROBABILITY_PART * min(1.0, float(values[peak]))
    piece = _piece_at(free & (values >= level), peak)
    local = _local_mm(spacing)
    apart = [max(1, round(local / s)) for s in spacing]
    window = ndimage.maximum_filter(values, [2 * a + 1 for a in apart])
    peaks = peak_local_max(
        np.where(piece & (values == window), values, 0), exclude_border=False, labels=piece.astype(int)
    )
    markers = np.zeros(piece.shape, np.int32)
    markers[peak] = 1
    for number, place in enumerate(peaks, 2):
        if (np.abs((place - np.array(peak)) * spacing) > local).any():
            markers[tuple(place)] = number
    return _checked(np.asarray(watershed(-values, markers, mask=piece)) == 1, free)


def grow_image(
    image: NDArray, seed: Sequence[int], spacing: Sequence[float], free: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Grow in CT, MR or microscopy: grey values like those at the click, as far as the shape stays stable.

    Bands of growing width around the grey value at the click are tried; of those whose region does not run on to the
    border of the surroundings, the one counts after which it grows least (a maximally stable region, Matas et al.
    2002, 10.1016/j.imavis.2004.02.006, from one seed). Its rim is then put half-way between the grey values inside
    and around it. Arguments and errors as in ``grow_pet``.
    """
    values = ndimage.gaussian_filter(image.astype(np.float32), 0.6)
    # the search works on every n-th voxel, with the click among them: the rim is found on all of them after
    step = max(1, round((values.size / _SEARCHED) ** (1 / values.ndim)))
    thin = tuple(slice(s % step, None, step) for s in seed)
    coarse, open_coarse, at = values[thin], free[thin], tuple(s // step for s in seed)
    near = _near(coarse.shape, at, [s * step for s in spacing], _local_mm(spacing) / 2) & open_coarse
    away = np.abs(coarse - float(np.median(coarse[near])))
    widths = np.linspace(0, float(np.percentile(away[open_coarse], 95)), _STEPS + 1)[1:]
    regions = [_piece_at(open_coarse & (away <= width), at) for width in widths]
    sizes = [int(r.sum()) for r in regions]
    closed = [i for i, r in enumerate(regions[:-1]) if sizes[i] > 1 and not _touches_border(r, open_coarse)]
    if not closed:
        raise ReviewError("REVIEW-GROW", "the grey values at the click run on into the surroundings; draw the lesion")
    # of equally stable ones the widest: noise no longer leaves holes in it
    best = max(closed, key=lambda i: (-round((sizes[i + 1] - sizes[i]) / sizes[i], 2), i))
    level, sign = _half_way(coarse, regions[best], open_coarse)
    found = _piece_at(free & (sign * (values - level) >= 0), tuple(seed))
    if _touches_border(found, free):
        raise ReviewError("REVIEW-GROW", "the lesion at the click has no clear rim; draw it instead")
    return _checked(ndimage.binary_fill_holes(found) & free, free)


def _half_way(values: NDArray[np.float32], region: NDArray[np.bool_], free: NDArray[np.bool_]) -> tuple[float, int]:
    """Return the grey value half-way between a region and a ring around it; and 1, or -1 if the ring is brighter."""
    ring = ndimage.binary_dilation(region, iterations=3) & ~ndimage.binary_dilation(region) & free
    if not ring.any():
        raise ReviewError("REVIEW-GROW", "other lesions surround the click; draw the lesion instead")
    inside, outside = float(np.median(values[region])), float(np.median(values[ring]))
    return (inside + outside) / 2, 1 if inside > outside else -1


def _touches_border(region: NDArray[np.bool_], free: NDArray[np.bool_]) -> bool:
    """Tell whether a region leaks: it takes more than a twentieth of the faces of its surroundings."""
    faces = np.ones(region.shape, bool)
    faces[(slice(1, -1),) * region.ndim] = False
    return bool((region & faces).sum() > 0.05 * max(1, int((free & faces).sum())))


def _local_mm(spacing: Sequence[float]) -> float:
    return min(_LOCAL_MM, _LOCAL_VOXELS * max(spacing))


def _near(shape: Sequence[int], seed: Sequence[int], spacing: Sequence[float], radius: float) -> NDArray[np.bool_]:
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    squares = sum(((g - p) * s) ** 2 for g, p, s in zip(grid, seed, spacing, strict=True))
    return np.asarray(squares <= radius**2) | (np.asarray(squares) == 0)


def _peak_near(
    values: NDArray[np.float32], seed: Sequence[int], spacing: Sequence[float], free: NDArray[np.bool_]
) -> tuple[int, ...]:
    """Return the index of the highest free voxel near the click."""
    near = _near(values.shape, seed, spacing, _local_mm(spacing)) & free
    best = int(np.argmax(np.where(near, values, -np.inf)))
    return tuple(int(i) for i in np.unravel_index(best, values.shape))


def _piece_at(mask: NDArray[np.bool_], place: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the connected piece (faces join) of a mask that holds a voxel; empty where the voxel is not in it."""
    if not mask[place]:
        return np.zeros(mask.shape, bool)
    labels = cc3d.connected_components(mask, connectivity=6 if mask.ndim == 3 else 4)
    return np.asarray(labels == labels[place])


def _checked(region: NDArray[np.bool_], free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    found = region & free
    if not found.any():
        raise ReviewError("REVIEW-GROW", "nothing stands out at the click; draw the lesion instead")
    return found
