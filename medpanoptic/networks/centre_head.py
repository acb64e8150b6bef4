"""Dense instance head: a centre heatmap and offsets to the centre, grouped once over the whole image.

Why centre and offset rather than star distances or flow: both of its maps are relative, so they may be averaged
across windows; it is the same in 2D and 3D; shapes need not be star-convex (tumours are not); and grouping is one
nearest-neighbour search. Source of the idea: Cheng et al., Panoptic-DeepLab, CVPR 2020, sections 3.1 and 3.2.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F

from medpanoptic.networks.grouping import greedy_far_apart, group, local_max, nearest_centre, own_orphans
from medpanoptic.networks.layers import Norm, add_resized, resize_to, separable_conv
from medpanoptic.networks.losses import instance_weights, thing_log_odds
from medpanoptic.networks.outputs import Instances, Targets


class CentreHead(nn.Module):
    """Centre heatmap and offsets from four pyramid levels.

    offset_scale : voxels per unit of the offset output; about a typical radius keeps outputs near 1.
    peak_threshold, peak_window : a centre is a local maximum of the heatmap over ``peak_window`` voxels above this.
    merge_distance : voxels; peaks whose own offsets point to places closer than this are one centre.
    reach : voxels; a pixel whose vote ends farther than this from every centre belongs to none of them; the connected
        pieces of such pixels become things of their own.
    min_size : voxels; smaller groups are noise.
    """

    is_dense: ClassVar[bool] = True

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        thing_channels: tuple[int, ...],
        channels: int = 64,
        norm: Norm = "batch",
        offset_scale: float = 16.0,
        peak_threshold: float = 0.3,
        peak_window: int = 5,
        merge_distance: float = 3.0,
        reach: float = 16.0,
        min_size: int = 12,
    ) -> None:
        super().__init__()
        self.thing_channels = tuple(thing_channels)
        self.offset_scale, self.peak_threshold, self.peak_window = offset_scale, peak_threshold, peak_window
        self.merge_distance, self.reach, self.min_size = merge_distance, reach, min_size
        self.reduce = nn.ModuleList(separable_conv(spatial_dims, in_channels, channels, norm) for _ in range(4))
        self.mix = nn.Sequential(
            separable_conv(spatial_dims, channels, channels, norm),
            separable_conv(spatial_dims, channels, channels, norm),
        )
        self.output = Conv[Conv.CONV, spatial_dims](channels, 1 + spatial_dims, 1)
        nn.init.constant_(self.output.bias, 0.0)
        nn.init.normal_(self.output.weight, std=0.01)
        with torch.no_grad():
            self.output.bias[0] = -2.0  # centres are rare: start near their prior

    def forward(self, features: list[Tensor], image_shape: tuple[int, ...]) -> Tensor:
        """Return (B, 1 + D, *image_shape): centre logit, offset to the centre in units of ``offset_scale`` voxels."""
        x, *coarser = (conv(f) for conv, f in zip(self.reduce, features, strict=True))
        # no name for a map that has been added: those of the finest level are most of a window's memory
        x = add_resized(x, coarser.pop(0))
        while coarser:
            x.add_(resize_to(coarser.pop(0), x.shape[2:]))
        return resize_to(self.output(self.mix(x)), image_shape)

    def loss(self, raw: Tensor, features: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Return ``centre`` (binary cross-entropy to a soft bump) and ``offset`` (smooth L1 inside things)."""
        heat, offsets = centre_targets(targets.instances)
        raw = raw.float()
        inside = instance_weights(targets.instances)
        weight = 1 + 4 * heat + inside
        centre = (F.binary_cross_entropy_with_logits(raw[:, 0], heat, reduction="none") * weight).sum() / weight.sum()
        error = F.smooth_l1_loss(raw[:, 1:], offsets / self.offset_scale, reduction="none", beta=0.1).sum(1)
        offset = (error * inside).sum() / inside.sum().clamp(min=1)
        return {"centre": 4 * centre, "offset": 2 * offset}

    @staticmethod
    def mirror(raw: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Return ``raw`` mirrored along spatial ``axes``: the maps, and the sign of offsets along them."""
        raw = raw.flip([2 + a for a in axes])
        for axis in axes:
            raw[:, 1 + axis] *= -1
        return raw

    @torch.no_grad()
    def instances(self, raw: Tensor, features: list[Tensor] | None, semantic_logits: Tensor) -> list[Instances]:
        """Group the foreground of each image by the votes of its pixels."""
        return [self._decode(m, s) for m, s in zip(raw.float(), semantic_logits.float(), strict=True)]

    def _decode(self, maps: Tensor, semantic_logits: Tensor) -> Instances:
        shape = tuple(maps.shape[1:])
        foreground = thing_log_odds(semantic_logits, self.thing_channels, 0)
        pixels = (foreground > 0).nonzero()
        if len(pixels) == 0:
            return Instances.empty(len(shape), maps.device)
        offsets = torch.stack([_at(m, pixels) for m in maps[1:]], 1)
        centres, peak_scores = self._centres(maps, foreground)
        owner = nearest_centre(pixels + offsets * self.offset_scale, centres, self.reach)
        owner, peak_scores = own_orphans(owner, peak_scores, pixels, shape, self.peak_threshold)
        classes = torch.stack([_at(semantic_logits[k], pixels) for k in self.thing_channels])
        log_odds = _at(foreground, pixels)
        return group(owner, peak_scores, pixels, log_odds, classes, self.thing_channels, self.min_size)

    def _centres(self, maps: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, D) float centres and (N,) scores, peaks that agree on their centre merged into the best."""
        heat = maps[0].sigmoid()
        is_peak = heat == local_max(heat, self.peak_window)
        peaks = is_peak.logical_and_(heat > self.peak_threshold).logical_and_(foreground > 0).nonzero()
        scores = _at(heat, peaks)
        order = scores.argsort(descending=True, stable=True)
        peaks, scores = peaks[order], scores[order]
        moved = peaks + torch.stack([_at(m, peaks) for m in maps[1:]], 1) * self.offset_scale
        kept = torch.tensor(greedy_far_apart(moved.cpu().numpy(), self.merge_distance), dtype=torch.int64)
        kept = kept.to(heat.device)
        return moved[kept], scores[kept]


def _at(values: Tensor, pixels: Tensor) -> Tensor:
    """Return (P,) the values of (*S) at (P, D) places."""
    return values[*pixels.T]


def centre_targets(instances: Tensor) -> tuple[Tensor, Tensor]:
    """Return heat (B, *S) in [0, 1] and offsets (B, D, *S) in voxels for an id map (B, *S).

    The centre is the thing's voxel nearest its centroid, so that it lies inside. The bump's width is a third of the
    radius of the ball with the thing's size, at least 1.5 voxels.
    """
    heat = torch.zeros(instances.shape, device=instances.device)
    offsets = torch.zeros((len(instances), instances.ndim - 1, *instances.shape[1:]), device=instances.device)
    for b, ids in enumerate(instances):
        pixels = ids.nonzero()
        if len(pixels) == 0:
            continue
        _, group, counts = ids[*pixels.T].unique(return_inverse=True, return_counts=True)
        positions = pixels.float()
        sums = torch.zeros((len(counts), positions.shape[1]), device=ids.device).index_add_(0, group, positions)
        distance = (positions - (sums / counts[:, None])[group]).square().sum(1)
        nearest = torch.full((len(counts),), float("inf"), device=ids.device).scatter_reduce_(
            0, group, distance, "amin"
        )
        chosen = torch.zeros(len(counts), dtype=torch.int64, device=ids.device)
        is_nearest = (distance == nearest[group]).nonzero()[:, 0].flip(0)  # flip: the first one wins on a tie
        chosen[group[is_nearest]] = is_nearest
        to_centre = positions[chosen][group] - positions
        sigma = (ball_radius(counts.float(), positions.shape[1]) / 3).clamp(min=1.5)[group]
        heat[b][*pixels.T] = torch.exp(-to_centre.square().sum(1) / (2 * sigma**2))
        offsets[b][:, *pixels.T] = to_centre.T
    return heat, offsets


def ball_radius(size: Tensor, spatial_dims: int) -> Tensor:
    """Return the radius of the disc or ball that has ``size`` voxels."""
    return (size / torch.pi).sqrt() if spatial_dims == 2 else (size * 3 / (4 * torch.pi)) ** (1 / 3)
