"""From the votes of pixels to instances: the steps that ``CentreHead`` decodes by, each over all pixels at once."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from medpanoptic.networks.outputs import Instances

OUTSIDE_LOGIT = -12.0  # mask logit of a pixel in the box that belongs to another thing
# distances held at a time on a device without a tree
_PAIRS = 1 << 26


def local_max(values: Tensor, window: int) -> Tensor:
    """Return (*S), the largest of the ``window`` (odd) values around each along every axis.

    Shifted copies: ten times as fast on a CPU as pooling of one channel, with the same numbers.
    """
    for axis, length in enumerate(values.shape):
        widest = values.clone()
        for step in range(1, min(window // 2, length - 1) + 1):
            later, earlier = widest.narrow(axis, step, length - step), widest.narrow(axis, 0, length - step)
            torch.maximum(later, values.narrow(axis, 0, length - step), out=later)
            torch.maximum(earlier, values.narrow(axis, step, length - step), out=earlier)
        values = widest
    return values


def greedy_far_apart(points: np.ndarray, distance: float) -> list[int]:
    """Return the indices of points kept in order, each at least ``distance`` from every one kept before it."""
    if len(points) == 0:
        return []
    gone = np.zeros(len(points), bool)
    kept = []
    for i, near in enumerate(cKDTree(points).query_ball_point(points, distance)):
        if not gone[i]:
            kept.append(i)
            gone[near] = True
    return kept


def nearest_centre(votes: Tensor, centres: Tensor, reach: float) -> Tensor:
    """Return (P,) int64 index of the centre nearest each vote, -1 beyond ``reach``."""
    if len(centres) == 0:
        return torch.full((len(votes),), -1, dtype=torch.int64, device=votes.device)
    if votes.device.type != "cpu":  # brute force stays on the device; chunks bound its memory
        # by matrix products, as cdist would choose, distances far from the origin lose whole pixels
        mode = "donot_use_mm_for_euclid_dist"
        chunks = votes.split(max(1, _PAIRS // len(centres)))
        found = [torch.cdist(chunk, centres, compute_mode=mode).min(1) for chunk in chunks]
        distance, index = torch.cat([d for d, _ in found]), torch.cat([i for _, i in found])
        return torch.where(distance <= reach, index, -1)
    tree = cKDTree(centres.numpy())
    _, index = tree.query(votes.numpy(), distance_upper_bound=reach, workers=torch.get_num_threads())
    return torch.as_tensor(np.where(index < len(centres), index, -1))


def own_orphans(
    owner: Tensor, scores: Tensor, pixels: Tensor, shape: tuple[int, ...], score: float
) -> tuple[Tensor, Tensor]:
    """Make each connected piece of pixels without an owner a thing of its own, with ``score``.

    Connected pieces are found on the CPU: of all pixels only the few without an owner leave a device.
    """
    orphans = (owner < 0).nonzero()[:, 0]
    if len(orphans) == 0:
        return owner, scores
    where = pixels[orphans].cpu().numpy()
    mask = np.zeros(shape, bool)
    mask[tuple(where.T)] = True
    pieces, count = ndimage.label(mask)
    owner = owner.clone()
    owner[orphans] = torch.as_tensor(pieces[tuple(where.T)].astype(np.int64) - 1).to(owner.device) + len(scores)
    return owner, torch.cat([scores, scores.new_full((count,), score)])


def group(
    owner: Tensor,
    peak_scores: Tensor,
    pixels: Tensor,
    log_odds: Tensor,
    class_logits: Tensor,
    thing_channels: tuple[int, ...],
    min_size: int,
) -> Instances:
    """Turn owned pixels into instances. score = sqrt(peak score x mean foreground probability).

    owner : (P,) int64 in [0, N). peak_scores : (N,). pixels : (P, D) int64. log_odds : (P,) of any thing class.
    class_logits : (len(thing_channels), P). min_size : voxels; smaller ones are left out.
    """
    n = len(peak_scores)
    counts = torch.bincount(owner, minlength=n)
    mean = torch.zeros(n, device=owner.device).index_add_(0, owner, log_odds.sigmoid()) / counts.clamp(min=1)
    channels = torch.tensor(thing_channels).to(owner.device)
    votes = torch.zeros((n, len(thing_channels)), device=owner.device)
    if len(thing_channels) > 1:
        votes.index_add_(0, owner, class_logits.log_softmax(0).T)
    kept = (counts >= min_size).nonzero()[:, 0]
    if len(kept) == 0:
        return Instances.empty(pixels.shape[1], owner.device)
    number = torch.full((n,), -1, dtype=torch.int64, device=owner.device)
    number[kept] = torch.arange(len(kept), device=owner.device)
    number = number[owner]
    if len(kept) < n:
        chosen = (number >= 0).nonzero()[:, 0]
        number, pixels, log_odds = number[chosen], pixels[chosen], log_odds[chosen]
    boxes, masks = _cut_out(number, len(kept), pixels, log_odds)
    scores = (peak_scores[kept] * mean[kept]).sqrt().float()
    return Instances(boxes, channels[votes[kept].argmax(1)], scores, masks)


def _cut_out(owner: Tensor, n: int, pixels: Tensor, log_odds: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the (n, 2 D) boxes around each owner's pixels and its log-odds in them, ``OUTSIDE_LOGIT`` elsewhere."""
    ndim = pixels.shape[1]
    index = owner[:, None].expand(-1, ndim)
    blank = pixels.new_zeros((n, ndim))
    start = blank.scatter_reduce(0, index, pixels, "amin", include_self=False)
    stop = blank.scatter_reduce(0, index, pixels, "amax", include_self=False) + 1
    boxes = torch.cat([start, stop], 1)
    sizes = (stop - start).tolist()
    volumes = [math.prod(size) for size in sizes]
    # all boxes in one row, cut into views at the end
    first = torch.tensor([0, *volumes[:-1]]).cumsum(0).to(owner.device)
    place = torch.zeros_like(owner)
    for axis in range(ndim):
        place = place * (stop - start)[owner, axis] + pixels[:, axis] - start[owner, axis]
    row = torch.full((sum(volumes),), OUTSIDE_LOGIT, device=owner.device)
    row[place + first[owner]] = log_odds
    return boxes, tuple(part.view(size) for part, size in zip(row.split(volumes), sizes, strict=True))
