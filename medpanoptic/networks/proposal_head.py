"""The proposal-based instance head of EfficientPS and Mask R-CNN: RPN, box branch, mask branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from medpanoptic.networks.boxes import box_extents, clip_boxes, nms, pairwise_iou
from medpanoptic.networks.layers import Norm
from medpanoptic.networks.outputs import Instances, Targets
from medpanoptic.networks.proposals import ProposalNetwork, RawProposals, centres_in, sample
from medpanoptic.networks.roi_head import (
    BoxBranch,
    MaskBranch,
    assign_levels,
    box_losses,
    crop_masks,
    decode_refinement,
    encode_refinement,
    integer_boxes,
    mask_loss,
    paste_masks,
    pyramid_roi_align,
)

FOREGROUND_IOU, DETECTION_NMS_IOU, FOREGROUND_FRACTION = 0.5, 0.5, 0.25


@dataclass(frozen=True, eq=False)
class ProposalOutput:
    """What the head's forward pass hands to loss and decoding."""

    proposals: RawProposals
    image_shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Truth:
    """Things of one image: boxes (T, 2 D) float, ids (T,) in the instance map, classes (T,) from 1."""

    boxes: Tensor
    ids: Tensor
    classes: Tensor


@dataclass(frozen=True, eq=False)
class _Samples:
    """Proposals of one image chosen for training, foreground first; truth rows of the P foreground ones."""

    boxes: Tensor
    classes: Tensor
    truth: Tensor


class ProposalHead(nn.Module):
    """Instance head: proposals from every neck level, classified, refined and masked one by one.

    spatial_dims : 2 or 3. in_channels : of every neck level. thing_channels : the semantic channel of each thing
    class; Instances.labels are these. strides : per level, input pixels per cell, one number or one per axis.
    anchor_sizes : per level, one length or several, in input pixels. aspect_ratios : length of the first axis over
    the others; default 1/2, 1, 2 in 2D and 1 in 3D. roi_size, mask_roi_size : cells per axis sampled for the box and
    mask branches; masks have twice mask_roi_size. hidden : width of the fully connected layers. norm : of the mask
    branch. pre_nms : anchors kept per level, post_nms : proposals kept per image. rpn_samples, roi_samples : per
    image in the losses. score_floor : detections below are not returned. max_detections : per image.
    The box code is shared by all classes. Source: EfficientPS section 3.3; He et al. 2017, Mask R-CNN.
    """

    is_dense: ClassVar[bool] = False

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        strides: Sequence[float | Sequence[float]] = (2, 4, 8, 16),
        thing_channels: Sequence[int] = (1,),
        anchor_sizes: Sequence[float | Sequence[float]] = (16, 32, 64, 128),
        aspect_ratios: Sequence[float] | None = None,
        roi_size: int = 7,
        mask_roi_size: int = 14,
        hidden: int = 256,
        norm: Norm = "group",
        pre_nms: int = 1000,
        post_nms: int = 1000,
        rpn_samples: int = 256,
        roi_samples: int = 128,
        score_floor: float = 0.05,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.strides = [(float(s),) * spatial_dims if isinstance(s, int | float) else tuple(s) for s in strides]
        self.roi_size, self.mask_roi_size, self.roi_samples = roi_size, mask_roi_size, roi_samples
        self.score_floor, self.max_detections = score_floor, max_detections
        self.thing_channels = tuple(thing_channels)
        ratios = aspect_ratios or ((0.5, 1.0, 2.0) if spatial_dims == 2 else (1.0,))
        self.rpn = ProposalNetwork(
            spatial_dims, in_channels, self.strides, anchor_sizes, ratios, pre_nms, post_nms, rpn_samples
        )
        classes = len(self.thing_channels)
        self.box_branch = BoxBranch(spatial_dims, in_channels, classes, roi_size, hidden)
        self.mask_branch = MaskBranch(spatial_dims, in_channels, classes, norm)

    def forward(self, features: list[Tensor], image_shape: tuple[int, ...]) -> ProposalOutput:
        """Run the RPN; the second stage follows in ``loss`` or ``instances``, where its boxes are known."""
        return ProposalOutput(self.rpn(features), tuple(image_shape))

    def loss(self, raw: ProposalOutput, features: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Return the losses ``objectness``, ``rpn_box``, ``class``, ``box``, ``mask``, each of weight 1.

        Things whose label is not in thing_channels are left out; background boxes centred in void do not count.
        """
        void = targets.semantic < 0
        truths = [self._truth(ids, labels) for ids, labels in zip(targets.instances, targets.labels, strict=True)]
        proposals = self.rpn.propose(raw.proposals, raw.image_shape)
        samples = [self._sample(p, t, v) for p, t, v in zip(proposals, truths, void, strict=True)]
        return {
            **self.rpn.loss(raw.proposals, [t.boxes for t in truths], void),
            **self._box_loss(features, samples, truths),
            **self._mask_loss(features, samples, truths, targets.instances),
        }

    @torch.no_grad()
    def instances(self, raw: ProposalOutput, features: list[Tensor] | None, semantic_logits: Tensor) -> list[Instances]:
        """Decode a batch; semantic logits are not used. Boxes cover every pixel that the float boxes touch."""
        if features is None:
            raise ValueError("a proposal head decodes from features; None is for dense heads")
        proposals = self.rpn.propose(raw.proposals, raw.image_shape)
        index = _image_index(proposals)
        logits, codes = self.box_branch(self._align(features, torch.cat(proposals), index, self.roi_size))
        boxes = clip_boxes(decode_refinement(codes, torch.cat(proposals)), raw.image_shape)
        found = [
            self._select(boxes[index == image], logits[index == image].softmax(1)) for image in range(len(proposals))
        ]
        rois = self._align(
            features, torch.cat([f[0] for f in found]), _image_index([f[0] for f in found]), self.mask_roi_size
        )
        masks = self.mask_branch(rois, torch.cat([f[1] for f in found]))
        parts = masks.split([len(f[0]) for f in found])
        return [self._instances(*f, part, raw.image_shape) for f, part in zip(found, parts, strict=True)]

    def _instances(
        self, boxes: Tensor, classes: Tensor, scores: Tensor, masks: Tensor, image_shape: tuple[int, ...]
    ) -> Instances:
        pixel_boxes = integer_boxes(boxes, image_shape)
        labels = torch.tensor(self.thing_channels, device=boxes.device)[classes]
        return Instances(pixel_boxes, labels, scores, paste_masks(masks, boxes, pixel_boxes))

    def _select(self, boxes: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, classes (from 0) and scores of one image's detections, best first."""
        usable = (box_extents(boxes) > 1e-2).all(1)
        row, cls = ((probabilities[:, 1:] >= self.score_floor) & usable[:, None]).nonzero(as_tuple=True)
        scores = probabilities[row, cls + 1]
        kept = nms(boxes[row], scores, DETECTION_NMS_IOU, groups=cls, keep_most=self.max_detections)
        return boxes[row[kept]], cls[kept], scores[kept]

    def _align(self, features: list[Tensor], boxes: Tensor, index: Tensor, size: int) -> Tensor:
        levels = assign_levels(boxes, self.strides, 2 * self.roi_size)
        return pyramid_roi_align(features, boxes, index, self.strides, levels, size)

    def _truth(self, ids: Tensor, labels: Tensor) -> _Truth:
        """Return boxes, ids and classes of the things in one (*S) id map."""
        present, boxes = instance_boxes(ids)
        label = labels.to(ids.device)[present]
        channels = torch.tensor(self.thing_channels, device=ids.device)
        is_class = label[:, None] == channels
        known = is_class.any(1)
        return _Truth(boxes[known], present[known], is_class[known].int().argmax(1) + 1)

    @torch.no_grad()
    def _sample(self, proposals: Tensor, truth: _Truth, void: Tensor) -> _Samples:
        """Choose proposals (and truths) of one image for training, a quarter of them foreground."""
        proposals = torch.cat([truth.boxes, proposals])
        if len(truth.boxes):
            overlap, best = pairwise_iou(proposals, truth.boxes).max(1)
        else:
            overlap, best = proposals.new_zeros(len(proposals)), torch.zeros_like(proposals[:, 0], dtype=torch.long)
        positive = (overlap >= FOREGROUND_IOU).nonzero()[:, 0]
        positive = sample(positive, int(self.roi_samples * FOREGROUND_FRACTION))
        negative = ((overlap < FOREGROUND_IOU) & ~centres_in(void, proposals)).nonzero()[:, 0]
        negative = sample(negative, self.roi_samples - len(positive))
        classes = torch.cat([truth.classes[best[positive]], torch.zeros_like(negative)])
        return _Samples(proposals[torch.cat([positive, negative])], classes, best[positive])

    def _box_loss(self, features: list[Tensor], samples: list[_Samples], truths: list[_Truth]) -> dict[str, Tensor]:
        boxes = [s.boxes for s in samples]
        rois = self._align(features, torch.cat(boxes), _image_index(boxes), self.roi_size)
        logits, codes = self.box_branch(rois)
        pairs = zip(samples, truths, strict=True)
        targets = [encode_refinement(t.boxes[s.truth], s.boxes[: len(s.truth)]) for s, t in pairs]
        return box_losses(logits, codes, torch.cat([s.classes for s in samples]), torch.cat(targets))

    def _mask_loss(
        self, features: list[Tensor], samples: list[_Samples], truths: list[_Truth], ids: Tensor
    ) -> dict[str, Tensor]:
        boxes = [s.boxes[: len(s.truth)] for s in samples]
        rois = self._align(features, torch.cat(boxes), _image_index(boxes), self.mask_roi_size)
        classes = torch.cat([s.classes[: len(s.truth)] for s in samples]) - 1
        rows = zip(ids, boxes, samples, truths, strict=True)
        size = 2 * self.mask_roi_size
        targets = torch.cat([crop_masks(image, b, t.ids[s.truth], size) for image, b, s, t in rows])
        return mask_loss(self.mask_branch(rois, classes), targets)


def _image_index(boxes: Sequence[Tensor]) -> Tensor:
    """Return (N,) which image each row of the concatenated boxes belongs to."""
    counts = torch.tensor([len(b) for b in boxes], device=boxes[0].device)
    return torch.repeat_interleave(torch.arange(len(boxes), device=counts.device), counts)


def instance_boxes(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ids > 0 present in an (*S) int map, ascending (T,), and their boxes (T, 2 D) float32."""
    coordinates = ids.nonzero()
    present, owner = torch.unique(ids[tuple(coordinates.T)], return_inverse=True)
    owner = owner[:, None].expand_as(coordinates)
    blank = coordinates.new_zeros((len(present), ids.ndim))
    start = blank.scatter_reduce(0, owner, coordinates, "amin", include_self=False)
    stop = blank.scatter_reduce(0, owner, coordinates, "amax", include_self=False) + 1
    return present, torch.cat([start, stop], 1).float()
