"""RoIAlign in D dimensions without torchvision, by separable weights.

Sampling on an axis-aligned grid factorises: with W_a the averaged hat (linear interpolation) weights of axis a,
out = Wz (Wy (F Wx^T)) on the part of the feature map F that a box touches. Source: He et al. 2017, Mask R-CNN,
section 3 (RoIAlign), half-pixel aligned; points outside the map take the value of its rim.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

EXTENT_STEP = 8  # gathered crops are padded to multiples of this, so that few shapes occur
# Numbers in a padded crop up to which it is gathered: above, the copy costs more than the kernel calls saved.
GATHER_LIMIT = 100_000
GATHER_BLOCK = 1 << 23  # numbers held at a time by gathered crops, 32 MB


def roi_align(features: Tensor, boxes: Tensor, size: int | Sequence[int], sampling: int = 2) -> Tensor:
    """Sample each box of one feature map on a regular grid.

    features : (C, *S) float. boxes : (N, 2 D), continuous pixel units of this map (pixel i covers [i, i + 1)).
    size : cells per axis. sampling : points per cell and axis, averaged.
    Returns (N, C, *size) in the dtype of ``features``; differentiable in ``features`` only.
    """
    return batched_roi_align(features[None], boxes, boxes.new_zeros(len(boxes), dtype=torch.long), size, sampling)


def batched_roi_align(
    features: Tensor, boxes: Tensor, image_index: Tensor, size: int | Sequence[int], sampling: int = 2
) -> Tensor:
    """Like roi_align for (B, C, *S) features; ``image_index`` (N,) int64 names the image of each box."""
    dims = features.ndim - 2
    sizes = (size,) * dims if isinstance(size, int) else tuple(size)
    if boxes.shape[-1] != 2 * dims:
        raise ValueError(f"boxes of {boxes.shape[-1]} numbers on a map with {dims} spatial axes; {2 * dims} expected")
    if len(boxes) == 0:
        return features.new_zeros((0, features.shape[1], *sizes)) + features.sum() * 0
    points = sample_points(boxes.detach().to(_weight_dtype(features)), sizes, sampling, tuple(features.shape[2:]))
    return _RoIAlign.apply(features, image_index, sampling, *points)


def sample_points(boxes: Tensor, sizes: Sequence[int], sampling: int, shape: tuple[int, ...]) -> list[Tensor]:
    """Return per axis the (N, size * sampling) index coordinates (0 = centre of pixel 0), held inside the map."""
    dims = len(shape)
    points = []
    for axis, (cells, length) in enumerate(zip(sizes, shape, strict=True)):
        start, stop = boxes[:, axis, None], boxes[:, dims + axis, None]
        steps = torch.arange(cells * sampling, device=boxes.device, dtype=boxes.dtype) + 0.5
        points.append((start + steps * ((stop - start) / (cells * sampling)) - 0.5).clamp_(0, length - 1))
    return points


def hat_weights(points: Tensor, first: Tensor, length: int, sampling: int = 1) -> Tensor:
    """Return the (N, P / sampling, length) linear interpolation weights of pixels first .. first + length - 1.

    points : (N, P) index coordinates. first : (N,). Groups of ``sampling`` neighbouring points are averaged.
    """
    pixels = first[:, None] + torch.arange(length, device=points.device, dtype=points.dtype)
    hats = (1 - (points[:, :, None] - pixels[:, None, :]).abs_()).clamp_(min=0)
    return hats.unflatten(1, (-1, sampling)).mean(2) if sampling > 1 else hats


class _RoIAlign(torch.autograd.Function):
    """Both directions touch only the crops: plain autograd would allocate a whole map per box."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, image_index: Tensor, sampling: int, *points: Tensor) -> Tensor:
        ctx.save_for_backward(image_index, *points)
        ctx.sampling, ctx.shape, ctx.dtype = sampling, features.shape, features.dtype
        crops = _Crops(points, image_index, sampling, features.shape)
        gathered, single = crops.plan()
        if gathered:  # channels last, as the products leave it and as convolutions on a CPU are fastest
            out = points[0].new_empty((len(image_index), *crops.sizes, features.shape[1])).movedim(-1, 1)
        else:
            out = points[0].new_empty((len(image_index), features.shape[1], *crops.sizes))
        with torch.autocast(features.device.type, enabled=False):
            # one row of C numbers per pixel
            table = features.detach().movedim(1, -1).flatten(0, -2).to(out.dtype) if gathered else out
            for members, extents in gathered:
                rows = table.index_select(0, crops.rows(members, extents)).view(len(members), *extents, -1)
                out[members] = _resample_each(rows, crops.weights(members, extents)).movedim(-1, 1)
            for member, window, weights in crops.windows(single):
                out[member] = _resample_one(features[window].to(out.dtype), weights)
        return out.to(features.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        image_index, *points = ctx.saved_tensors
        crops = _Crops(points, image_index, ctx.sampling, ctx.shape)
        gathered, single = crops.plan()
        grad_out = grads[0].to(points[0].dtype)
        batch, channels, *shape = ctx.shape
        table = grad_out.new_zeros((batch, *shape, channels))
        grad = table.movedim(-1, 1) if gathered else table.view(batch, channels, *shape)
        with torch.autocast(grad.device.type, enabled=False):
            for members, extents in gathered:
                weights = [w.mT for w in crops.weights(members, extents)]
                rows = _resample_each(grad_out[members].movedim(1, -1), weights).flatten(0, -2)
                table.view(-1, channels).index_add_(0, crops.rows(members, extents), rows)
            for member, window, weights in crops.windows(single):
                grad[window] += _resample_one(grad_out[member], [w.mT for w in weights])
        return (grad.to(ctx.dtype), None, None, *(None for _ in points))


class _Crops:
    """Which pixels each box touches, and their weights.

    points : per axis (N, size * sampling) index coordinates. shape : (B, C, *S) of the features.
    """

    def __init__(self, points: Sequence[Tensor], image_index: Tensor, sampling: int, shape: torch.Size) -> None:
        self.points, self.image_index, self.sampling, self.shape = points, image_index, sampling, shape
        self.sizes = [p.shape[1] // sampling for p in points]
        self.first = [p.amin(1).floor() for p in points]
        self.extents = torch.stack([p.amax(1).ceil() - f + 1 for p, f in zip(points, self.first, strict=True)], 1)

    def plan(self) -> tuple[list[tuple[Tensor, list[int]]], Tensor]:
        """Return the blocks to gather, (members, extents) each, and the members to take one at a time.

        Gathering pads crops to a few common extents and copies the map to channels-last once; taking boxes one
        at a time costs a few kernel calls each. Boxes go where they cost less.
        """
        padded = (self.extents / EXTENT_STEP).ceil().long() * EXTENT_STEP
        numbers = padded.prod(1) * self.shape[1]
        small = numbers <= GATHER_LIMIT
        if int(small.sum()) * GATHER_LIMIT < math.prod(self.shape):
            small = torch.zeros_like(small)
        single = (~small).nonzero()[:, 0]
        kinds, kind = torch.unique(padded[small], dim=0, return_inverse=True)
        members = small.nonzero()[:, 0]
        blocks = []
        for k, extents in enumerate(kinds.tolist()):
            most = max(1, GATHER_BLOCK // (math.prod(extents) * self.shape[1]))
            blocks += [(part, extents) for part in members[kind == k].split(most)]
        return blocks, single

    def weights(self, members: Tensor, extents: Sequence[int]) -> list[Tensor]:
        """Return per axis (n, size, extent)."""
        axes = zip(self.points, self.first, extents, strict=True)
        return [hat_weights(p[members], first[members], extent, self.sampling) for p, first, extent in axes]

    def rows(self, members: Tensor, extents: Sequence[int]) -> Tensor:
        """Return the flat pixel numbers in (B, *S) of the members' crops, (n * prod(extents),)."""
        index = self.image_index[members]
        for axis, (extent, length) in enumerate(zip(extents, self.shape[2:], strict=True)):
            pixels = self.first[axis][members].long()[:, None] + torch.arange(extent, device=index.device)
            pixels = pixels.clamp_(max=length - 1)  # padding beyond the rim: its weights are zero
            index = index[..., None] * length + pixels.view(len(members), *[1] * axis, extent)
        return index.flatten()

    def windows(self, members: Tensor) -> Iterator[tuple[int, tuple[Any, ...], list[Tensor]]]:
        """Yield (member, index of its crop in (B, C, *S), per axis (size, extent) weights), one at a time."""
        starts = torch.stack(self.first, 1)[members].long().tolist()
        extents, images = self.extents[members].long().tolist(), self.image_index[members].tolist()
        for row, member in enumerate(members.tolist()):
            slices = [slice(a, a + n) for a, n in zip(starts[row], extents[row], strict=True)]
            weights = self.weights(members[row : row + 1], extents[row])
            yield member, (images[row], slice(None), *slices), [w[0] for w in weights]


def _resample_each(crops: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Apply each box's own weights: crops (n, *K, C), per axis (n, M, K) -> (n, *M, C)."""
    for axis, w in enumerate(weights):
        rest = crops.shape[axis + 2 :]
        w = w.view(len(w), *[1] * axis, *w.shape[1:])
        crops = (w @ crops.flatten(axis + 2)).unflatten(-1, rest)
    return crops


def _resample_one(crop: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Apply one box's weights: crop (C, *K), per axis (M, K) -> (C, *M). The last axis is one large product."""
    crop = crop @ weights[-1].mT
    for axis in range(len(weights) - 2, -1, -1):
        lead, rest = crop.shape[: axis + 1], crop.shape[axis + 2 :]
        columns = crop.reshape(-1, crop.shape[axis + 1], math.prod(rest))
        w = weights[axis].expand(len(columns), -1, -1)
        crop = torch.bmm(w, columns).view(*lead, -1, *rest)
    return crop


def _weight_dtype(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32
