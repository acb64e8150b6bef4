"""What goes into and comes out of a network: the contract that every instance head meets.

Letters: B batch, C image channels, K classes in the order of the bundle's class table (channel k), S spatial
shape of the network's input, D = len(S), N instances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Instances:
    """Detected things of one image, in voxels of the network's input grid.

    boxes : (N, 2 D) int64, (start per axis, stop per axis), half-open, inside the image, never empty.
    labels : (N,) int64, the semantic channel k of each thing's class.
    scores : (N,) float32 in [0, 1].
    mask_logits : N tensors, each float32 of exactly its box's shape; > 0 is inside the thing.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    mask_logits: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.scores)

    def to(self, device: torch.device | str) -> Instances:
        """Return them on ``device``; all masks by one copy."""
        if self.scores.device == torch.device(device):
            return self
        masks: tuple[Tensor, ...] = ()
        if self.mask_logits:
            row = torch.cat([m.ravel() for m in self.mask_logits]).to(device)
            parts = row.split([m.numel() for m in self.mask_logits])
            masks = tuple(part.view(m.shape) for part, m in zip(parts, self.mask_logits, strict=True))
        return Instances(self.boxes.to(device), self.labels.to(device), self.scores.to(device), masks)

    @classmethod
    def empty(cls, spatial_dims: int, device: torch.device | str = "cpu") -> Instances:
        """No instance."""
        return cls(
            torch.zeros((0, 2 * spatial_dims), dtype=torch.int64, device=device),
            torch.zeros(0, dtype=torch.int64, device=device),
            torch.zeros(0, device=device),
            (),
        )


def calibrate(scores: Tensor, slope: float, intercept: float) -> Tensor:
    """Return scores (N,) in [0, 1] as probabilities of being right: slope and intercept on their log-odds.

    It keeps the order. Source: Platt, Probabilistic outputs for support vector machines, 1999, equation 1.
    """
    if (slope, intercept) == (1.0, 0.0):
        return scores
    # float64, so that scores of almost 1 stay apart
    return torch.sigmoid(slope * torch.logit(scores.double(), 1e-9) + intercept).to(scores.dtype)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Everything that leaves the networks for one image: (K, *S) float32 semantic logits, and the instances.

    spread : (*S) float32, see ``net.NetOutput``, or None.
    """

    semantic_logits: Tensor
    instances: Instances
    spread: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Targets:
    """Truth of a batch.

    semantic : (B, *S) int64 channel k, -1 where unknown (void).
    instances : (B, *S) int64, 0 = no thing, 1..N = instance; numbers may have gaps (crops cut things away).
    labels : B tensors; labels[b][i] is the channel k of instance i (entry 0 unused), so longer than any id in b.
    """

    semantic: Tensor
    instances: Tensor
    labels: tuple[Tensor, ...]

    def to(self, device: torch.device | str) -> Targets:
        """Return a copy on ``device``."""
        return Targets(self.semantic.to(device), self.instances.to(device), tuple(v.to(device) for v in self.labels))


class InstanceHead(Protocol):
    """Finds things. A head is dense (``maps`` can be blended across windows and decoded once) or not.

    features : one (B, channels, *S_level) tensor per neck level, finest first.
    """

    is_dense: ClassVar[bool]

    def __call__(self, features: list[Tensor], image_shape: tuple[int, ...]) -> Any:
        """Return the raw output; for a dense head one float tensor (B, M, *image_shape) that may be averaged."""

    def loss(self, raw: Any, features: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Return named scalar losses."""

    def instances(self, raw: Any, features: list[Tensor] | None, semantic_logits: Tensor) -> list[Instances]:
        """Decode a batch, one entry per image. ``features`` is None for dense heads; semantic_logits (B, K, *S)."""
