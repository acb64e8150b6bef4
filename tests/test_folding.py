"""Folded networks answer as the trained ones do, in 2D and 3D."""

import pytest
import torch
from torch import nn

from medpanoptic.networks import build
from medpanoptic.segmenter.folding import fold_norms


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("builder", ["efficientps_centres", "efficientps", "fcn_mask_rcnn"])
def test_logits_stay(dims, builder):
    torch.manual_seed(0)
    arguments = {} if builder == "efficientps_centres" else {"anchor_sizes": [4, 8, 16, 32]}
    network = getattr(build, builder)(dims, 1, 3, [2], fpn_channels=8, norm="batch", **arguments)
    for module in network.modules():  # as if trained
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    network.eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    folded = fold_norms(network)
    x = torch.rand(1, 1, *(32,) * dims)
    with torch.no_grad():
        expected, found = network(x), folded(x)
    torch.testing.assert_close(found.semantic_logits, expected.semantic_logits, atol=1e-4, rtol=1e-4)
    if builder == "efficientps_centres":
        torch.testing.assert_close(found.raw, expected.raw, atol=1e-4, rtol=1e-4)
        assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)]
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())


def test_a_network_without_batch_norm_is_taken_as_it_is():
    network = build.efficientps_centres(2, 1, 2, [1], fpn_channels=8, norm="group").eval()
    assert fold_norms(network) is network
