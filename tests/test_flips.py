"""Passes over mirrored images: their mean, and how much they disagree."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medpanoptic import Segmenter, read_result, segment_file
from medpanoptic.bundle import Bundle
from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.errors import ModelError
from medpanoptic.geometry import spatial_affine
from medpanoptic.networks.centre_head import CentreHead, centre_targets
from medpanoptic.networks.flips import FlipAverage
from medpanoptic.networks.net import NetOutput
from medpanoptic.refusion import fuse_case
from medpanoptic.volume import ChannelSpec

CODE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
BUNDLE = Bundle(
    folder=Path("nowhere"),
    name="lopsided",
    version="1",
    description="",
    classes=ClassTable(
        (
            ClassInfo(4, "tissue", False, (90, 90, 200), CODE, CODE),
            ClassInfo(7, "lesion", True, (220, 60, 40), CODE, CODE),
        )
    ),
    channels=(ChannelSpec("image"),),
    spacing_mm=None,
    preprocessing=({"_target_": "NormalizeChannelsd", "rules": [{"window": [0, 100]}]},),
    window=(64, 64),
    overlap=0.25,
    network_def={"_target_": "x", "spatial_dims": 2, "in_channels": 1},
    flips=(1,),
)


@pytest.mark.parametrize("dims", [2, 3])
def test_flips_average_maps_that_point_the_right_way(dims):
    """A network that knows the answer gives it whichever way its input is turned, so the mean is the answer too."""
    ids = torch.zeros(1, *(16,) * dims, dtype=torch.int64)
    ids[(0, slice(2, 7), *(slice(3, 8),) * (dims - 1))] = 1  # odd: one voxel is the centre
    head = CentreHead(dims, 4, (1,), 4)

    class Oracle(torch.nn.Module):
        divisor, instance_head = 1, head

        def forward(self, x):
            instances = x[:, 0].round().long()
            heat, offsets = centre_targets(instances)
            return NetOutput(torch.cat([1 - x, x], 1), torch.cat([heat[:, None], offsets / head.offset_scale], 1), [])

    network = Oracle()
    image = ids[:, None].float()
    plain, averaged = network(image), FlipAverage(network, tuple(range(dims)))(image)
    torch.testing.assert_close(averaged.semantic_logits, plain.semantic_logits)
    torch.testing.assert_close(averaged.raw[:, 1:], plain.raw[:, 1:], rtol=0, atol=1e-6)
    assert averaged.raw[:, 0].max() == 1
    assert averaged.spread.max() < 1e-6


class Lopsided(torch.nn.Module):
    """Sure of what lies in the left half of its input, of nothing else; so mirrored passes disagree on one lesion."""

    def __init__(self):
        super().__init__()
        self.divisor = 8
        self.instance_head = CentreHead(2, 4, (1,), 4, min_size=1, peak_threshold=0.1)

    def forward(self, x):
        heat, offsets = centre_targets((x[:, 0] > 0.5).long())
        logits = 20 * (x[:, :1] - 0.5)
        faint = logits.clone()
        faint[..., x.shape[-1] // 2 :] *= 0.02
        raw = torch.cat((torch.logit(heat.clamp(1e-4, 1 - 1e-4))[:, None], offsets / 16), 1)
        return NetOutput(torch.cat((-faint, faint), 1), raw, [x])


def test_flips_give_uncertainty_which_files_and_re_fusion_keep(tmp_path):
    array = np.zeros((1, 16, 16), np.uint8)
    array[0, 4:9, 4:9] = 100
    plain = Segmenter(BUNDLE, Lopsided(), flips=False)((array, spatial_affine((0.5, 0.5))))
    assert [s.uncertainty for s in plain.segments] == [None, None]
    assert plain.provenance.parameters["flips"] == []
    Image.fromarray(array[0]).save(tmp_path / "cells.png")
    result = segment_file(
        tmp_path / "cells.png", Segmenter(BUNDLE, Lopsided()), tmp_path / "out", keep_prediction=True, pixel_size_um=500
    )
    assert result.provenance.parameters["flips"] == [1]
    lesion, tissue = result.segments
    assert 0.3 < lesion.uncertainty < 0.5  # sure, 1 - 5e-9, in one pass, about .69 in the other
    assert tissue.uncertainty is None
    assert read_result(tmp_path / "out").segments == result.segments
    assert fuse_case(tmp_path / "out", tmp_path / "again").segments == result.segments


def test_flips_are_refused_for_proposals():
    network = Lopsided()
    network.instance_head.is_dense = False
    with pytest.raises(ModelError, match="FLIPS"):
        Segmenter(BUNDLE, network, flips=True)
