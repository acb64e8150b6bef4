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
SHORT_ROW = 24  # pixels: shorter rows of a crop are slow to cut from a map whose channels come first
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
    """Both directions touch only the crops: plain autograd would allocate a whole map per box.

    Where many small boxes cover the map, its channels are moved to the end once: rows of a crop are then long runs
    of memory and the products have one large side. Convolutions on a CPU are fastest on what comes out, too.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, image_index: Tensor, sampling: int, *points: Tensor) -> Tensor:
        ctx.save_for_backward(image_index, *points)
        ctx.sampling, ctx.shape, ctx.dtype = sampling, features.shape, features.dtype
        crops = _Crops(points, image_index, sampling, features.shape)
        features = features.detach()
        table = _channels_last(features) if crops.covered else features.movedim(1, -1)
        out = points[0].new_empty((len(image_index), *crops.sizes, features.shape[1]))
        with torch.autocast(features.device.type, enabled=False):
            for members, extents in crops.gathered:
                rows = table.flatten(0, -2).index_select(0, crops.rows(members, extents))
                rows = rows.view(len(members), *extents, -1).to(out.dtype)
                out[members] = _resample(rows, crops.weights(members, extents))
            for member, window, weights in crops.windows():
                crop = table[window].to(out.dtype)
                short = crops.covered and crop.shape[-2] <= SHORT_ROW
                out[member] = _resample(crop[None], weights)[0] if short else _resample_rows(crop, weights)
        return out.movedim(-1, 1).to(features.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        image_index, *points = ctx.saved_tensors
        crops = _Crops(points, image_index, ctx.sampling, ctx.shape)
        batch, channels, *shape = ctx.shape
        grad_out = grads[0].to(points[0].dtype).movedim(1, -1)
        table = grad_out.new_zeros((batch, *shape, channels))
        with torch.autocast(table.device.type, enabled=False):
            for members, extents in crops.gathered:
                weights = [w.mT for w in crops.weights(members, extents)]
                rows = _resample(grad_out[members], weights).flatten(0, -2)
                table.view(-1, channels).index_add_(0, crops.rows(members, extents), rows)
            for member, window, weights in crops.windows():
                table[window] += _resample(grad_out[member][None], [w.mT for w in weights])[0]
        return (table.movedim(-1, 1).to(ctx.dtype), None, None, *(None for _ in points))


class _Crops:
    """Which pixels each box touches, and their weights.

    points : per axis (N, size * sampling) index coordinates. shape : (B, C, *S) of the features.
    gathered : blocks (members, extents) of small boxes, padded to a few common extents and taken at once; the other
        boxes, ``single``, are cut one at a time. Boxes go where they cost less.
    covered : whether the short boxes hold more pixels than the map, so that moving its channels once pays.
    """

    def __init__(self, points: Sequence[Tensor], image_index: Tensor, sampling: int, shape: torch.Size) -> None:
        self.points, self.image_index, self.sampling, self.shape = points, image_index, sampling, shape
        self.sizes = [p.shape[1] // sampling for p in points]
        self.first = [p.amin(1).floor() for p in points]
        self.extents = torch.stack([p.amax(1).ceil() - f + 1 for p, f in zip(points, self.first, strict=True)], 1)
        padded = (self.extents / EXTENT_STEP).ceil().long() * EXTENT_STEP
        small = padded.prod(1) * shape[1] <= GATHER_LIMIT
        numbers = self.extents[self.extents[:, -1] <= SHORT_ROW].prod(1).sum()
        self.covered = float(numbers) > shape[0] * math.prod(shape[2:])
        if not self.covered:  # gathering needs the whole map with its channels last
            small = torch.zeros_like(small)
        self.single = (~small).nonzero()[:, 0]
        self.gathered = self._blocks(small.nonzero()[:, 0], padded)

    def _blocks(self, members: Tensor, padded: Tensor) -> list[tuple[Tensor, list[int]]]:
        blocks = []
        kinds, kind = torch.unique(padded[members], dim=0, return_inverse=True)
        for k, extents in enumerate(kinds.tolist()):
            most = max(1, GATHER_BLOCK // (math.prod(extents) * self.shape[1]))
            blocks += [(part, extents) for part in members[kind == k].split(most)]
        return blocks

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

    def windows(self) -> Iterator[tuple[int, tuple[Any, ...], list[Tensor]]]:
        """Yield (member, index of its crop in (B, *S, C), per axis (1, size, extent) weights) of each single box."""
        if len(self.single) == 0:
            return
        wide = self.weights(self.single, self.extents[self.single].amax(0).long().tolist())
        starts = torch.stack(self.first, 1)[self.single].long().tolist()
        extents, images = self.extents[self.single].long().tolist(), self.image_index[self.single].tolist()
        for row, member in enumerate(self.single.tolist()):
            window = (images[row], *(slice(a, a + n) for a, n in zip(starts[row], extents[row], strict=True)))
            yield member, window, [w[row : row + 1, :, :n] for w, n in zip(wide, extents[row], strict=True)]


def _channels_last(features: Tensor) -> Tensor:
    """(B, C, *S) -> contiguous (B, *S, C). One matrix transposed per image: torch does that far faster than movedim."""
    table = features.new_empty((len(features), *features.shape[2:], features.shape[1]))
    for target, image in zip(table, features, strict=True):
        target.view(-1, features.shape[1]).copy_(image.flatten(1).t())
    return table


def _resample(crops: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Apply each box's own weights: crops (n, *K, C), per axis (n, M, K) -> (n, *M, C)."""
    for axis, w in enumerate(weights):
        rest = crops.shape[axis + 2 :]
        w = w.view(len(w), *[1] * axis, *w.shape[1:])
        crops = (w @ crops.flatten(axis + 2)).unflatten(-1, rest)
    return crops


def _resample_rows(crop: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The same for one long crop (*K, C), a view of a map whose channels come first: its rows are one product."""
    crop = crop.movedim(-1, 0) @ weights[-1][0].mT
    for axis in range(len(weights) - 2, -1, -1):
        lead, rest = crop.shape[: axis + 1], crop.shape[axis + 2 :]
        columns = crop.reshape(-1, crop.shape[axis + 1], math.prod(rest))
        crop = torch.bmm(weights[axis].expand(len(columns), -1, -1), columns).view(*lead, -1, *rest)
    return crop.movedim(0, -1)


def _weight_dtype(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32
