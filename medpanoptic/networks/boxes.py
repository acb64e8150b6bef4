"""Axis-aligned boxes in D dimensions: IoU, the regression code, non-maximum suppression.

A box is (start per axis, stop per axis), 2 D numbers in pixels. Coordinates are continuous: pixel i of an axis
covers [i, i + 1), so its centre is i + 0.5 and a whole-image box is (0, ..., 0, *S).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)  # keeps exp() finite for untrained networks, the bound of Faster R-CNN codes
NMS_CHUNK = 512  # measured on a CPU: larger matrices leave its cache, smaller ones add calls


def box_extents(boxes: Tensor) -> Tensor:
    """Return (N, D) edge lengths of (N, 2 D) boxes."""
    dims = boxes.shape[-1] // 2
    return boxes[..., dims:] - boxes[..., :dims]


def box_volumes(boxes: Tensor) -> Tensor:
    """Return (N,) areas (2D) or volumes (3D) of (N, 2 D) boxes."""
    return box_extents(boxes).prod(-1)


def pairwise_intersection(first: Tensor, second: Tensor) -> Tensor:
    """Return (N, M) shared volumes of (N, 2 D) and (M, 2 D) boxes."""
    dims = first.shape[-1] // 2
    shared = first.new_ones(())
    for axis in range(dims):  # axis by axis: no (N, M, D) array
        start = torch.maximum(first[:, None, axis], second[None, :, axis])
        stop = torch.minimum(first[:, None, dims + axis], second[None, :, dims + axis])
        shared = shared * stop.sub_(start).clamp_(min=0)
    return shared


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return (N, M) intersection over union of (N, 2 D) and (M, 2 D) boxes; 0 for empty boxes."""
    shared = pairwise_intersection(first, second)
    union = box_volumes(first)[:, None] + box_volumes(second)[None] - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def elementwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return (N,) intersection over union of row i of ``first`` with row i of ``second``, both (N, 2 D)."""
    dims = first.shape[-1] // 2
    start = torch.maximum(first[:, :dims], second[:, :dims])
    stop = torch.minimum(first[:, dims:], second[:, dims:])
    shared = (stop - start).clamp(min=0).prod(-1)
    union = box_volumes(first) + box_volumes(second) - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def encode_boxes(boxes: Tensor, references: Tensor) -> Tensor:
    """Return (N, 2 D) regression targets that turn ``references`` into ``boxes``, both (N, 2 D).

    Columns: shift of the centre in reference lengths, then log ratio of the lengths.
    Source: Ren et al. 2015, Faster R-CNN, eq. 2, for any D.
    """
    dims = boxes.shape[-1] // 2
    lengths, reference_lengths = box_extents(boxes), box_extents(references)
    shift = (boxes[:, :dims] + boxes[:, dims:] - references[:, :dims] - references[:, dims:]) / 2
    return torch.cat([shift / reference_lengths, torch.log(lengths / reference_lengths)], dim=1)


def decode_boxes(deltas: Tensor, references: Tensor) -> Tensor:
    """Return the (N, 2 D) boxes that ``deltas`` (N, 2 D) make of ``references``: the inverse of encode_boxes."""
    dims = references.shape[-1] // 2
    reference_lengths = box_extents(references)
    centre = (references[:, :dims] + references[:, dims:]) / 2 + deltas[:, :dims] * reference_lengths
    half = reference_lengths * torch.exp(deltas[:, dims:].clamp(max=MAX_LOG_SCALE)) / 2
    return torch.cat([centre - half, centre + half], dim=1)


def clip_boxes(boxes: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    """Return (N, 2 D) boxes cut to the image of shape (*S)."""
    limit = boxes.new_tensor((*image_shape, *image_shape))
    return torch.minimum(boxes.clamp(min=0), limit)


@torch.no_grad()
def nms(boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor | None = None, keep_most: int = -1) -> Tensor:
    """Greedy non-maximum suppression: return the (M,) indices of kept boxes, best score first.

    boxes : (N, 2 D) float. scores : (N,). threshold : a box is dropped if its IoU with a better kept one is larger.
    groups : (N,) int; boxes suppress one another only within a group (class, level). None: one group.
    keep_most : stop once so many are kept, -1 for all.
    Equal scores keep their order. Boxes are taken in chunks by falling score; a chunk meets the boxes kept so
    far, then itself, each as one IoU matrix: the result is exactly that of the sequential loop.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    kept = order[:0]
    for chunk in order.split(NMS_CHUNK):
        if 0 <= keep_most <= len(kept):
            break
        chunk = chunk[~_overlaps(boxes, kept, chunk, threshold, groups).any(0)]
        kept = torch.cat([kept, chunk[_greedy(_overlaps(boxes, chunk, chunk, threshold, groups).triu_(1))]])
    return kept[:keep_most] if keep_most >= 0 else kept


def _overlaps(boxes: Tensor, first: Tensor, second: Tensor, threshold: float, groups: Tensor | None) -> Tensor:
    """Return (N, M) bool: IoU of boxes[first] and boxes[second] is above the threshold, in the same group."""
    shared = pairwise_intersection(boxes[first], boxes[second])
    volumes = box_volumes(boxes)
    # I / (A + B - I) > t without the division
    above = shared.mul_(1 + threshold) > threshold * (volumes[first][:, None] + volumes[second][None])
    if groups is not None:
        above &= groups[first][:, None] == groups[second][None]
    return above


def _greedy(suppresses: Tensor) -> Tensor:
    """Return (N,) bool, kept boxes, from the strictly upper triangular (N, N) bool "i would drop j".

    The sequential result is the one fixed point of kept = not (any kept i drops j); row j is final after at
    most j rounds, in practice after as many rounds as the longest chain of overlaps.
    """
    matrix = suppresses.float()
    kept = torch.ones(len(matrix), device=matrix.device)
    while True:
        update = ((kept @ matrix) == 0).float()
        if torch.equal(update, kept):
            return kept.bool()
        kept = update
