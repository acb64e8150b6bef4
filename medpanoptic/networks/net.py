"""The panoptic networks: parts passed in, one output type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medpanoptic.networks.backbone import EfficientNetLite
from medpanoptic.networks.fcn import FCN
from medpanoptic.networks.losses import foreground_loss, semantic_loss
from medpanoptic.networks.outputs import Prediction, Targets


@dataclass(frozen=True, eq=False)
class NetOutput:
    """semantic_logits (B, K, *S); raw: whatever the instance head made; features: its pyramid, finest first.

    spread : (B, *S) in [0, 1], how much mirrored passes disagree on what is a thing; None where there was one pass.
    """

    semantic_logits: Tensor
    raw: Any
    features: list[Tensor]
    spread: Tensor | None = None


class PanopticNet(nn.Module):
    """Backbone -> neck -> semantic head and instance head. See ``build`` for the named combinations.

    divisor : spatial sizes must be multiples of this (the coarsest stride); the callers pad.
    foreground_weight : of ``foreground_loss`` in training; 0 leaves it out.
    """

    def __init__(
        self,
        backbone: EfficientNetLite,
        neck: nn.Module,
        semantic_head: nn.Module,
        instance_head: nn.Module,
        foreground_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.foreground_weight = foreground_weight
        self.backbone, self.neck = backbone, neck
        self.semantic_head, self.instance_head = semantic_head, instance_head
        self.divisor = backbone.strides[-1]

    def forward(self, x: Tensor) -> NetOutput:
        """(B, C, *S) -> NetOutput."""
        shape = tuple(x.shape[2:])
        features = self.neck(self.backbone(x))
        return NetOutput(self.semantic_head(features, shape), self.instance_head(features, shape), features)

    def loss(self, x: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the named losses of a batch; their plain sum is trained (EfficientPS equation 3)."""
        return _losses(self(x), targets, self.instance_head, self.foreground_weight)

    @torch.no_grad()
    def predict(self, x: Tensor) -> list[Prediction]:
        """(B, C, *S) -> one Prediction per image, without tiling."""
        return _predictions(self(x), self.instance_head)


class TwoNetworks(nn.Module):
    """The older pair: a semantic network and an instance network that share nothing.

    semantic_net : (B, C, *S) -> (B, K, *S) logits. The instance network is backbone -> neck -> instance_head.
    """

    def __init__(
        self, semantic_net: FCN, backbone: EfficientNetLite, neck: nn.Module, instance_head: nn.Module
    ) -> None:
        super().__init__()
        self.semantic_net = semantic_net
        self.backbone, self.neck, self.instance_head = backbone, neck, instance_head
        self.divisor = max(backbone.strides[-1], semantic_net.backbone.strides[-1])

    def forward(self, x: Tensor) -> NetOutput:
        """(B, C, *S) -> NetOutput."""
        features = self.neck(self.backbone(x))
        return NetOutput(self.semantic_net(x), self.instance_head(features, tuple(x.shape[2:])), features)

    def loss(self, x: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the named losses of a batch."""
        return _losses(self(x), targets, self.instance_head)

    @torch.no_grad()
    def predict(self, x: Tensor) -> list[Prediction]:
        """(B, C, *S) -> one Prediction per image, without tiling."""
        return _predictions(self(x), self.instance_head)


def _losses(out: NetOutput, targets: Targets, instance_head: Any, foreground_weight: float = 0.0) -> dict[str, Tensor]:
    losses = {"semantic": semantic_loss(out.semantic_logits, targets.semantic)}
    if foreground_weight:
        value = foreground_loss(out.semantic_logits, targets.semantic, instance_head.thing_channels)
        losses["foreground"] = foreground_weight * value
    return losses | instance_head.loss(out.raw, out.features, targets)


def _predictions(out: NetOutput, instance_head: Any) -> list[Prediction]:
    found = instance_head.instances(out.raw, out.features, out.semantic_logits)
    return [Prediction(s.float(), i) for s, i in zip(out.semantic_logits, found, strict=True)]
