"""Instances of one image as rows of pixels: thousands of small masks are a few large operations on any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medpanoptic.errors import ModelError
from medpanoptic.networks.outputs import Instances
from medpanoptic.result import Box, Reason

# pixels of boxes held at a time: what is made of them takes about 40 bytes a pixel
_PART_PIXELS = 1 << 22
# a head may use -inf for "never": keep products with it a number (0 * inf is not)
_LOGIT_LIMIT = 1e4


@dataclass(frozen=True, eq=False)
class Candidate:
    """An instance on its way through fusion; ``logits`` as in ``Instances``."""

    channel: int
    score: float
    box: Box
    logits: Tensor


class Part(NamedTuple):
    """All pixels of the boxes of some candidates, candidate by candidate.

    first : number of the first candidate. numbers : (P,) whose pixel it is, counted over all candidates. places : (P,)
    flat index of the pixel in the image. logits : (P,) float32 mask logit, within +-1e4.
    """

    first: int
    numbers: Tensor
    places: Tensor
    logits: Tensor


class Crops:
    """Candidates by falling score on an image of ``shape`` (*S); their number is their place in that order."""

    def __init__(self, candidates: Sequence[Candidate], shape: Sequence[int], device: torch.device) -> None:
        self.candidates, self.shape, self.device = list(candidates), tuple(shape), device
        corners = np.array([c.box for c in self.candidates], np.int64).reshape(-1, len(self.shape), 2)
        self._start, self._size = corners[..., 0], corners[..., 1] - corners[..., 0]
        steps = self._size.prod(1).cumsum() // _PART_PIXELS
        self._bounds = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)] if len(steps) else [0]
        self._only: Part | None = None

    def __len__(self) -> int:
        return len(self.candidates)

    def channels(self) -> Tensor:
        """Return (N,) int64."""
        return torch.tensor([c.channel for c in self.candidates], dtype=torch.int64, device=self.device)

    def parts(self) -> Iterator[Part]:
        """Yield all pixels, in order, some millions at a time."""
        for first, last in pairwise(self._bounds):
            if self._only is not None:
                yield self._only
                continue
            part = self._part(first, last)
            if len(self._bounds) == 2:
                self._only = part
            yield part

    def _part(self, first: int, last: int) -> Part:
        """A box is a number of lines along the last axis, each a run of neighbouring places."""
        start, size = (torch.from_numpy(a[first:last]).to(self.device) for a in (self._start, self._size))
        lines = size[:, :-1].prod(1)
        owner = torch.repeat_interleave(
            torch.arange(last - first, device=self.device),
            lines,
            output_size=int(self._size[first:last, :-1].prod(1).sum()),
        )
        rank = torch.arange(len(owner), device=self.device) - (lines.cumsum(0) - lines)[owner]
        place, stride = start[owner, -1], self.shape[-1]
        for axis in range(len(self.shape) - 2, -1, -1):
            place = place + (start[owner, axis] + rank % size[owner, axis]) * stride
            rank, stride = rank // size[owner, axis], stride * self.shape[axis]
        length = size[owner, -1]
        logits = torch.cat([c.logits.ravel() for c in self.candidates[first:last]]).to(self.device).float()
        run = place - (length.cumsum(0) - length)
        places = torch.repeat_interleave(run, length, output_size=len(logits)).add_(
            torch.arange(len(logits), device=self.device)
        )
        numbers = torch.repeat_interleave(owner.int() + first, length, output_size=len(logits))
        return Part(first, numbers, places, logits.clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT))


def by_score(instances: Instances, shape: torch.Size, is_thing: Sequence[bool]) -> list[Candidate]:
    """Return the instances by falling score, equal scores in their order; checks that they fit logits (K, *S).

    Raises ModelError: FUSION-CLASSES, FUSION-BOX.
    """
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
        found.append(Candidate(channel, score, box, mask))
    return sorted(found, key=lambda c: -c.score)  # stable: equal scores keep their order


def host_masks(candidates: Sequence[Candidate]) -> list[NDArray[np.bool_]]:
    """Return each mask (logit > 0) in its box's shape, by one copy from the device."""
    if not candidates:
        return []
    flat = (torch.cat([c.logits.ravel() for c in candidates]) > 0).cpu().numpy()
    parts = np.split(flat, np.cumsum([c.logits.numel() for c in candidates])[:-1])
    return [part.reshape(tuple(c.logits.shape)) for part, c in zip(parts, candidates, strict=True)]


def first_of_masks(crops: Crops) -> Tensor:
    """Return (prod S,) int32, the first candidate whose mask holds the pixel, len(crops) where none does."""
    first = torch.full((int(np.prod(crops.shape)),), len(crops), dtype=torch.int32, device=crops.device)
    for part in crops.parts():
        mask = (part.logits > 0).nonzero()[:, 0]
        first.scatter_reduce_(0, part.places[mask], part.numbers[mask], "amin")
    return first


def overlap_reasons(crops: Crops, threshold: float) -> list[Reason | None]:
    """Return why each candidate is dropped: ``empty`` mask, ``overlap``, or None.

    overlap : more than ``threshold`` of the mask lies in masks of better ones that stay. Only candidates that share a
    pixel with another need to be gone through one by one; a dense head makes none of them.
    """
    n = len(crops)
    sizes = torch.zeros(n, dtype=torch.int64, device=crops.device)
    shared = torch.zeros(n, dtype=torch.bool, device=crops.device)
    first = first_of_masks(crops)
    for part in crops.parts():
        mask = (part.logits > 0).nonzero()[:, 0]
        numbers = part.numbers[mask].long()
        sizes += torch.bincount(numbers, minlength=n)
        winners = first[part.places[mask]].long()
        doubly = (winners != numbers).nonzero()[:, 0]
        shared[numbers[doubly]] = True
        shared[winners[doubly]] = True
    reasons: list[Reason | None] = ["empty" if size == 0 else None for size in sizes.tolist()]
    contested = shared.nonzero()[:, 0].tolist()
    if contested:
        occupied = np.zeros(crops.shape, bool)
        members = [crops.candidates[i] for i in contested]
        for i, candidate, inside in zip(contested, members, host_masks(members), strict=True):
            crop = occupied[tuple(slice(a, b) for a, b in candidate.box)]
            if int((inside & crop).sum()) / int(inside.sum()) > threshold:
                reasons[i] = "overlap"
            else:
                crop |= inside
    return reasons
