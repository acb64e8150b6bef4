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
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from medpanoptic.errors import ModelError
from medpanoptic.memory import kept_memory
from medpanoptic.networks.outputs import Instances, Prediction
from medpanoptic.stages import Stages
from medpanoptic.stitching import Piece, merge_pieces, window_pieces

Progress = Callable[[float], None]
Item = TypeVar("Item")
Result = TypeVar("Result")
# Part of a window's side; as in nnU-Net (Isensee et al. 2021, online methods)
_SIGMA = 0.125


class PanopticNetwork(Protocol):
    """What ``networks.net`` gives: (B, C, *S) -> semantic_logits, raw, features; sizes are multiples of ``divisor``."""

    divisor: Any
    instance_head: Any

    def __call__(self, x: Tensor) -> Any:
        """Return a NetOutput."""


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
    device : where windows run (default: where the image is). Blending and decoding stay on the image's device: with
        both on a GPU no map of a window leaves it.
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
    weights = _Weights.of(padded, corners, window) if len(corners) > 1 else None
    semantic, dense, spreads = (_Blend(padded.shape[1:], weights) for _ in range(3))
    pieces: list[Piece] = []
    groups = [corners[first : first + batch] for first in range(0, len(corners), batch)]
    target = torch.device(device or image.device)

    def run(group: Sequence[Sequence[int]]) -> _Output:
        return _run(network, torch.stack([padded[_cut(corner, window)] for corner in group]), target, amp)

    # a window per thread keeps threads busier than threads within a window; proposal heads are not made for that
    threads = torch.get_num_threads() if target.type == "cpu" and network.instance_head.is_dense else 1
    done = 0
    with stages("network"), kept_memory():
        for group, (logits, raw, instances, spread) in zip(groups, in_threads(run, groups, threads), strict=True):
            for i, corner in enumerate(group):
                semantic.add(logits[i], corner)
                if spread is not None:
                    spreads.add(spread[i][None], corner)
                if raw is not None:
                    dense.add(raw[i], corner)
                else:
                    pieces += window_pieces(instances[i], done + i, corner, window, shape)
            done += len(group)
            if progress is not None:
                progress(done / len(corners))
    inside = _cut((0,) * len(shape), shape)
    with stages("decode"):
        blended = semantic.mean()[inside]
        if network.instance_head.is_dense:
            found = network.instance_head.instances(dense.mean()[inside][None], None, blended[None])[0]
        else:
            found = merge_pieces(pieces, corners, window).to(image.device)
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


class _Weights(NamedTuple):
    """What each voxel of a window counts (*window), and the sum over all windows (*S), on the image's device."""

    window: Tensor
    total: Tensor

    @classmethod
    def of(cls, image: Tensor, corners: Sequence[Sequence[int]], window: Sequence[int]) -> _Weights:
        weight = gaussian_weight(window).to(image.device)
        total = torch.zeros(image.shape[1:], device=image.device)
        for corner in corners:
            total[_cut(corner, window)[1:]] += weight
        return cls(weight, total)


class _Blend:
    """A weighted mean of windows, one float32 map per channel. weights : None where one window is the whole image."""

    def __init__(self, shape: Sequence[int], weights: _Weights | None) -> None:
        self.shape, self.weights = tuple(shape), weights
        self.total: Tensor | None = None

    def add(self, values: Tensor, corner: Sequence[int]) -> None:
        if self.weights is None:  # no rounding by a product and a quotient
            self.total = values.float()
            return
        if self.total is None:
            self.total = torch.zeros((len(values), *self.shape), device=values.device)
        weight = self.weights.window
        self.total[_cut(corner, weight.shape)] += values.float() * weight

    def mean(self) -> Tensor:
        if self.total is None:
            raise ModelError("TILING", "no window was run")
        return self.total if self.weights is None else self.total.div_(self.weights.total)


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
