"""EfficientPS' semantic head: LSFE on the fine levels, DPC on the coarse ones, MC between them.

Source: Mohan and Valada, IJCV 2021, section 3.3, figure 4.
"""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medpanoptic.networks.layers import Norm, add_resized, resize_to, separable_conv

# The paper's dilations (1,6) (1,1) (6,21) (18,15) (6,3) suit 2:1 street scenes on maps of 64 x 128. Medical maps are
# smaller and have no preferred axis: isotropic, and clipped to the map by using at most 6.
DPC_DILATIONS = (2, 1, 4, 6, 3)


class LSFE(nn.Sequential):
    """Large scale feature extractor: two separable convolutions on a fine level."""

    def __init__(self, spatial_dims: int, in_channels: int, channels: int, norm: Norm) -> None:
        super().__init__(
            separable_conv(spatial_dims, in_channels, channels, norm),
            separable_conv(spatial_dims, channels, channels, norm),
        )


class DPC(nn.Module):
    """Dense prediction cell: five dilated separable convolutions, x1 x2 x3 branch off x0, x4 off x3; concat, 1x1."""

    def __init__(self, spatial_dims: int, in_channels: int, channels: int, norm: Norm) -> None:
        super().__init__()
        first, *others = DPC_DILATIONS
        self.first = separable_conv(spatial_dims, in_channels, channels, norm, first)
        self.branches = nn.ModuleList(separable_conv(spatial_dims, channels, channels, norm, d) for d in others)
        self.join = Conv[Conv.CONV, spatial_dims](5 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *S) -> (B, channels, *S)."""
        x0 = self.first(x)
        x1, x2, x3 = (branch(x0) for branch in self.branches[:3])
        x4 = self.branches[3](x3)
        joined: Tensor = self.join(torch.cat([x0, x1, x2, x3, x4], 1))
        return joined


class MismatchCorrection(nn.Sequential):
    """MC: two separable convolutions; the caller up-samples linearly to the finer level."""

    def __init__(self, spatial_dims: int, channels: int, norm: Norm) -> None:
        super().__init__(
            separable_conv(spatial_dims, channels, channels, norm),
            separable_conv(spatial_dims, channels, channels, norm),
        )


class SemanticHead(nn.Module):
    """Class logits at the input's resolution from four pyramid levels.

    out_channels : K classes, things and stuff. channels : 128 in the paper.
    plain : True replaces LSFE, DPC and MC by one separable convolution a level (an ablation).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: int = 128,
        norm: Norm = "batch",
        plain: bool = False,
    ) -> None:
        super().__init__()
        if plain:
            self.extract = nn.ModuleList(separable_conv(spatial_dims, in_channels, channels, norm) for _ in range(4))
            self.correct = nn.ModuleList(nn.Identity() for _ in range(2))
        else:
            parts = (LSFE, LSFE, DPC, DPC)
            self.extract = nn.ModuleList(part(spatial_dims, in_channels, channels, norm) for part in parts)
            self.correct = nn.ModuleList(MismatchCorrection(spatial_dims, channels, norm) for _ in range(2))
        self.classify = Conv[Conv.CONV, spatial_dims](4 * channels, out_channels, 1)

    def forward(self, features: list[Tensor], image_shape: tuple[int, ...]) -> Tensor:
        """Four levels, finest first -> (B, K, *image_shape) logits."""
        y0, y1, y2, y3 = (part(x) for part, x in zip(self.extract, features, strict=True))
        sum2 = add_resized(y2, y3)
        y1 = add_resized(y1, self.correct[0](sum2))
        y0 = add_resized(y0, self.correct[1](y1))
        shape = y0.shape[2:]
        # 1x1 then resize equals resize then 1x1; doing it per level keeps the wide concatenation off the fine grid
        weights = self.classify.weight.chunk(4, 1)
        conv = nn.functional.conv2d if y0.ndim == 4 else nn.functional.conv3d
        parts = zip((y0, y1, y2, y3), weights, (self.classify.bias, None, None, None), strict=True)
        logits = torch.stack([resize_to(conv(y, w, b), shape) for y, w, b in parts]).sum(0)
        return resize_to(logits, image_shape)
