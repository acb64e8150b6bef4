"""One image through the network by overlapping windows.

What may be averaged is averaged: semantic logits and, for a dense head, its maps, blended by a gaussian and decoded
once. Instances of proposal heads are found per window and merged; ids are never averaged.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medpanoptic.errors import ModelError
from medpanoptic.networks.outputs import Instances, Prediction
from medpanoptic.stages import Stages

Progress = Callable[[float], None]
Item = TypeVar("Item")
Result = TypeVar("Result")
# Part of a window's side; as in nnU-Net (Isensee et al. 2021, online methods)
_SIGMA = 0.125
# two masks are one thing above this intersection over union (or over the part that a window border left)
_SAME = 0.5
# mask logit inside a joined box where no piece looked
_NOWHERE = -12.0


class PanopticNetwork(Protocol):
    """What ``networks.net`` gives: (B, C, *S) -> semantic_logits, raw, features; sizes are multiples of ``divisor``."""

    divisor: Any
    instance_head: Any

    def __call__(self, x: Tensor) -> Any:
        """Return a NetOutput."""


@dataclass(frozen=True, eq=False)
class _Piece:
    """An instance as one window saw it, in image coordinates. ``cut``: it touches a border inside the image."""

    window: int
    start: tuple[int, ...]
    label: int
    score: float
    logits: Tensor
    cut: bool

    @property
    def stop(self) -> tuple[int, ...]:
        return tuple(a + n for a, n in zip(self.start, self.logits.shape, strict=True))

    def mask(self, start: Sequence[int], stop: Sequence[int]) -> Tensor:
        """Return the part of the mask in a box inside this one."""
        return self.logits[tuple(slice(a - s, b - s) for a, b, s in zip(start, stop, self.start, strict=True))] > 0


class _Output(NamedTuple):
    """What one pass over some windows gave: dense maps, or instances of a proposal head."""

    logits: Tensor
    raw: Tensor | None
    instances: list[Instances]
    spread: Tensor | None


@torch.no_grad()
def predict_image(
    network: PanopticNetwork,
    image: Tensor,
    window: Sequence[int],
    overlap: float = 0.25,
    *,
    device: torch.device | str | None = None,
    amp: bool = False,
    batch: int = 1,
    progress: Progress | None = None,
    stages: Stages | None = None,
) -> Prediction:
    """Run ``network`` over an image of any size.

    image : (C, *S) float on the network's grid.
    window : largest, in voxels per spatial axis; rounded up to the network's divisor. Smaller where that many windows
        cover the image too.
    overlap : part of that window shared with the next one at least, 0 to below 1. Things of a proposal head that fit
        into the overlap come out as if there were no windows; larger ones are joined from their pieces.
    device : where windows run (default: where the image is). Blending and decoding stay on the image's device.
    amp : bfloat16 autocast.
    batch : windows per forward pass.
    progress : called with the part done, (0, 1]; an exception it raises ends the run and reaches the caller.
    stages : takes the seconds of "network" (and blending) and "decode".
    Returns semantic logits (K, *S) float32 and instances, both on the image's device. An image that fits into one
    window is not blended. Zeros at the far ends fill up windows, as in training.
    """
    stages = stages or Stages()
    shape = tuple(image.shape[1:])
    shared = shared_voxels(window, overlap)
    window = fit_window(shape, window, network.divisor, shared)
    padded = _pad(image, window)
    axes = zip(padded.shape[1:], window, shared, strict=True)
    corners = list(itertools.product(*(window_starts(n, w, s) for n, w, s in axes)))
    semantic, dense, spreads = (_Blend(padded.shape[1:], window) for _ in range(3))
    pieces: list[_Piece] = []
    groups = [corners[first : first + batch] for first in range(0, len(corners), batch)]
    target = torch.device(device or image.device)

    def run(group: Sequence[Sequence[int]]) -> _Output:
        return _run(network, torch.stack([padded[_cut(corner, window)] for corner in group]), target, amp)

    # a window per thread keeps threads busier than threads within a window; proposal heads are not made for that
    threads = torch.get_num_threads() if target.type == "cpu" and network.instance_head.is_dense else 1
    done = 0
    with stages("network"):
        for group, (logits, raw, instances, spread) in zip(groups, in_threads(run, groups, threads), strict=True):
            for i, corner in enumerate(group):
                semantic.add(logits[i], corner)
                if spread is not None:
                    spreads.add(spread[i][None], corner)
                if raw is not None:
                    dense.add(raw[i], corner)
                else:
                    pieces += _pieces(instances[i], done + i, corner, window, shape, image.device)
            done += len(group)
            if progress is not None:
                progress(done / len(corners))
    inside = _cut((0,) * len(shape), shape)
    with stages("decode"):
        blended = semantic.mean()[inside]
        if network.instance_head.is_dense:
            found = network.instance_head.instances(dense.mean()[inside][None], None, blended[None])[0]
        else:
            found = _merge(pieces, corners, window, image.device)
    return Prediction(blended, found, spreads.mean()[inside][0] if spreads.total is not None else None)


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    """Yield ``work(item)`` in the order of ``items``, each item on one of torch's threads.

    At most twice as many results wait as there are threads. An error, or an end of the iteration, stops the rest.
    """
    if threads == 1 or len(items) == 1:
        yield from map(work, items)
        return

    def alone(item: Item) -> Result:
        with torch.no_grad():  # is set per thread
            return work(item)

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(alone, item))
            if len(waiting) == 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)  # part of the setting is the process's


def shared_voxels(window: Sequence[int], overlap: float) -> tuple[int, ...]:
    """Return how many voxels per axis neighbouring windows share at least."""
    if not 0 <= overlap < 1:
        raise ModelError("TILING", f"overlap must be at least 0 and below 1, got {overlap}")
    return tuple(min(math.ceil(overlap * n), n - 1) for n in window)


def fit_window(
    shape: Sequence[int], window: Sequence[int], divisor: int | Sequence[int], shared: Sequence[int]
) -> tuple[int, ...]:
    """Return the window to use: multiples of ``divisor``, the smallest of which the same number covers the image.

    Windows of a fixed size would go over much of an image twice: 1,024 pixels by three windows of 512.
    Raises ModelError (TILING) if the axes do not fit or the window is not positive.
    """
    divisors = (divisor,) * len(shape) if isinstance(divisor, int) else tuple(divisor)
    if not len(shape) == len(window) == len(divisors) == len(shared) or min(window) < 1:
        raise ModelError(
            "TILING", f"window {tuple(window)} and divisor {divisors} do not fit an image of {tuple(shape)}"
        )
    fitted = []
    for n, most, d, s in zip(shape, window, divisors, shared, strict=True):
        count = _count(n, most, s)
        fitted.append(min(math.ceil((n + (count - 1) * s) / count / d) * d, math.ceil(most / d) * d))
    return tuple(fitted)


def window_starts(size: int, window: int, shared: int) -> list[int]:
    """Return where windows start along one axis: evenly, the fewest that share at least ``shared`` voxels."""
    count = _count(size, window, shared)
    return [i * (size - window) // max(1, count - 1) for i in range(count)]


def _count(size: int, window: int, shared: int) -> int:
    return math.ceil(max(0, size - window) / max(1, window - shared)) + 1


class _Blend:
    """A weighted mean of windows, one float32 map per channel."""

    def __init__(self, shape: Sequence[int], window: Sequence[int]) -> None:
        self.shape, self.window = tuple(shape), tuple(window)
        self.weight = gaussian_weight(self.window)
        self.total: Tensor | None = None
        self.weights = torch.zeros(self.shape)

    def add(self, values: Tensor, corner: Sequence[int]) -> None:
        if self.shape == self.window:  # a single window: no rounding by a product and a quotient
            self.total = values.float()
            return
        if self.total is None:
            self.weight, self.weights = self.weight.to(values.device), self.weights.to(values.device)
            self.total = torch.zeros((len(values), *self.shape), device=values.device)
        where = _cut(corner, self.window)
        self.total[where] += values.float() * self.weight
        self.weights[where[1:]] += self.weight

    def mean(self) -> Tensor:
        if self.total is None:
            raise ModelError("TILING", "no window was run")
        return self.total if self.shape == self.window else self.total.div_(self.weights)


def gaussian_weight(window: Sequence[int]) -> Tensor:
    """Return (*window) float32, 1 in the middle, never below 1e-3 so that image corners keep their value."""
    weight = torch.ones(tuple(window))
    for axis, n in enumerate(window):
        x = (torch.arange(n) - (n - 1) / 2) / (n * _SIGMA)
        weight = weight * torch.exp(-0.5 * x.square()).reshape(-1, *(1,) * (len(window) - 1 - axis))
    return weight.clamp_(min=1e-3)


def _run(network: PanopticNetwork, x: Tensor, device: torch.device | str, amp: bool) -> _Output:
    """Return semantic logits and dense maps on the device of ``x``, or instances of a proposal head."""
    source, device = x.device, torch.device(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=amp):
        x = x.to(device)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        out = network(x)
        logits = out.semantic_logits.float()
        if network.instance_head.is_dense:
            spread = None if out.spread is None else out.spread.to(source)
            return _Output(logits.to(source), out.raw.float().to(source), [], spread)
        return _Output(logits.to(source), None, network.instance_head.instances(out.raw, out.features, logits), None)


def _cut(corner: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """Return the index of a window in a (C, *S) array."""
    return (slice(None), *(slice(a, a + n) for a, n in zip(corner, size, strict=True)))


def _pad(image: Tensor, window: Sequence[int]) -> Tensor:
    """Return ``image`` with zeros at the far ends up to one window where it is smaller than that."""
    missing = [max(0, w - n) for n, w in zip(image.shape[1:], window, strict=True)]
    widths = [width for n in reversed(missing) for width in (0, n)]
    return F.pad(image, widths) if any(missing) else image


def _pieces(
    found: Instances,
    number: int,
    corner: Sequence[int],
    window: Sequence[int],
    shape: Sequence[int],
    device: torch.device,
) -> list[_Piece]:
    """Move instances of a window into the image; what lies in the padding alone is left out."""
    pieces = []
    axes = len(shape)
    rows = zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), found.mask_logits, strict=True)
    for box, label, score, logits in rows:
        start = tuple(a + c for a, c in zip(box[:axes], corner, strict=True))
        stop = tuple(min(b + c, n) for b, c, n in zip(box[axes:], corner, shape, strict=True))
        if any(b <= a for a, b in zip(start, stop, strict=True)):
            continue
        at_border = zip(box[:axes], box[axes:], corner, window, shape, strict=True)
        cut = any((a <= 0 < c) or (b >= w and c + w < n) for a, b, c, w, n in at_border)
        inner = logits[tuple(slice(0, b - a) for a, b in zip(start, stop, strict=True))].to(device)
        pieces.append(_Piece(number, start, label, score, inner, cut))
    return pieces


def _merge(
    pieces: list[_Piece], corners: Sequence[Sequence[int]], window: Sequence[int], device: torch.device
) -> Instances:
    """Make one list of instances out of what all windows saw.

    Whole ones go first, then by score: each removes its doubles from other windows, by mask IoU, or, where the other
    is cut by its window's border, by the part of that piece which it holds. What is left of cut pieces is joined
    where two windows agree about their common ground.
    """
    pieces = sorted(pieces, key=lambda p: (p.cut, -p.score))
    stays: list[bool] = []
    for piece, earlier in zip(pieces, _earlier_neighbours(pieces), strict=True):
        stays.append(not any(stays[j] and _is_double(piece, pieces[j]) for j in earlier))
    kept = [p for p, stay in zip(pieces, stays, strict=True) if stay]
    whole = [p for p in kept if not p.cut]
    joined = [_join(group) for group in _groups([p for p in kept if p.cut], corners, window)]
    return _instances(whole + joined, len(window), device)


def _earlier_neighbours(pieces: list[_Piece]) -> list[list[int]]:
    """Return, for each piece, the earlier ones that may be the same thing: boxes meet, one class, another window."""
    starts, stops = np.array([p.start for p in pieces]), np.array([p.stop for p in pieces])
    windows, labels = np.array([p.window for p in pieces]), np.array([p.label for p in pieces])
    found = []
    for i in range(len(pieces)):
        meets = ((starts[:i] < stops[i]) & (stops[:i] > starts[i])).all(1)
        found.append(np.flatnonzero(meets & (windows[:i] != windows[i]) & (labels[:i] == labels[i])).tolist())
    return found


def _common(a: _Piece, b: _Piece) -> tuple[int, int, int]:
    """Return intersection and both sizes in voxels of two masks whose boxes meet."""
    start = [max(p, q) for p, q in zip(a.start, b.start, strict=True)]
    stop = [min(p, q) for p, q in zip(a.stop, b.stop, strict=True)]
    both = a.mask(start, stop) & b.mask(start, stop)
    return int(both.sum()), int((a.logits > 0).sum()), int((b.logits > 0).sum())


def _is_double(piece: _Piece, better: _Piece) -> bool:
    both, own, other = _common(piece, better)
    if piece.cut and not better.cut and both > _SAME * own:
        return True
    return both > _SAME * (own + other - both)


def _groups(pieces: list[_Piece], corners: Sequence[Sequence[int]], window: Sequence[int]) -> list[list[_Piece]]:
    """Group cut pieces that are one thing, by union-find over pairs that agree in the ground both windows saw."""
    root = list(range(len(pieces)))

    def find(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    for i, earlier in enumerate(_earlier_neighbours(pieces)):
        for j in earlier:
            if _agree(pieces[i], pieces[j], corners, window):
                first, second = sorted((find(i), find(j)))
                root[second] = first
    groups: dict[int, list[_Piece]] = {}
    for i, piece in enumerate(pieces):
        groups.setdefault(find(i), []).append(piece)
    return list(groups.values())


def _agree(a: _Piece, b: _Piece, corners: Sequence[Sequence[int]], window: Sequence[int]) -> bool:
    both, _, _ = _common(a, b)
    if both == 0:
        return False
    low = [max(p, q) for p, q in zip(corners[a.window], corners[b.window], strict=True)]
    high = [min(p, q) + w for p, q, w in zip(corners[a.window], corners[b.window], window, strict=True)]
    seen = []
    for piece in (a, b):
        start = [max(p, q) for p, q in zip(piece.start, low, strict=True)]
        stop = [min(p, q) for p, q in zip(piece.stop, high, strict=True)]
        seen.append(int(piece.mask(start, stop).sum()))
    return both > _SAME * (sum(seen) - both)


def _join(group: list[_Piece]) -> _Piece:
    """Return one piece with the largest logit of all; the best piece's class and score."""
    if len(group) == 1:
        return group[0]
    start = tuple(min(p.start[axis] for p in group) for axis in range(len(group[0].start)))
    stop = [max(p.stop[axis] for p in group) for axis in range(len(start))]
    logits = torch.full([b - a for a, b in zip(start, stop, strict=True)], _NOWHERE, device=group[0].logits.device)
    for piece in group:
        crop = logits[tuple(slice(a - s, b - s) for a, b, s in zip(piece.start, piece.stop, start, strict=True))]
        torch.maximum(crop, piece.logits.float(), out=crop)
    best = max(group, key=lambda p: p.score)
    return _Piece(best.window, start, best.label, best.score, logits, cut=False)


def _instances(pieces: list[_Piece], axes: int, device: torch.device) -> Instances:
    if not pieces:
        return Instances.empty(axes, device)
    return Instances(
        torch.tensor([[*p.start, *p.stop] for p in pieces], device=device),
        torch.tensor([p.label for p in pieces], device=device),
        torch.tensor([p.score for p in pieces], dtype=torch.float32, device=device),
        tuple(p.logits.float() for p in pieces),
    )
