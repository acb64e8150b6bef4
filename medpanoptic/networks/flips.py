"""Test-time flips: a dense network's maps averaged over mirrored copies of its input."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

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
        """(B, C, *S) -> NetOutput; ``features`` are those of the input as it is."""
        plain = self.network(x)
        semantic, raw = plain.semantic_logits, plain.raw
        for axes in self.mirrorings[1:]:
            where = [2 + a for a in axes]
            out = self.network(x.flip(where))
            semantic = semantic + out.semantic_logits.flip(where)
            raw = raw + self.instance_head.mirror(out.raw, axes)
        count = len(self.mirrorings)
        return NetOutput(torch.div(semantic, count), torch.div(raw, count), plain.features)
