"""Convolution blocks in 2D and 3D, chosen by ``spatial_dims``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Norm = Literal["batch", "group"]
LEAKY_SLOPE = 0.01  # EfficientPS section 4.1: leaky ReLU after every norm


def norm_layer(spatial_dims: int, channels: int, norm: Norm) -> nn.Module:
    """Return BatchNorm, or GroupNorm of 8-channel groups for the batches of 1 to 4 that 3D allows."""
    if norm == "batch":
        return (nn.BatchNorm2d if spatial_dims == 2 else nn.BatchNorm3d)(channels)
    groups = max(g for g in (8, 4, 2, 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def separable_conv(
    spatial_dims: int, in_channels: int, out_channels: int, norm: Norm, dilation: int | tuple[int, ...] = 1
) -> nn.Sequential:
    """Return depthwise 3^D, pointwise, norm and leaky ReLU: the "sep" block of EfficientPS.

    dilation : one for all axes, or one per axis; the map keeps its size.
    """
    depthwise = Conv[Conv.CONV, spatial_dims](
        in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
    )
    pointwise = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, 1, bias=False)
    return nn.Sequential(
        depthwise, pointwise, norm_layer(spatial_dims, out_channels, norm), nn.LeakyReLU(LEAKY_SLOPE, inplace=True)
    )


def add_resized(x: Tensor, coarse: Tensor) -> Tensor:
    """Return x + ``coarse`` resampled to its shape, written over the resampled copy: maps of the finest level are
    large, and taking new memory for them costs a CPU more than the sum.
    """
    resized = resize_to(coarse, x.shape[2:])
    return x + coarse if resized is coarse else resized.add_(x)


def resize_to(x: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Resample (B, C, *S) linearly to the spatial ``shape`` (voxel edges aligned, as strides shrink them)."""
    if x.shape[2:] == torch.Size(shape):
        return x
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return nn.functional.interpolate(x, size=tuple(shape), mode=mode, align_corners=False)


def speed_up_one_thread(network: nn.Module) -> None:
    """Mark 2D 1 x 1 convolutions as dilated, which changes nothing about them but the kernel that torch 2.13 takes.

    On one CPU thread it sends plain ones to a slow kernel and strided or dilated ones to oneDNN (``use_mkldnn`` in
    ATen/native/Convolution.cpp): a training step of ``nuclei`` takes 18 % less. Sums are added in another order.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            module.dilation = (2, 2)


class NoInitialValues(TorchFunctionMode):
    """Within the ``with``, ``nn.init`` leaves tensors as they are: for a network whose shapes alone are wanted.

    Random values of tensors without memory ("meta") would make torch import its compiler: 2 CPU-s and 70 MiB.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return what ``func`` returns, or for a function of ``nn.init`` its tensor."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
