"""The parameter-free panoptic fusion, its form as published, and the older heuristic.

Every method works on crops with a running per-pixel maximum: O(pixels + sum of boxes), never one full-size map per
instance. Sizes are in pixels; physical areas are the caller's business.

Sources: Mohan and Valada, EfficientPS, IJCV 2021, section 3.4; Kirillov et al., Panoptic Segmentation, CVPR 2019,
section 5.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from medpanoptic.errors import ModelError
from medpanoptic.networks.outputs import Instances, Prediction
from medpanoptic.result import Box, Reason

Method = Literal["log_odds", "efficientps", "kirillov"]
# beyond this a float32 sigmoid is 0 or 1; a limit keeps an absent side (no thing or no stuff channel) finite
_LOG_ODDS_LIMIT = 80.0
# a head may use -inf for "never": keep FL a number there (0 * inf is not)
_LOGIT_LIMIT = 1e4


@dataclass(frozen=True)
class FusedSegment:
    """One segment of the map. ``score``: the head's for a thing, the mean softmax probability for stuff."""

    id: int
    channel: int
    score: float


@dataclass(frozen=True, eq=False)
class DroppedInstance:
    """An instance that is not in the map: why, its box in voxels of the fused grid, its own mask (bool, box shape)."""

    channel: int
    score: float
    reason: Reason
    box: Box
    mask: Tensor


@dataclass(frozen=True, eq=False)
class Fused:
    """A panoptic map on the network's grid.

    ids : (*S) int32, 0 = void; things 1..n by falling score, then one id per stuff class present, in channel order.
    segments : in the order of their ids; exactly the ids in the map.
    stuff : (*S) int16, the best stuff channel everywhere, also under things; -1 without stuff channels.
    dropped : first those fusion refused in order of falling score, then those left with too little area.
    """

    ids: Tensor
    segments: tuple[FusedSegment, ...]
    stuff: Tensor
    dropped: tuple[DroppedInstance, ...]


@dataclass(frozen=True, eq=False)
class _Candidate:
    """An instance on its way through fusion: ``where`` cuts its box out of a (*S) map."""

    channel: int
    score: float
    box: Box
    logits: Tensor

    @property
    def where(self) -> tuple[slice, ...]:
        return tuple(slice(start, stop) for start, stop in self.box)

    def drop(self, reason: Reason) -> DroppedInstance:
        return DroppedInstance(self.channel, self.score, reason, self.box, self.logits > 0)


def fuse(
    prediction: Prediction,
    is_thing: Sequence[bool],
    *,
    method: Method = "log_odds",
    score_threshold: float = 0.5,
    overlap_threshold: float = 0.5,
    min_stuff_size: int = 0,
    min_thing_size: int = 0,
) -> Fused:
    """Make one panoptic map out of semantic logits and overlapping instances.

    prediction : semantic logits (K, *S) and instances on the same grid; not changed.
    is_thing : K flags, in channel order.
    method : how a pixel's owner is found, where MLA is the instance's mask logit and MLB the semantic logit of its
        class, with FL(MLA, MLB) = (sigmoid(MLA) + sigmoid(MLB)) * (MLA + MLB):

        ``log_odds`` (default) MLB is the log-odds of the class against all stuff, nothing is claimed outside the box,
        and stuff competes on the same scale with FL(s, s), s its log-odds against all things. So a pixel that mask
        and semantic head both call thing is thing, and one that both call background is stuff. Thing classes are
        not held against each other there: their instances compete by FL, and a nucleus whose type is unsure is
        still a nucleus. Without a stuff channel an implicit background of logit 0 competes, and leaves void.

        ``efficientps`` as published: MLB and stuff are raw logits, FL is 0 outside the box. Kept as an ablation;
        where every stuff logit is negative that 0 wins, so the first instance appears far away from itself.

        ``kirillov`` the heuristic: by score, each mask takes what is still free; things over stuff.
    score_threshold : instances below it are dropped (reason ``score``).
    overlap_threshold : dropped if more than this part of the mask lies in better instances (``overlap``).
    min_stuff_size, min_thing_size : pixels; smaller stuff becomes void, smaller things are dropped (``area``) and
        leave stuff or void. An empty mask, or a thing that wins no pixel, is dropped as ``empty``.

    Equal scores keep the order of the prediction; equal evidence goes to the better score, then to stuff.
    Raises ModelError: FUSION-METHOD; FUSION-CLASSES, FUSION-BOX if flags, labels, boxes and masks do not fit together;
    FUSION-NAN if the network gave a value that is no number.
    """
    if method not in get_args(Method):
        raise ModelError("FUSION-METHOD", f"no fusion method {method!r}; there are {', '.join(get_args(Method))}")
    logits = prediction.semantic_logits.float()
    things = torch.tensor(list(is_thing), dtype=torch.bool, device=logits.device)
    _check_numbers(logits, prediction.instances.mask_logits)
    candidates = _by_score(prediction.instances, logits.shape, is_thing)
    kept, occupancy, dropped = _without_overlap(candidates, logits, score_threshold, overlap_threshold)
    stuff = _best_stuff(logits, things)
    if method == "log_odds":
        owner, rest = _log_odds_owner(kept, logits, things, stuff)
    elif method == "efficientps":
        owner, rest = _efficientps_owner(kept, logits, things), _argmax_stuff(logits, things)
    else:
        owner, rest = occupancy, _argmax_stuff(logits, things)
    order, too_small = _survivors(owner, kept, min_thing_size)
    ids = order.index_select(0, owner.ravel()).reshape(owner.shape)
    segments = [FusedSegment(int(order[i]), c.channel, c.score) for i, c in enumerate(kept) if order[i] > 0]
    segments += _fill_stuff(ids, rest, logits, min_stuff_size, len(segments))
    return Fused(ids, tuple(segments), stuff, (*dropped, *too_small))


def _check_numbers(logits: Tensor, masks: Sequence[Tensor]) -> None:
    broken = not bool(logits.isfinite().all()) or (
        len(masks) > 0 and bool(torch.cat([m.ravel() for m in masks]).isnan().any())
    )
    if broken:
        raise ModelError(
            "FUSION-NAN", "the network gave values that are not numbers; check its weights and the image for NaN"
        )


def _by_score(instances: Instances, shape: torch.Size, is_thing: Sequence[bool]) -> list[_Candidate]:
    """Return the instances by falling score; checks that they fit (K, *S)."""
    if len(is_thing) != shape[0]:
        raise ModelError("FUSION-CLASSES", f"{shape[0]} semantic channels but {len(is_thing)} thing flags")
    axes = len(shape) - 1
    rows = zip(instances.boxes.tolist(), instances.labels.tolist(), instances.scores.tolist(), strict=True)
    found = []
    for (corners, channel, score), mask in zip(rows, instances.mask_logits, strict=True):
        box = tuple(zip(corners[:axes], corners[axes:], strict=True))
        if not 0 <= channel < shape[0] or not is_thing[channel]:
            raise ModelError("FUSION-CLASSES", f"an instance has label {channel}, which is no thing channel")
        inside = all(0 <= start < stop <= size for (start, stop), size in zip(box, shape[1:], strict=True))
        if not inside or tuple(mask.shape) != tuple(stop - start for start, stop in box):
            raise ModelError(
                "FUSION-BOX", f"box {box} with mask {tuple(mask.shape)} does not fit image {tuple(shape[1:])}"
            )
        found.append(_Candidate(channel, score, box, mask.float().clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)))
    return sorted(found, key=lambda c: -c.score)  # stable: equal scores keep their order


def _without_overlap(
    candidates: list[_Candidate], logits: Tensor, score_threshold: float, overlap_threshold: float
) -> tuple[list[_Candidate], Tensor, list[DroppedInstance]]:
    """Drop by score, empty mask and overlap.

    Returns the kept ones; (*S) int32 the number of the first kept one whose mask holds the pixel, len(kept) where none
    does; and the dropped ones.
    """
    kept: list[_Candidate] = []
    dropped: list[DroppedInstance] = []
    free = len(candidates)
    first = torch.full(logits.shape[1:], free, dtype=torch.int32, device=logits.device)
    for candidate in candidates:
        if candidate.score < score_threshold:
            dropped.append(candidate.drop("score"))
            continue
        crop, mask = first[candidate.where], candidate.logits > 0
        taken = mask & (crop < free)
        size, overlap = torch.stack((mask.sum(), taken.sum())).tolist()
        if size == 0 or overlap / size > overlap_threshold:
            dropped.append(candidate.drop("overlap" if size else "empty"))
            continue
        crop[mask & ~taken] = len(kept)
        kept.append(candidate)
    return kept, first.clamp_(max=len(kept)), dropped


def _fused_logits(mla: Tensor, mlb: Tensor) -> Tensor:
    """FL of EfficientPS: the sum of both logits, weighed by how far both believe in it."""
    return mla.sigmoid().add_(mlb.sigmoid()).mul_(mla + mlb)


def _any_of(logits: Tensor, channels: Tensor) -> Tensor:
    """Return (*S) the logit of one of several channels of (K, *S); of a single one that is its own, without a copy."""
    chosen = channels.nonzero()[:, 0].tolist()
    return logits[chosen[0]] if len(chosen) == 1 else logits[chosen].logsumexp(0)


def _log_odds_owner(
    kept: list[_Candidate], logits: Tensor, things: Tensor, best_stuff: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (*S) int32 number of the winner (len(kept): none) and (*S) int16 stuff channel of the rest, -1 = void."""
    stuff = _any_of(logits, ~things) if bool((~things).any()) else torch.zeros_like(logits[0])
    thing = _any_of(logits, things) if bool(things.any()) else torch.full_like(logits[0], -torch.inf)
    odds = (stuff - thing).clamp_(-_LOG_ODDS_LIMIT, _LOG_ODDS_LIMIT)
    best = odds.sigmoid().mul_(odds).mul_(4)  # FL(odds, odds), to the bit
    owner = torch.full_like(best, len(kept), dtype=torch.int32)
    for number, candidate in reversed(list(enumerate(kept))):
        where = candidate.where
        class_odds = (logits[candidate.channel][where] - stuff[where]).clamp_(-_LOG_ODDS_LIMIT, _LOG_ODDS_LIMIT)
        _claim(best[where], owner[where], _fused_logits(candidate.logits, class_odds), number)
    return owner, torch.where(odds >= 0, best_stuff, -1)


def _efficientps_owner(kept: list[_Candidate], logits: Tensor, things: Tensor) -> Tensor:
    """Return (*S) int32 number of the winner as the argmax over full-size FL maps would, len(kept) where stuff wins."""
    best = torch.full_like(logits[0], -torch.inf) if bool(things.all()) else logits[~things].amax(0)
    owner = torch.full_like(best, len(kept), dtype=torch.int32)
    for number, candidate in reversed(list(enumerate(kept))):
        where = candidate.where
        fused = _fused_logits(candidate.logits, logits[candidate.channel][where])
        _claim(best[where], owner[where], fused, number)
    outside = _first_outside(kept, owner)
    padding_wins = (outside < len(kept)) & ((best < 0) | ((best == 0) & (outside < owner)))
    return torch.where(padding_wins, outside, owner)


def _first_outside(kept: list[_Candidate], like: Tensor) -> Tensor:
    """Return (*S) int32 the first instance whose box misses the pixel: the one whose zero padding an argmax meets."""
    outside = torch.zeros_like(like)
    for number, candidate in enumerate(kept):
        crop = outside[candidate.where]
        crop += crop == number
    return outside


def _claim(best: Tensor, owner: Tensor, value: Tensor, number: int) -> None:
    """Let instance ``number`` take the pixels of two views where it is at least as good; called from last to first."""
    owner.masked_fill_(value >= best, number)
    torch.maximum(best, value, out=best)


def _best_stuff(logits: Tensor, things: Tensor) -> Tensor:
    """Return (*S) int16, the best channel among stuff, -1 if there is none."""
    if bool(things.all()):
        return torch.full_like(logits[0], -1, dtype=torch.int16)
    channels = torch.nonzero(~things)[:, 0].to(torch.int16)
    if len(channels) == 1:
        return torch.full_like(logits[0], int(channels[0]), dtype=torch.int16)
    return channels[logits[~things].argmax(0)]


def _argmax_stuff(logits: Tensor, things: Tensor) -> Tensor:
    """Return (*S) int64, the argmax over all channels where that is stuff, else -1."""
    channel = logits.argmax(0)
    return torch.where(things[channel], -1, channel)


def _survivors(owner: Tensor, kept: list[_Candidate], min_size: int) -> tuple[Tensor, list[DroppedInstance]]:
    """Return (len(kept) + 1) int32 new id of each owner number, 0 = not there, and those dropped for their area."""
    sizes = torch.bincount(owner.ravel().cpu(), minlength=len(kept) + 1)[: len(kept)]
    stays = sizes >= max(1, min_size)
    order = torch.where(stays, stays.cumsum(0), 0).to(torch.int32)
    table = torch.cat((order, torch.zeros(1, dtype=torch.int32))).to(owner.device)
    gone = [c.drop("area" if size else "empty") for c, size, stay in zip(kept, sizes, stays, strict=True) if not stay]
    return table, gone


def _fill_stuff(ids: Tensor, rest: Tensor, logits: Tensor, min_size: int, last_id: int) -> list[FusedSegment]:
    """Write stuff of at least ``min_size`` pixels into the free pixels of ``ids``, in place; return its segments."""
    free = torch.where(ids == 0, rest, -1)
    total = logits.logsumexp(0)
    segments = []
    for channel in range(len(logits)):
        where = free == channel
        size = int(where.sum())
        if size == 0 or size < min_size:
            continue
        last_id += 1
        ids[where] = last_id
        score = float((logits[channel][where] - total[where]).exp().double().mean())
        segments.append(FusedSegment(last_id, channel, min(score, 1.0)))
    return segments
