"""Make a trained network cheaper to run, with the same answers to within rounding: for inference only."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CONVS = (nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def fold_norms(network: Any) -> Any:
    """Return a copy whose batch norms are part of the convolutions before them; the network itself if it has none.

    Only a norm that follows its convolution in one ``nn.Sequential`` is folded. Logits move by about 1e-5.
    """
    if not any(isinstance(m, _NORMS) for m in network.modules()):
        return network
    folded = copy.deepcopy(network).eval()
    for sequence in [m for m in folded.modules() if isinstance(m, nn.Sequential)]:
        _fold_sequence(sequence)
    _flatten_sequences(folded)
    return folded


def _flatten_sequences(module: nn.Module) -> None:
    """Make a sequence of sequences one, without the layers that do nothing.

    A call holds its input to its end: a nested sequence keeps the input of its first layer while the others run.
    """
    for name, child in module.named_children():
        _flatten_sequences(child)
        if isinstance(child, nn.Sequential):
            layers = [part for layer in child for part in (layer if isinstance(layer, nn.Sequential) else [layer])]
            setattr(module, name, nn.Sequential(*(layer for layer in layers if not isinstance(layer, nn.Identity))))


def _fold_sequence(sequence: nn.Sequential) -> None:
    for i in range(len(sequence) - 1):
        conv, norm = sequence[i], sequence[i + 1]
        if isinstance(conv, _CONVS) and isinstance(norm, _NORMS):
            fused = fuse_conv_bn_eval(conv, norm)
            sequence[i] = Pointwise(fused) if _is_pointwise(fused) else fused
            sequence[i + 1] = nn.Identity()


def _is_pointwise(conv: nn.Module) -> bool:
    return isinstance(conv, _CONVS) and set(conv.kernel_size) == {1} and conv.groups == 1


class Pointwise(nn.Module):
    """A 1 x 1 convolution by oneDNN also on one thread, where torch takes a slower way of its own."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C', *S / stride)."""
        if x.device.type != "cpu" or x.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
            folded: Tensor = self.conv(x)
            return folded
        c: Any = self.conv
        return torch.mkldnn_convolution(x, c.weight, c.bias, c.padding, c.stride, c.dilation, c.groups)
