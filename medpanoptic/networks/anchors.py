"""Anchors on every level of a feature pyramid, and their matching to true boxes.

Anchors are numbered level by level, then by grid position (row-major), then by shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medpanoptic.networks.boxes import elementwise_iou

BACKGROUND, IGNORED = -1, -2  # in a match, beside indices of truths
LEAST_IOU = 0.05  # a truth that every anchor misses so far teaches the RPN nothing


@dataclass(frozen=True, eq=False)
class AnchorGrid:
    """The anchors of one level: boxes of each of A edge lengths, centred in every cell of the level's grid.

    shape : the level's spatial shape. stride : pixels per cell and axis. lengths : (A, D) in pixels.
    """

    shape: tuple[int, ...]
    stride: tuple[float, ...]
    lengths: Tensor

    def __len__(self) -> int:
        return math.prod(self.shape) * len(self.lengths)

    def boxes(self) -> Tensor:
        """Return all (M, 2 D) anchors in pixels."""
        device = self.lengths.device
        axes = [(torch.arange(n, device=device) + 0.5) * s for n, s in zip(self.shape, self.stride, strict=True)]
        centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)[:, None]
        return torch.cat([centres - self.lengths / 2, centres + self.lengths / 2], -1).flatten(0, 1)


def anchor_lengths(sizes: Sequence[float], aspect_ratios: Sequence[float], spatial_dims: int) -> list[list[float]]:
    """Return A = sizes x ratios rows of D edge lengths of area (volume) size^D.

    A ratio is the first axis' length over that of the others, which are equal.
    """
    root = 1 / spatial_dims
    return [
        [size * ratio ** (1 - root), *[size * ratio**-root] * (spatial_dims - 1)]
        for size in sizes
        for ratio in aspect_ratios
    ]


@torch.no_grad()
def match_anchors(grids: Sequence[AnchorGrid], truths: Tensor, positive: float, negative: float) -> Tensor:
    """Assign anchors to true boxes (T, 2 D): return (M,) the truth's index, BACKGROUND or IGNORED.

    An anchor is positive for its best truth if their IoU is at least ``positive``, or for a truth whose best anchor
    it is (with an IoU of at least LEAST_IOU: crops leave slivers of things); background if its best IoU is below
    ``negative``. Source: Ren et al. 2015, section 3.1.2.
    """
    match = torch.full((sum(map(len, grids)),), BACKGROUND, device=truths.device)
    if len(truths) == 0:
        return match
    anchor, truth, iou = _overlapping_pairs(grids, truths, negative)
    best = iou.new_zeros(len(match)).scatter_reduce_(0, anchor, iou, "amax")
    match[best >= negative] = IGNORED
    best_of_truth = iou.new_zeros(len(truths)).scatter_reduce_(0, truth, iou, "amax")
    chosen = ((iou >= positive) & (iou == best[anchor])) | (iou == best_of_truth[truth])
    # of several truths of one anchor the last wins, on every device
    match.scatter_reduce_(0, anchor[chosen], truth[chosen], "amax")
    missed = (best_of_truth == 0).nonzero()[:, 0]
    anchor, truth, iou = _overlapping_pairs(grids, truths[missed], LEAST_IOU)
    best_of_missed = iou.new_zeros(len(missed)).scatter_reduce_(0, truth, iou, "amax")
    chosen = iou == best_of_missed[truth]
    return match.scatter_reduce_(0, anchor[chosen], missed[truth[chosen]], "amax")


def _overlapping_pairs(grids: Sequence[AnchorGrid], truths: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return (anchor, truth, IoU), each (P,), of all pairs with an IoU of at least ``least``.

    Only anchors near a truth are looked at: a dense matrix of 65,000 anchors and 100 truths costs as much as
    the convolutions.
    """
    found, offset = [], 0
    for grid in grids:
        owner, cells = _near_cells(grid, truths, least)
        truth, shape = owner // len(grid.lengths), owner % len(grid.lengths)
        centres = (cells + 0.5) * truths.new_tensor(grid.stride)
        half = grid.lengths[shape] / 2
        iou = elementwise_iou(torch.cat([centres - half, centres + half], 1), truths[truth])
        flat = torch.zeros_like(owner)
        for axis, length in enumerate(grid.shape):
            flat = flat * length + cells[:, axis]
        enough = iou >= least
        found.append(torch.stack([offset + flat * len(grid.lengths) + shape, truth])[:, enough])
        found.append(iou[enough])
        offset += len(grid)
    pairs = torch.cat(found[0::2], 1)
    return pairs[0], pairs[1], torch.cat(found[1::2])


def _near_cells(grid: AnchorGrid, truths: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Return (P,) owner = truth * A + shape and (P, D) cells of all anchors that may reach an IoU of ``least``.

    IoU <= overlap / longer edge on every axis, which bounds the distance of the centres; and
    IoU <= product of shorter edges / larger volume, which rules out shapes.
    """
    dims = truths.shape[1] // 2
    stride = truths.new_tensor(grid.stride)
    edges = (truths[:, dims:] - truths[:, :dims])[:, None]  # (T, 1, D)
    longer, shorter = torch.maximum(edges, grid.lengths), torch.minimum(edges, grid.lengths)  # (T, A, D)
    reach = (longer + shorter) / 2 - least * longer + 1e-3 * stride
    centre = (truths[:, :dims] + truths[:, dims:])[:, None] / 2
    limit = torch.tensor(grid.shape, device=truths.device)
    first = torch.ceil((centre - reach) / stride - 0.5).long().clamp_(min=0).flatten(0, 1)
    stop = (torch.floor((centre + reach) / stride - 0.5).long() + 1).flatten(0, 1)
    counts = (torch.minimum(stop, limit) - first).clamp_(min=0)  # (T * A, D)
    larger = torch.maximum(edges.prod(-1), grid.lengths.prod(-1))
    counts *= (shorter.prod(-1) >= 0.999 * least * larger).flatten()[:, None]
    number = counts.prod(1)
    owner = torch.repeat_interleave(torch.arange(len(number), device=truths.device), number)
    rank = torch.arange(len(owner), device=truths.device) - (number.cumsum(0) - number)[owner]
    cells = []
    for axis in range(dims - 1, -1, -1):
        count = counts[owner, axis]
        cells.append(first[owner, axis] + rank % count)
        rank = rank // count
    return owner, torch.stack(cells[::-1], 1)
