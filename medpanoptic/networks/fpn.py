"""Feature pyramids: EfficientPS' two-way FPN and the plain top-down FPN of the baseline."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medpanoptic.networks.layers import Norm, norm_layer, separable_conv


class TwoWayFPN(nn.Module):
    """Two-way feature pyramid: a top-down and a bottom-up branch in parallel, summed.

    in_channels : channels of each backbone level, finest first.
    out_channels : 256 in the paper; fewer on a CPU.
    two_way : False leaves out the bottom-up branch: the plain FPN of Lin et al. 2017, for ablation and baseline.
    Returns one (B, out_channels, *S_level) map per level, finest first.
    Source: Mohan and Valada, IJCV 2021, section 3.2; separable output convolutions as there.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: Sequence[int],
        out_channels: int = 256,
        norm: Norm = "batch",
        two_way: bool = True,
    ) -> None:
        super().__init__()
        self.top_down = nn.ModuleList(_lateral(spatial_dims, c, out_channels, norm) for c in in_channels)
        self.bottom_up = nn.ModuleList(_lateral(spatial_dims, c, out_channels, norm) for c in in_channels if two_way)
        self.output = nn.ModuleList(separable_conv(spatial_dims, out_channels, out_channels, norm) for _ in in_channels)
        self.out_channels = out_channels

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map per backbone level in, one per level out."""
        # sums in place: no layer before them needs its own output to learn
        down = [lateral(x) for lateral, x in zip(self.top_down, maps, strict=True)]
        for i in range(len(down) - 2, -1, -1):
            down[i].add_(_nearest(down[i + 1], down[i]))
        if len(self.bottom_up):
            up = [lateral(x) for lateral, x in zip(self.bottom_up, maps, strict=True)]
            for i in range(1, len(up)):
                up[i].add_(_nearest(up[i - 1], up[i]))
            down = [a.add_(b) for a, b in zip(down, up, strict=True)]
        return [conv(x) for conv, x in zip(self.output, down, strict=True)]


def _lateral(spatial_dims: int, in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    conv = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, 1, bias=False)
    return nn.Sequential(conv, norm_layer(spatial_dims, out_channels, norm))


def _nearest(x: Tensor, like: Tensor) -> Tensor:
    return nn.functional.interpolate(x, size=like.shape[2:], mode="nearest")
