"""The parameter-free panoptic fusion, its form as published, and the older heuristic.

Every method works on crops with a running per-pixel maximum: O(pixels + sum of boxes), never one full-size map per
instance. Sizes are in pixels; physical areas are the caller's business.

Sources: Mohan and Valada, EfficientPS, IJCV 2021, section 3.4; Kirillov et al., Panoptic Segmentation, CVPR 2019,
section 5.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medpanoptic.crops import Candidate, Crops, Part, by_score, first_of_masks, host_masks, overlap_reasons
from medpanoptic.errors import ModelError
from medpanoptic.networks.outputs import Prediction
from medpanoptic.result import Box, Reason

Method = Literal["log_odds", "efficientps", "kirillov"]
# beyond this a float32 sigmoid is 0 or 1; a limit keeps an absent side (no thing or no stuff channel) finite
_LOG_ODDS_LIMIT = 80.0
# pixels worked on at a time where maps are only summed up: they stay in a processor's cache
_BLOCK = 1 << 16


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
    mask: NDArray[np.bool_]


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
    things = [k for k, thing in enumerate(is_thing) if thing]
    others = [k for k, thing in enumerate(is_thing) if not thing]
    candidates = by_score(prediction.instances, logits.shape, is_thing)
    _check_numbers(logits, [c.logits for c in candidates])
    crops, dropped = _without_overlap(candidates, logits, score_threshold, overlap_threshold)
    stuff = _best_stuff(logits, others)
    if method == "log_odds":
        owner, rest = _log_odds_owner(crops, logits, things, others, stuff)
    elif method == "efficientps":
        owner, rest = _efficientps_owner(crops, logits, others), _argmax_stuff(logits, things)
    else:
        owner, rest = first_of_masks(crops).reshape(logits.shape[1:]), _argmax_stuff(logits, things)
    order, too_small = _survivors(owner, crops.candidates, min_thing_size)
    ids = order.index_select(0, owner.ravel()).reshape(owner.shape)
    numbers = order.tolist()
    segments = [FusedSegment(numbers[i], c.channel, c.score) for i, c in enumerate(crops.candidates) if numbers[i] > 0]
    segments += _fill_stuff(ids, rest, logits, others, min_stuff_size, len(segments))
    return Fused(ids, tuple(segments), stuff, (*dropped, *too_small))


def _check_numbers(logits: Tensor, masks: Sequence[Tensor]) -> None:
    # NaN goes through both: one pass, and no map of flags
    broken = not bool(torch.stack(logits.aminmax()).isfinite().all()) or (
        len(masks) > 0 and bool(torch.cat([m.ravel() for m in masks]).amax().isnan())
    )
    if broken:
        raise ModelError(
            "FUSION-NAN", "the network gave values that are not numbers; check its weights and the image for NaN"
        )


def _without_overlap(
    candidates: list[Candidate], logits: Tensor, score_threshold: float, overlap_threshold: float
) -> tuple[Crops, list[DroppedInstance]]:
    """Drop by score, empty mask and overlap; return the crops of the kept ones, and the dropped ones."""
    sure = [c for c in candidates if c.score >= score_threshold]
    crops = Crops(sure, logits.shape[1:], logits.device)
    reasons: list[Reason | None] = overlap_reasons(crops, overlap_threshold)
    kept = [c for c, reason in zip(sure, reasons, strict=True) if reason is None]
    gone = [(c, reason) for c, reason in zip(sure, reasons, strict=True) if reason is not None]
    gone += [(c, "score") for c in candidates[len(sure) :]]  # by falling score
    return crops if len(kept) == len(sure) else Crops(kept, logits.shape[1:], logits.device), _drop(gone)


def _drop(gone: Sequence[tuple[Candidate, Reason]]) -> list[DroppedInstance]:
    masks = host_masks([c for c, _ in gone])
    return [DroppedInstance(c.channel, c.score, r, c.box, m) for (c, r), m in zip(gone, masks, strict=True)]


def _fused_logits(mla: Tensor, mlb: Tensor) -> Tensor:
    """FL of EfficientPS: the sum of both logits, weighed by how far both believe in it."""
    return mla.sigmoid().add_(mlb.sigmoid()).mul_(mla + mlb)


def _any_of(logits: Tensor, channels: Sequence[int]) -> Tensor:
    """Return (*S) the logit of one of several channels of (K, *S); of a single one that is its own, without a copy."""
    return logits[channels[0]] if len(channels) == 1 else logits[list(channels)].logsumexp(0)


def _class_logits(part: Part, crops: Crops, logits: Tensor) -> Tensor:
    """Return (P,) the semantic logit of each candidate's own class at each of its pixels."""
    flat = logits.reshape(len(logits), -1)
    classes = {c.channel for c in crops.candidates}
    if len(classes) == 1:
        return flat[classes.pop()][part.places]
    return flat.reshape(-1)[crops.channels()[part.numbers.long()] * flat.shape[1] + part.places]


def _compete(crops: Crops, evidence: Callable[[Part], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Let candidates compete for pixels.

    evidence : of a part, (P,) for the candidate and (P,) what it must reach to take the pixel from stuff.
    Returns (*S) int32 number of the winner, len(crops) where there is none, and (*S) its evidence, -inf there. Equal
    evidence goes to the better score.
    """
    pixels = math.prod(crops.shape)
    owner = torch.full((pixels,), len(crops), dtype=torch.int32, device=crops.device)
    best = torch.full((pixels,), -torch.inf, device=crops.device)
    for part in crops.parts():
        value, floor = evidence(part)
        # earlier parts have better scores: equal evidence stays with them
        wins = ((value >= floor) & (value > best[part.places])).nonzero()[:, 0]
        places, value = part.places[wins], value[wins]
        best.scatter_reduce_(0, places, value, "amax")
        largest = (value == best[places]).nonzero()[:, 0]
        wins, places = wins[largest], places[largest]
        owner[places] = len(crops)
        owner.scatter_reduce_(0, places, part.numbers[wins], "amin")
    return owner.reshape(crops.shape), best.reshape(crops.shape)


def _log_odds_owner(
    crops: Crops, logits: Tensor, things: Sequence[int], others: Sequence[int], best_stuff: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (*S) int32 number of the winner (len(crops): none) and (*S) int16 stuff channel of the rest, -1 = void."""
    stuff = _any_of(logits, others) if others else torch.zeros_like(logits[0])
    thing = _any_of(logits, things) if things else torch.full_like(logits[0], -torch.inf)

    def evidence(part: Part) -> tuple[Tensor, Tensor]:
        here = stuff.reshape(-1)[part.places]
        odds = (here - thing.reshape(-1)[part.places]).clamp_(-_LOG_ODDS_LIMIT, _LOG_ODDS_LIMIT)
        class_odds = (_class_logits(part, crops, logits) - here).clamp_(-_LOG_ODDS_LIMIT, _LOG_ODDS_LIMIT)
        floor = odds.sigmoid().mul_(odds).mul_(4)  # FL(odds, odds), to the bit
        return _fused_logits(part.logits, class_odds), floor

    owner, _ = _compete(crops, evidence)
    return owner, torch.where(stuff >= thing, best_stuff, -1)


def _efficientps_owner(crops: Crops, logits: Tensor, others: Sequence[int]) -> Tensor:
    """Return (*S) int32 number of the winner as an argmax over full-size FL maps would, len(crops) for stuff."""
    stuff = logits[list(others)].amax(0) if others else torch.full_like(logits[0], -torch.inf)

    def evidence(part: Part) -> tuple[Tensor, Tensor]:
        return _fused_logits(part.logits, _class_logits(part, crops, logits)), stuff.reshape(-1)[part.places]

    owner, best = _compete(crops, evidence)
    best = torch.maximum(best, stuff)
    outside = _first_outside(crops, owner)
    padding_wins = (outside < len(crops)) & ((best < 0) | ((best == 0) & (outside < owner)))
    return torch.where(padding_wins, outside, owner)


def _first_outside(crops: Crops, like: Tensor) -> Tensor:
    """Return (*S) int32 the first instance whose box misses the pixel: the one whose zero padding an argmax meets."""
    outside = torch.zeros_like(like)
    for number, candidate in enumerate(crops.candidates):
        crop = outside[tuple(slice(a, b) for a, b in candidate.box)]
        crop += crop == number
    return outside


def _best_stuff(logits: Tensor, others: Sequence[int]) -> Tensor:
    """Return (*S) int16, the best channel among stuff, -1 if there is none."""
    if len(others) < 2:
        return torch.full_like(logits[0], others[0] if others else -1, dtype=torch.int16)
    channels = torch.tensor(others, dtype=torch.int16, device=logits.device)
    return channels[logits[list(others)].argmax(0)]


def _argmax_stuff(logits: Tensor, things: Sequence[int]) -> Tensor:
    """Return (*S) int64, the argmax over all channels where that is stuff, else -1."""
    channel = logits.argmax(0)
    return torch.where(torch.isin(channel, torch.tensor(things, device=logits.device)), -1, channel)


def _survivors(owner: Tensor, kept: Sequence[Candidate], min_size: int) -> tuple[Tensor, list[DroppedInstance]]:
    """Return (len(kept) + 1) int32 new id of each owner number, 0 = not there, and those dropped for their area."""
    sizes = torch.bincount(owner.ravel(), minlength=len(kept) + 1)
    stays = sizes >= max(1, min_size)
    stays[-1] = False
    table = torch.where(stays, stays.cumsum(0), 0).to(torch.int32)
    numbers = zip(kept, sizes.tolist(), stays.tolist(), strict=False)  # one more: no owner
    return table, _drop([(c, "area" if size else "empty") for c, size, stay in numbers if not stay])


def _fill_stuff(
    ids: Tensor, rest: Tensor, logits: Tensor, others: Sequence[int], min_size: int, last_id: int
) -> list[FusedSegment]:
    """Write stuff of at least ``min_size`` pixels into the free pixels of ``ids``, in place; return its segments."""
    free = torch.where(ids == 0, rest, -1)
    segments = []
    for channel in others:
        where = free == channel
        size = int(where.count_nonzero())
        if size == 0 or size < min_size:
            continue
        last_id += 1
        ids.masked_fill_(where, last_id)
        score = _sum_of_probability(logits, channel, where) / size
        segments.append(FusedSegment(last_id, channel, min(score, 1.0)))
    return segments


def _sum_of_probability(logits: Tensor, channel: int, where: Tensor) -> float:
    """Return the sum of the softmax probability of a channel of (K, *S) over a mask (*S), block by block."""
    blocks = zip(logits.reshape(len(logits), -1).split(_BLOCK, 1), where.reshape(-1).split(_BLOCK), strict=True)
    parts = [block.softmax(0)[channel].mul_(mask).sum(dtype=torch.float64) for block, mask in blocks]
    return float(torch.stack(parts).sum())
