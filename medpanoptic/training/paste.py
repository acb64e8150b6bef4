"""Paste things of other training cases into a patch: several tumours a volume where the data have one each.

Source of the idea: Ghiasi et al., Simple Copy-Paste, CVPR 2021, section 3; here with the surroundings kept in mind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from medpanoptic.training.cases import Case

ATTEMPTS = 4
KEPT_PART = 0.7  # of a thing that must find room: less would be a piece that no annotator drew


def paste_things(
    host: Case,
    donors: Sequence[Case],
    rng: np.random.Generator,
    *,
    most: int,
    scale: Sequence[float],
    gap: Sequence[int] = (0, 0),
) -> Case:
    """Return ``host`` (a cut patch) with 1 to ``most`` things of ``donors`` added, scaled by a factor in ``scale``.

    gap : (smallest, largest) distance to other things in voxels, drawn for each; with 0 they may touch.
    A thing lands where the tissue is of a class that touched it at home, never on another thing and never outside
    those classes. Its rim is blended over about a voxel. A channel that either side lacks (all 0) is 0 in the outcome.
    """
    donors = [d for d in donors if len(present_things(d))]
    for _ in range(int(rng.integers(1, most + 1)) if donors else 0):
        donor = donors[int(rng.integers(len(donors)))]
        thing = int(rng.choice(present_things(donor)))
        image, mask, tissue = _cut_thing(donor, thing, rng, scale, host.semantic.shape)
        placed = _place(host, mask, tissue, rng, int(rng.integers(gap[0], gap[1] + 1)))
        if placed is not None:
            host = _blend(host, donor, image, placed, int(donor.labels[thing]))
    return host


@cache
def present_things(case: Case) -> NDArray[np.int32]:
    """Return the ids of a case's things, none where it has none; cases are never changed, so they may be keys."""
    found = np.unique(case.instances)
    return found[found > 0]


def _cut_thing(
    donor: Case, thing: int, rng: np.random.Generator, scale: Sequence[float], room: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int16]]:
    """Return image (C, *s), mask (*s) of a thing, mirrored and scaled at random, and the stuff channels around it."""
    pixels = ndimage.find_objects((donor.instances == thing).astype(np.uint8))[0]
    box = tuple(slice(max(0, p.start - 2), p.stop + 2) for p in pixels)
    mask = donor.instances[box] == thing
    rim = ndimage.binary_dilation(mask) & (donor.instances[box] == 0)
    tissue = np.unique(donor.semantic[box][rim])
    image = donor.image[(slice(None), *box)]
    axes = [a for a in range(mask.ndim) if rng.random() < 0.5]
    smallest, largest = scale
    image, mask = np.flip(image, tuple(a + 1 for a in axes)), np.flip(mask, tuple(axes))
    # at most half of the patch, so that there is a place for it
    factor = min(float(rng.uniform(smallest, largest)), *(0.5 * r / s for r, s in zip(room, mask.shape, strict=True)))
    size = [max(3, round(s * factor)) for s in mask.shape]
    mode = "trilinear" if mask.ndim == 3 else "bilinear"
    both = torch.from_numpy(np.concatenate([image, mask[None].astype(np.float32)])[None])
    small = F.interpolate(both, size, mode=mode, align_corners=False)[0].numpy()
    return small[:-1], small[-1] > 0.5, tissue[tissue >= 0]


def _place(
    host: Case, mask: NDArray[np.bool_], tissue: NDArray[np.int16], rng: np.random.Generator, gap: int
) -> tuple[tuple[slice, ...], tuple[slice, ...], NDArray[np.bool_]] | None:
    """Return where in the host, where in the thing's box, and the host's pixels that it takes; None without room."""
    taken_by_things = host.instances > 0
    if gap and taken_by_things.any():
        taken_by_things = ndimage.distance_transform_edt(~taken_by_things) <= gap
    free = np.isin(host.semantic, tissue) & ~taken_by_things
    candidates = np.argwhere(free)
    for _ in range(ATTEMPTS if len(candidates) and mask.any() else 0):
        start = candidates[rng.integers(len(candidates))] - np.asarray(mask.shape) // 2
        begin = np.maximum(start, 0)
        end = np.minimum(start + mask.shape, free.shape)
        there = tuple(slice(b, e) for b, e in zip(begin, end, strict=True))
        here = tuple(slice(b - s, e - s) for b, e, s in zip(begin, end, start, strict=True))
        taken = _largest_piece(mask[here] & free[there])
        if taken.sum() >= KEPT_PART * mask.sum():
            return there, here, taken
    return None


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, count = ndimage.label(mask)
    piece: NDArray[np.bool_] = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1 if count else mask
    return piece


def _blend(
    host: Case,
    donor: Case,
    image: NDArray[np.float32],
    placed: tuple[tuple[slice, ...], tuple[slice, ...], NDArray[np.bool_]],
    label: int,
) -> Case:
    there, here, taken = placed
    alpha = ndimage.uniform_filter(taken.astype(np.float32), 3, mode="constant")
    alpha = np.maximum(alpha, ndimage.binary_erosion(taken)) * (host.semantic[there] >= 0)
    blended = host.image.copy()
    where = (slice(None), *there)
    blended[where] += alpha * (image[(slice(None), *here)] - blended[where])
    for channel in range(len(blended)):
        if not (host.image[channel].any() and donor.image[channel].any()):
            blended[channel] = 0
    semantic, instances = host.semantic.copy(), host.instances.copy()
    semantic[there][taken] = label
    instances[there][taken] = len(host.labels)
    labels = np.append(host.labels, label)
    return replace(host, image=blended, semantic=semantic, instances=instances, labels=labels)
