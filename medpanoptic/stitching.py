"""Instances that a proposal head found window by window, made one list for the image: on the CPU, mask by mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medpanoptic.networks.outputs import Instances

# two masks are one thing above this intersection over union (or over the part that a window border left)
_SAME = 0.5
# mask logit inside a joined box where no piece looked
_NOWHERE = -12.0


@dataclass(frozen=True, eq=False)
class Piece:
    """An instance as one window saw it, in image coordinates. ``cut``: it touches a border inside the image."""

    window: int
    start: tuple[int, ...]
    label: int
    score: float
    logits: Tensor
    cut: bool

    @property
    def stop(self) -> tuple[int, ...]:
        """Where its box ends."""
        return tuple(a + n for a, n in zip(self.start, self.logits.shape, strict=True))

    def mask(self, start: Sequence[int], stop: Sequence[int]) -> Tensor:
        """Return the part of the mask in a box inside this one."""
        return self.logits[tuple(slice(a - s, b - s) for a, b, s in zip(start, stop, self.start, strict=True))] > 0


def window_pieces(
    found: Instances,
    number: int,
    corner: Sequence[int],
    window: Sequence[int],
    shape: Sequence[int],
) -> list[Piece]:
    """Move instances of a window into the image, on the CPU; what lies in the padding alone is left out."""
    pieces = []
    axes = len(shape)
    found = found.to("cpu")
    rows = zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), found.mask_logits, strict=True)
    for box, label, score, logits in rows:
        start = tuple(a + c for a, c in zip(box[:axes], corner, strict=True))
        stop = tuple(min(b + c, n) for b, c, n in zip(box[axes:], corner, shape, strict=True))
        if any(b <= a for a, b in zip(start, stop, strict=True)):
            continue
        at_border = zip(box[:axes], box[axes:], corner, window, shape, strict=True)
        cut = any((a <= 0 < c) or (b >= w and c + w < n) for a, b, c, w, n in at_border)
        inner = logits[tuple(slice(0, b - a) for a, b in zip(start, stop, strict=True))]
        pieces.append(Piece(number, start, label, score, inner, cut))
    return pieces


def merge_pieces(pieces: list[Piece], corners: Sequence[Sequence[int]], window: Sequence[int]) -> Instances:
    """Make one list of instances, on the CPU, out of what all windows saw.

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
    return _instances(whole + joined, len(window))


def _earlier_neighbours(pieces: list[Piece]) -> list[list[int]]:
    """Return, for each piece, the earlier ones that may be the same thing: boxes meet, one class, another window."""
    starts, stops = np.array([p.start for p in pieces]), np.array([p.stop for p in pieces])
    windows, labels = np.array([p.window for p in pieces]), np.array([p.label for p in pieces])
    found = []
    for i in range(len(pieces)):
        meets = ((starts[:i] < stops[i]) & (stops[:i] > starts[i])).all(1)
        found.append(np.flatnonzero(meets & (windows[:i] != windows[i]) & (labels[:i] == labels[i])).tolist())
    return found


def _common(a: Piece, b: Piece) -> tuple[int, int, int]:
    """Return intersection and both sizes in voxels of two masks whose boxes meet."""
    start = [max(p, q) for p, q in zip(a.start, b.start, strict=True)]
    stop = [min(p, q) for p, q in zip(a.stop, b.stop, strict=True)]
    both = a.mask(start, stop) & b.mask(start, stop)
    return int(both.sum()), int((a.logits > 0).sum()), int((b.logits > 0).sum())


def _is_double(piece: Piece, better: Piece) -> bool:
    both, own, other = _common(piece, better)
    if piece.cut and not better.cut and both > _SAME * own:
        return True
    return both > _SAME * (own + other - both)


def _groups(pieces: list[Piece], corners: Sequence[Sequence[int]], window: Sequence[int]) -> list[list[Piece]]:
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
    groups: dict[int, list[Piece]] = {}
    for i, piece in enumerate(pieces):
        groups.setdefault(find(i), []).append(piece)
    return list(groups.values())


def _agree(a: Piece, b: Piece, corners: Sequence[Sequence[int]], window: Sequence[int]) -> bool:
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


def _join(group: list[Piece]) -> Piece:
    """Return one piece with the largest logit of all; the best piece's class and score."""
    if len(group) == 1:
        return group[0]
    start = tuple(min(p.start[axis] for p in group) for axis in range(len(group[0].start)))
    stop = [max(p.stop[axis] for p in group) for axis in range(len(start))]
    logits = torch.full([b - a for a, b in zip(start, stop, strict=True)], _NOWHERE)
    for piece in group:
        crop = logits[tuple(slice(a - s, b - s) for a, b, s in zip(piece.start, piece.stop, start, strict=True))]
        torch.maximum(crop, piece.logits.float(), out=crop)
    best = max(group, key=lambda p: p.score)
    return Piece(best.window, start, best.label, best.score, logits, cut=False)


def _instances(pieces: list[Piece], axes: int) -> Instances:
    if not pieces:
        return Instances.empty(axes)
    return Instances(
        torch.tensor([[*p.start, *p.stop] for p in pieces]),
        torch.tensor([p.label for p in pieces]),
        torch.tensor([p.score for p in pieces], dtype=torch.float32),
        tuple(p.logits.float() for p in pieces),
    )
