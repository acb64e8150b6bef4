"""The region proposal network: class-free boxes from every level of the neck.

Source: Ren et al. 2015, Faster R-CNN, section 3.1, on a pyramid as in Lin et al. 2017, section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

from medpanoptic.networks.anchors import BACKGROUND, AnchorGrid, anchor_lengths, match_anchors
from medpanoptic.networks.boxes import clip_boxes, decode_boxes, encode_boxes, nms
from medpanoptic.networks.layers import separable_conv

POSITIVE_IOU, NEGATIVE_IOU, NMS_IOU = 0.7, 0.3, 0.7
BOX_BETA = 1 / 9  # where smooth L1 turns linear, in units of the box code


class RawProposals(NamedTuple):
    """Per level: objectness logits (B, M) and box codes (B, M, 2 D), and the anchors they belong to."""

    objectness: list[Tensor]
    deltas: list[Tensor]
    grids: list[AnchorGrid]


class ProposalNetwork(nn.Module):
    """RPN: a shared separable convolution, then objectness and a box code per anchor.

    strides : pixels per cell, per level and axis. anchor_sizes : per level, one or several, in pixels.
    aspect_ratios : first axis over the others. pre_nms : best anchors of each level that enter the NMS.
    post_nms : proposals per image. samples : anchors per image in the loss, at most half of them positive.
    The shared convolution uses group norm always: batch statistics of levels differ, a running mean fits none.
    """

    lengths: Tensor

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        strides: Sequence[tuple[float, ...]],
        anchor_sizes: Sequence[float | Sequence[float]],
        aspect_ratios: Sequence[float],
        pre_nms: int = 1000,
        post_nms: int = 1000,
        samples: int = 256,
    ) -> None:
        super().__init__()
        if len(anchor_sizes) != len(strides):
            raise ValueError(
                f"{len(anchor_sizes)} anchor_sizes for {len(strides)} levels; one entry per level expected"
            )
        sizes = [(s,) if isinstance(s, int | float) else tuple(s) for s in anchor_sizes]
        if len({len(s) for s in sizes}) > 1:
            raise ValueError("anchor_sizes must hold equally many sizes on every level: the levels share one head")
        self.strides, self.pre_nms, self.post_nms, self.samples = list(strides), pre_nms, post_nms, samples
        lengths = torch.tensor([anchor_lengths(s, aspect_ratios, spatial_dims) for s in sizes])
        self.register_buffer("lengths", lengths, persistent=False)  # (L, A, D)
        anchors = lengths.shape[1]
        self.shared = separable_conv(spatial_dims, in_channels, in_channels, "group")
        self.objectness = Conv[Conv.CONV, spatial_dims](in_channels, anchors, 1)
        self.deltas = Conv[Conv.CONV, spatial_dims](in_channels, anchors * 2 * spatial_dims, 1)
        for layer in (self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, features: list[Tensor]) -> RawProposals:
        """Score every anchor; features as in InstanceHead."""
        raw = RawProposals([], [], [])
        for level, x in enumerate(features):
            x = self.shared(x)
            dims = x.ndim - 2
            raw.objectness.append(self.objectness(x).movedim(1, -1).flatten(1).float())
            raw.deltas.append(self.deltas(x).movedim(1, -1).flatten(1).unflatten(1, (-1, 2 * dims)).float())
            raw.grids.append(AnchorGrid(tuple(x.shape[2:]), self.strides[level], self.lengths[level]))
        return raw

    @torch.no_grad()
    def propose(self, raw: RawProposals, image_shape: tuple[int, ...]) -> list[Tensor]:
        """Return per image at most ``post_nms`` boxes (N, 2 D), best first, inside the image."""
        anchors = [grid.boxes() for grid in raw.grids]
        return [self._propose_one(raw, anchors, image, image_shape) for image in range(len(raw.objectness[0]))]

    def _propose_one(
        self, raw: RawProposals, anchors: list[Tensor], image: int, image_shape: tuple[int, ...]
    ) -> Tensor:
        boxes, scores = [], []
        for objectness, deltas, references in zip(raw.objectness, raw.deltas, anchors, strict=True):
            score, index = objectness[image].topk(min(self.pre_nms, objectness.shape[1]))
            box = clip_boxes(decode_boxes(deltas[image, index], references[index]), image_shape)
            valid = (box[:, box.shape[1] // 2 :] - box[:, : box.shape[1] // 2] > 1e-2).all(1)
            box, score = box[valid], score[valid]
            kept = nms(box, score, NMS_IOU, keep_most=self.post_nms)
            boxes.append(box[kept])
            scores.append(score[kept])
        best = torch.cat(scores).argsort(descending=True, stable=True)[: self.post_nms]
        return torch.cat(boxes)[best]

    def loss(self, raw: RawProposals, truths: list[Tensor], void: Tensor | None = None) -> dict[str, Tensor]:
        """Return ``objectness`` and ``rpn_box`` losses. truths : per image (T, 2 D) boxes.

        void : (B, *S) bool; background anchors centred there are left out.
        """
        anchors = torch.cat([grid.boxes() for grid in raw.grids])
        objectness, deltas = torch.cat(raw.objectness, 1), torch.cat(raw.deltas, 1)
        logits, labels, codes, targets = [], [], [], []
        for image, boxes in enumerate(truths):
            match = match_anchors(raw.grids, boxes, POSITIVE_IOU, NEGATIVE_IOU)
            positive = sample((match >= 0).nonzero()[:, 0], self.samples // 2)
            background = (match == BACKGROUND).nonzero()[:, 0]
            if void is not None:
                background = background[~centres_in(void[image], anchors[background])]
            background = sample(background, self.samples - len(positive))
            chosen = torch.cat([positive, background])
            logits.append(objectness[image, chosen])
            labels.append((match[chosen] >= 0).float())
            codes.append(deltas[image, positive])
            targets.append(encode_boxes(boxes[match[positive]], anchors[positive]))
        number = max(1, sum(map(len, logits)))
        entropy = binary_cross_entropy_with_logits(torch.cat(logits), torch.cat(labels), reduction="sum")
        distance = smooth_l1_loss(torch.cat(codes), torch.cat(targets), reduction="sum", beta=BOX_BETA)
        return {"objectness": entropy / number, "rpn_box": distance / number}


def sample(indices: Tensor, most: int) -> Tensor:
    """Return at most ``most`` of the (N,) indices, drawn by torch's generator of their device."""
    if len(indices) <= most:
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[:most]]


def centres_in(mask: Tensor, boxes: Tensor) -> Tensor:
    """Return (N,) bool: the pixel at the centre of each (N, 2 D) box, held inside the image, is set in (*S) mask."""
    dims = mask.ndim
    centres = ((boxes[:, :dims] + boxes[:, dims:]) / 2).long()
    index = tuple(centres[:, a].clamp(0, mask.shape[a] - 1) for a in range(dims))
    return mask[index]
