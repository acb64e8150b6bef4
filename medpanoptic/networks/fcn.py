"""FCN with skip connections: the semantic half of the older pair.

Source: Long, Shelhamer and Darrell, Fully Convolutional Networks, CVPR 2015 / PAMI 2017, section 4.
"""

from __future__ import annotations

from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medpanoptic.networks.backbone import EfficientNetLite
from medpanoptic.networks.layers import resize_to


class FCN(nn.Module):
    """Score every backbone level by a 1x1 convolution; add coarse scores, up-sampled, to finer ones."""

    def __init__(self, spatial_dims: int, backbone: EfficientNetLite, out_channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.scores = nn.ModuleList(Conv[Conv.CONV, spatial_dims](c, out_channels, 1) for c in backbone.channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, K, *S) logits."""
        maps = [score(m) for score, m in zip(self.scores, self.backbone(x), strict=True)]
        y = maps[-1]
        for finer in reversed(maps[:-1]):
            y = finer + resize_to(y, finer.shape[2:])
        return resize_to(y, x.shape[2:])
