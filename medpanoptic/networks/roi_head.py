"""The second stage: class, refined box and mask of each proposal.

Source: He et al. 2017, Mask R-CNN, section 3; EfficientPS section 3.3 (separable convolutions in the mask branch).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, relu, smooth_l1_loss

from medpanoptic.networks.boxes import decode_boxes, encode_boxes
from medpanoptic.networks.layers import Norm, separable_conv
from medpanoptic.networks.roi_align import batched_roi_align, hat_weights

CODE_SCALE = (10.0, 5.0)  # of shifts and log ratios: brings the second stage's small codes to unit variance


def assign_levels(boxes: Tensor, strides: Sequence[tuple[float, ...]], cells: int) -> Tensor:
    """Return (N,) the pyramid level of each (N, 2 D) box: the coarsest on which it still spans ``cells`` pixels.

    With 14 cells this is Lin et al. 2017, eq. 1 (224 pixels at stride 16), for any D: lengths and strides enter by
    their geometric mean.
    """
    dims = boxes.shape[1] // 2
    lengths = (boxes[:, dims:] - boxes[:, :dims]).clamp(min=1e-3).log().mean(1)
    means = lengths.new_tensor([math.log(math.prod(s)) / dims for s in strides])
    spans = lengths[:, None] - means >= math.log(cells) - 1e-4
    return (spans.sum(1) - 1).clamp(min=0)


def pyramid_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    strides: Sequence[tuple[float, ...]],
    levels: Tensor,
    size: int,
) -> Tensor:
    """Return (N, C, *size): each box (N, 2 D, in input pixels) sampled on its own level of (B, C, *S_level) maps."""
    parts, members = [], []
    for level, (x, stride) in enumerate(zip(features, strides, strict=True)):
        index = (levels == level).nonzero()[:, 0]
        members.append(index)
        scale = boxes.new_tensor((*stride, *stride))
        parts.append(batched_roi_align(x, boxes[index] / scale, image_index[index], size))
    return torch.cat(parts)[torch.cat(members).argsort()]


class BoxBranch(nn.Module):
    """Two fully connected layers, then class logits (background first) and one box code for all classes."""

    def __init__(self, spatial_dims: int, in_channels: int, classes: int, roi_size: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(in_channels * roi_size**spatial_dims, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.classes = nn.Linear(hidden, classes + 1)
        self.codes = nn.Linear(hidden, 2 * spatial_dims)
        for layer in (self.first, self.second):  # the default's smaller gain halves the signal twice
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.codes.weight, std=0.001)
        nn.init.zeros_(self.codes.bias)

    def forward(self, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, classes + 1) logits and (N, 2 D) box codes of (N, C, *roi_size) rois, float32."""
        x = relu(self.second(relu(self.first(rois.flatten(1)))))
        return self.classes(x).float(), self.codes(x).float()


class MaskBranch(nn.Module):
    """Four separable convolutions, learned twofold up-sampling, then one mask per class.

    The up-sampling is a 2^D transposed convolution of stride 2, written as a pointwise convolution to 2^D positions:
    only the final masks, not all channels, are interleaved.
    """

    def __init__(self, spatial_dims: int, in_channels: int, classes: int, norm: Norm) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        self.convs = nn.Sequential(*(separable_conv(spatial_dims, in_channels, in_channels, norm) for _ in range(4)))
        self.up = conv(in_channels, in_channels * 2**spatial_dims, 1)
        self.masks = conv(in_channels, classes, 1)
        nn.init.kaiming_normal_(self.up.weight, nonlinearity="relu")

    def forward(self, rois: Tensor, classes: Tensor) -> Tensor:
        """Return (N, *2 size) float32 mask logits of each roi's own class (N,), of (N, C, *size) rois."""
        dims = rois.ndim - 2
        if len(rois) == 0:  # batch norm refuses an empty batch
            return rois.float().sum(1).repeat(1, *[2] * dims)
        layout = torch.channels_last if dims == 2 else torch.channels_last_3d
        x = self.up(self.convs(rois.contiguous(memory_format=layout))).relu_()  # on a CPU twice as fast channels-last
        x = x.movedim(1, -1).unflatten(-1, (2**dims, -1))  # (N, *size, 2^D, C)
        weight, bias = self.masks.weight.flatten(1)[classes], self.masks.bias[classes]
        logits = torch.bmm(x.flatten(1, -2), weight[:, :, None].to(x.dtype)) + bias[:, None, None]
        return _interleave(logits.float().view(x.shape[:-1]), dims)


def _interleave(values: Tensor, dims: int) -> Tensor:
    """Turn (N, *size, 2^D) values at the corners of each cell into (N, *2 size)."""
    values = values.unflatten(-1, (2,) * dims)
    axes = [a for axis in range(dims) for a in (1 + axis, 1 + dims + axis)]
    return values.permute(0, *axes).reshape(len(values), *(2 * n for n in values.shape[1 : 1 + dims]))


def encode_refinement(boxes: Tensor, proposals: Tensor) -> Tensor:
    """Return the (N, 2 D) scaled codes the box branch learns."""
    return encode_boxes(boxes, proposals) * _code_scale(boxes)


def decode_refinement(codes: Tensor, proposals: Tensor) -> Tensor:
    """Return the (N, 2 D) boxes that scaled ``codes`` make of ``proposals``."""
    return decode_boxes(codes / _code_scale(proposals), proposals)


def _code_scale(boxes: Tensor) -> Tensor:
    dims = boxes.shape[1] // 2
    return boxes.new_tensor((*[CODE_SCALE[0]] * dims, *[CODE_SCALE[1]] * dims))


def box_losses(logits: Tensor, codes: Tensor, classes: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return ``class`` and ``box`` losses of (N, ...) sampled proposals; class 0 is background, targets (P, 2 D)
    are the codes of the P foreground ones in order.
    """
    number = max(1, len(classes))
    distance = smooth_l1_loss(codes[classes > 0], targets, reduction="sum")
    return {"class": cross_entropy(logits, classes, reduction="sum") / number, "box": distance / number}


def mask_loss(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return the ``mask`` loss, mean binary cross-entropy of (N, *size) logits; 0 without boxes."""
    entropy = binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return {"mask": entropy / max(1, targets.numel())}


def crop_masks(ids: Tensor, boxes: Tensor, instances: Tensor, size: int) -> Tensor:
    """Sample where an id map equals each box's instance: return (N, *size) float 0 or 1.

    ids : (*S) int. boxes : (N, 2 D) pixels. instances : (N,) the ids. The indicator is interpolated linearly at
    the centres of the size^D cells and cut at 0.5, so edges fall between pixels.
    """
    dims = ids.ndim
    corners = []  # per axis: the two neighbouring pixels and their weights, (N, size) each
    for axis, length in enumerate(ids.shape):
        step = (torch.arange(size, device=ids.device) + 0.5) / size
        start, stop = boxes[:, axis, None], boxes[:, dims + axis, None]
        point = (start + step * (stop - start) - 0.5).clamp(0, length - 1)
        low = point.floor().clamp(max=max(0, length - 2))
        weight = point - low
        high = (low + 1).clamp(max=length - 1)
        corners.append(((low.long(), 1 - weight), (high.long(), weight)))
    inside = boxes.new_zeros((len(boxes), *[size] * dims))
    own = instances.view(-1, *[1] * dims)
    for corner in itertools.product(*corners):
        pixels = [_along(c[0], axis, dims) for axis, c in enumerate(corner)]
        weights = [_along(c[1], axis, dims) for axis, c in enumerate(corner)]
        inside += (ids[tuple(pixels)] == own) * math.prod(weights[1:], start=weights[0])
    return (inside >= 0.5).float()


def _along(values: Tensor, axis: int, dims: int) -> Tensor:
    """Shape (N, size) values for broadcasting along one of D axes."""
    return values.view(len(values), *[values.shape[1] if a == axis else 1 for a in range(dims)])


def integer_boxes(boxes: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    """Return (N, 2 D) int64 boxes of all pixels that float boxes touch, inside the image, at least one pixel."""
    dims = len(image_shape)
    limit = torch.tensor(image_shape, device=boxes.device)
    start = torch.minimum(boxes[:, :dims].floor().long().clamp(min=0), limit - 1)
    stop = torch.minimum(torch.maximum(boxes[:, dims:].ceil().long(), start + 1), limit)
    return torch.cat([start, stop], 1)


def paste_masks(masks: Tensor, boxes: Tensor, pixel_boxes: Tensor) -> tuple[Tensor, ...]:
    """Resample mask logits (N, *size) from float boxes (N, 2 D) to the pixels of integer boxes: N float tensors.

    The mask grid is sampled at pixel centres relative to the float box. Pixels whose centre lies outside the
    float box are outside the thing: the rim's logit is made negative there.
    """
    masks = masks.float()
    with torch.autocast(masks.device.type, enabled=False):
        return tuple(_paste(*row) for row in zip(masks, boxes.tolist(), pixel_boxes.tolist(), strict=True))


def _paste(mask: Tensor, box: list[float], pixel_box: list[int]) -> Tensor:
    """Resample one mask: the last axis first, each axis as a product with hat weights."""
    dims = mask.ndim
    outside = []
    for axis in range(dims - 1, -1, -1):
        start, stop, size = box[axis], box[dims + axis], mask.shape[axis]
        centres = torch.arange(pixel_box[axis], pixel_box[dims + axis], device=mask.device) + 0.5
        points = ((centres - start) * (size / max(stop - start, 1e-6)) - 0.5).clamp_(0, size - 1)
        weights = hat_weights(points[None], points.new_zeros(1), size)[0]
        mask = torch.tensordot(mask, weights, ([axis], [1])).movedim(-1, axis)
        outside.append(((centres < start) | (centres > stop)).view(-1, *[1] * (dims - 1 - axis)))
    for rim in outside:
        mask = torch.where(rim, -mask.abs(), mask)
    return mask.contiguous()
