"""Validation while training: panoptic quality of whole cases on the network's grid, fused as the bundle says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from medpanoptic.bundle import Bundle
from medpanoptic.fusion import fuse
from medpanoptic.metrics import PanopticQuality, binary_quality, mean_pq, panoptic_quality, pooled
from medpanoptic.networks.net import PanopticNet, TwoNetworks
from medpanoptic.networks.outputs import Instances, Prediction
from medpanoptic.training.cases import Case


def validate(
    network: PanopticNet | TwoNetworks, cases: Sequence[Case], bundle: Bundle, device: torch.device
) -> dict[str, float]:
    """Return ``pq_NAME`` per class (pooled), ``pq_binary`` (things of any class, pooled) and its per-image mean
    ``pq_binary_image``, and ``dice_things`` (pooled over pixels).

    Fused with the bundle's method and thresholds, without its smallest areas.
    """
    network.eval()
    fusion = {k: v for k, v in bundle.fusion.items() if not k.startswith("min_")}
    classes = list(bundle.classes)
    is_thing = [c.is_thing for c in classes]
    per_class: list[dict[int, PanopticQuality]] = []
    binary: list[PanopticQuality] = []
    overlap = total = 0
    for case in cases:
        prediction = predict_case(network, case, device)
        fused = fuse(prediction, is_thing, **fusion)
        ids = fused.ids.cpu().numpy()
        segments = {s.id: s.channel + 1 for s in fused.segments}
        truth_ids, truth_segments = truth_map(case, is_thing)
        channels = range(1, len(classes) + 1)
        per_class.append(panoptic_quality(ids, segments, truth_ids, truth_segments, channels))
        things = [k + 1 for k in range(len(classes)) if is_thing[k]]
        binary.append(binary_quality(ids, segments, truth_ids, truth_segments, things))
        predicted = np.isin(ids, [s for s, c in segments.items() if c in things])
        overlap += 2 * int((predicted & (case.instances > 0)).sum())
        total += int(predicted.sum()) + int((case.instances > 0).sum())
    scores = {f"pq_{c.name}": pooled([q[k + 1] for q in per_class]).pq for k, c in enumerate(classes)}
    summary = {
        "pq_binary": pooled(binary).pq,
        "pq_binary_image": mean_pq(binary),
        "dice_things": overlap / max(1, total),
    }
    return summary | scores


def predict_case(network: PanopticNet | TwoNetworks, case: Case, device: torch.device) -> Prediction:
    """Predict a whole case in one go, padded at its far ends with 0 to the network's divisor."""
    shape = case.semantic.shape
    pad = [(-n) % network.divisor for n in reversed(shape)]
    image = F.pad(torch.from_numpy(case.image)[None], [v for p in pad for v in (0, p)]).to(device)
    prediction = network.predict(image)[0]
    inside = tuple(slice(0, n) for n in shape)
    return Prediction(prediction.semantic_logits[(slice(None), *inside)], clip_instances(prediction.instances, shape))


def clip_instances(instances: Instances, shape: Sequence[int]) -> Instances:
    """Cut boxes and masks to ``shape`` and leave out what lies in the padding."""
    ndim = len(shape)
    limit = torch.tensor([*shape], device=instances.boxes.device)
    stop = torch.minimum(instances.boxes[:, ndim:], limit)
    keep = (stop > instances.boxes[:, :ndim]).all(1).nonzero()[:, 0]
    boxes = torch.cat([instances.boxes[:, :ndim], stop], 1)[keep]
    sizes = (boxes[:, ndim:] - boxes[:, :ndim]).tolist()
    masks = tuple(
        instances.mask_logits[i][tuple(slice(0, n) for n in size)] for i, size in zip(keep.tolist(), sizes, strict=True)
    )
    return Instances(boxes, instances.labels[keep], instances.scores[keep], masks)


def truth_map(case: Case, is_thing: Sequence[bool]) -> tuple[NDArray[np.int32], dict[int, int]]:
    """Return the case's truth as an id map (*S), 0 = unknown, and {id: channel + 1}."""
    ids = case.instances.copy()
    segments = {i: int(case.labels[i]) + 1 for i in range(1, len(case.labels))}
    for channel, thing in enumerate(is_thing):
        mask = (case.semantic == channel) & (case.instances == 0)
        if not thing and mask.any():
            number = len(case.labels) + channel
            ids[mask] = number
            segments[number] = channel + 1
    present = set(np.unique(ids).tolist())
    return ids, {i: c for i, c in segments.items() if i in present}
