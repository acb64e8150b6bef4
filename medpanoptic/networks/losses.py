"""Losses on dense maps, shared by heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def semantic_loss(logits: Tensor, target: Tensor, dice_weight: float = 1.0, worst: float = 0.25) -> Tensor:
    """Return cross-entropy of the worst pixels plus soft Dice.

    logits : (B, K, *S); target : (B, *S) int64, -1 = unknown, ignored.
    worst : share of the known pixels that counts in the cross-entropy (EfficientPS section 3.3: the worst 25 %).
    Dice is the mean over classes present in the batch: rare classes count as much as large ones.
    """
    entropy = F.cross_entropy(logits, target, ignore_index=-1, reduction="none").flatten()
    known = entropy[target.flatten() >= 0]
    if known.numel() == 0:
        return logits.sum() * 0
    loss = known.topk(max(1, int(worst * known.numel())), sorted=False).values.mean()
    return loss + dice_weight * dice_loss(logits, target) if dice_weight else loss


def foreground_loss(logits: Tensor, target: Tensor, thing_channels: Sequence[int], worst: float = 0.25) -> Tensor:
    """Return binary cross-entropy of the worst pixels plus soft Dice, things of any class against all the rest.

    Shapes as in ``semantic_loss``. With several thing classes, or doubtful labels of stuff, the worst pixels of the
    plain cross-entropy are disputes among classes, and the rim of things, which decides panoptic quality, is not
    among them.
    """
    known = target >= 0
    if not bool(known.any()):
        return logits.sum() * 0
    channels = torch.as_tensor(thing_channels, device=target.device)
    truth = torch.isin(target, channels)
    odds = thing_log_odds(logits.float(), thing_channels, 1)
    entropy = F.binary_cross_entropy_with_logits(odds, truth.float(), reduction="none")[known]
    loss = entropy.topk(max(1, int(worst * entropy.numel())), sorted=False).values.mean()
    pair = torch.stack([torch.zeros_like(odds), odds], 1)
    return loss + dice_loss(pair, torch.where(known, truth.long(), -1))


def thing_log_odds(logits: Tensor, thing_channels: Sequence[int], axis: int) -> Tensor:
    """Return the log-odds of any thing class against all the rest; ``axis`` of the logits holds the K classes."""
    rest = [k for k in range(logits.shape[axis]) if k not in thing_channels]
    return _any_of(logits, thing_channels, axis) - _any_of(logits, rest, axis)


def _any_of(logits: Tensor, channels: Sequence[int], axis: int) -> Tensor:
    """Return the logit of one of several classes; of a single one it is its own, without the cost of logsumexp."""
    if len(channels) == 1:
        return logits.select(axis, channels[0])
    return logits.index_select(axis, torch.tensor(channels, dtype=torch.int64).to(logits.device)).logsumexp(axis)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 - soft Dice, mean over images and the classes present in each; shapes as in ``semantic_loss``.

    Per image, not per batch: a small tumour would vanish beside the large one of another image.
    """
    mask = (target >= 0).unsqueeze(1)
    probability = logits.float().softmax(1) * mask
    truth = F.one_hot(target.clamp(min=0), logits.shape[1]).movedim(-1, 1) * mask
    axes = tuple(range(2, logits.ndim))
    overlap = (probability * truth).sum(axes)
    total = probability.sum(axes) + truth.sum(axes)
    present = truth.sum(axes) > 0
    if not bool(present.any()):
        return logits.sum() * 0
    return 1 - (2 * overlap[present] / total[present].clamp(min=1e-6)).mean()


def instance_weights(instances: Tensor) -> Tensor:
    """Return (B, *S) float weights, 1 / sqrt(size) relative to the mean size: small things count, large ones rule."""
    weights = torch.zeros(instances.shape, device=instances.device)
    for b, ids in enumerate(instances):
        counts = torch.bincount(ids.flatten())
        sizes = counts[1:][counts[1:] > 0].float()
        if sizes.numel():
            table = (sizes.mean() / counts.clamp(min=1)).sqrt()
            table[0] = 0
            weights[b] = table[ids].clamp(max=4.0)
    return weights
