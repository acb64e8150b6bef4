"""Test-time flips: a dense network's maps averaged over mirrored copies of its input."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from medpanoptic.networks.losses import thing_log_odds
from medpanoptic.networks.net import NetOutput


class FlipAverage(nn.Module):
    """A network whose maps are the mean over every mirroring along ``axes``.

    network : dense (its head has ``mirror``): boxes and masks of a proposal head cannot be averaged.
    axes : spatial axes that may be mirrored, 0 = the first. With two axes a pass costs four.
    """

    def __init__(self, network: Any, axes: tuple[int, ...]) -> None:
        super().__init__()
        if not network.instance_head.is_dense:
            raise ValueError("test-time flips need a dense instance head")
        self.network = network
        self.divisor, self.instance_head = network.divisor, network.instance_head
        self.mirrorings = [chosen for n in range(len(axes) + 1) for chosen in combinations(axes, n)]

    def forward(self, x: Tensor) -> NetOutput:
        """(B, C, *S) -> NetOutput; ``features`` are those of the input as it is.

        ``spread`` is twice the standard deviation, over the passes, of the probability of a thing: 0 where they
        agree, 1 where half are sure of a thing and half of none.
        """
        plain = self.network(x)
        semantic, raw = plain.semantic_logits, plain.raw
        things = [self._probability(semantic)]
        for axes in self.mirrorings[1:]:
            where = [2 + a for a in axes]
            out = self.network(x.flip(where))
            turned = out.semantic_logits.flip(where)
            semantic = semantic + turned
            things.append(self._probability(turned))
            raw = raw + self.instance_head.mirror(out.raw, axes)
        count = len(self.mirrorings)
        spread = 2 * torch.stack(things).std(0, correction=0)
        return NetOutput(semantic / count, raw / count, plain.features, spread)

    def _probability(self, logits: Tensor) -> Tensor:
        return thing_log_odds(logits.float(), self.instance_head.thing_channels, 1).sigmoid()
