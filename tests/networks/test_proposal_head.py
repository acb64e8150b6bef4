"""The proposal head learns, decodes what the contract promises, and meets its hard cases."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medpanoptic.networks.layers import norm_layer
from medpanoptic.networks.outputs import Instances, Targets
from medpanoptic.networks.proposal_head import ProposalHead, instance_boxes
from medpanoptic.networks.roi_head import assign_levels, crop_masks, integer_boxes, paste_masks

SHAPES = {2: (64, 80), 3: (24, 32, 24)}
BOXES = {
    2: [(5, 6, 17, 20), (8, 40, 30, 62), (40, 10, 58, 24)],
    3: [(2, 3, 2, 12, 15, 12), (6, 16, 8, 22, 30, 22), (13, 3, 12, 23, 13, 22)],
}


def wide_block(dims: int, in_channels: int, channels: int) -> nn.Sequential:
    conv = (nn.Conv2d if dims == 2 else nn.Conv3d)(in_channels, channels, 5, padding=2, bias=False)
    return nn.Sequential(conv, norm_layer(dims, channels, "group"), nn.LeakyReLU(0.01, inplace=True))


class Stem(nn.Module):
    """A stand-in for backbone and neck: strides 2 and 4."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.first = wide_block(dims, 1, channels)
        self.second = wide_block(dims, channels, channels)
        self.third = wide_block(dims, channels, channels)
        self.pool = nn.MaxPool2d(2) if dims == 2 else nn.MaxPool3d(2)

    def forward(self, image: Tensor) -> list[Tensor]:
        half = self.second(self.pool(self.first(image)))
        return [half, self.third(self.pool(half))]


def scene(dims: int, batch: int = 1) -> tuple[Tensor, Targets]:
    """Three boxes of classes 1, 2, 1 on a dark ground, with a gap in the ids."""
    ids = torch.zeros(batch, *SHAPES[dims], dtype=torch.long)
    for number, box in zip((1, 2, 4), BOXES[dims], strict=True):
        ids[(slice(None), *(slice(a, b) for a, b in zip(box[:dims], box[dims:], strict=True)))] = number
    labels = torch.tensor([0, 1, 2, 1, 1])
    brightness = torch.tensor([0.0, 1.0, -1.0])
    image = brightness[labels[ids]][:, None]
    return image, Targets(labels[ids], ids, (labels,) * batch)


def small_head(dims: int, channels: int = 16, **arguments: object) -> ProposalHead:
    settings: dict[str, object] = {
        "strides": (2, 4),
        "thing_channels": (1, 2),
        "anchor_sizes": (10, 20),
        "roi_size": 5,
        "mask_roi_size": 7,
        "hidden": 64,
        "pre_nms": 200,
        "post_nms": 100,
        "roi_samples": 32,
    }
    return ProposalHead(dims, channels, **{**settings, **arguments})  # type: ignore[arg-type]


def overfit(dims: int, steps: int) -> tuple[Instances, Targets]:
    torch.manual_seed(0)
    image, targets = scene(dims)
    stem, head = Stem(dims, 16), small_head(dims)
    optimiser = torch.optim.AdamW([*stem.parameters(), *head.parameters()], lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, steps)
    for _ in range(steps):
        features = stem(image)
        loss = sum(head.loss(head(features, SHAPES[dims]), features, targets).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    head.eval()
    features = stem(image)
    return head.instances(head(features, SHAPES[dims]), features, torch.empty(0))[0], targets


def painted(found: Instances, index: int, shape: tuple[int, ...]) -> Tensor:
    dims = len(shape)
    mask = torch.zeros(shape, dtype=torch.bool)
    box = found.boxes[index].tolist()
    mask[tuple(slice(a, b) for a, b in zip(box[:dims], box[dims:], strict=True))] = found.mask_logits[index] > 0
    return mask


@pytest.mark.parametrize(("dims", "steps"), [(2, 160), (3, 180)])
def test_learns_one_image(dims: int, steps: int) -> None:
    found, targets = overfit(dims, steps)
    sure = [i for i in range(len(found)) if found.scores[i] > 0.3]
    masks = [painted(found, i, SHAPES[dims]) for i in sure]
    for identity, label in ((1, 1), (2, 2), (4, 1)):
        truth = targets.instances[0] == identity
        overlap, best = max((float((m & truth).sum() / (m | truth).sum()), i) for i, m in zip(sure, masks, strict=True))
        assert overlap > 0.7
        assert found.labels[best] == label


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dims", [2, 3])
def test_what_comes_out_meets_the_contract(dims: int, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    shape = SHAPES[dims]
    features = [torch.randn(2, 16, *(n // stride for n in shape)) for stride in (2, 4)]
    head = small_head(dims, score_floor=0.0, max_detections=20).eval()
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        found = head.instances(head(features, shape), features, torch.empty(0))
    assert [len(f) for f in found] == [20, 20]
    for one in found:
        start, stop = one.boxes[:, :dims], one.boxes[:, dims:]
        assert one.boxes.dtype == torch.int64
        assert (start >= 0).all()
        assert (stop > start).all()
        assert (stop <= torch.tensor(shape)).all()
        assert set(one.labels.tolist()) <= {1, 2}
        assert (one.scores.diff() <= 0).all()
        sizes = [tuple(box) for box in (stop - start).tolist()]
        assert [tuple(mask.shape) for mask in one.mask_logits] == sizes
        assert all(mask.dtype == torch.float32 for mask in one.mask_logits)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("dims", [2, 3])
def test_loss_of_a_batch_with_an_empty_image(dims: int, norm: str) -> None:
    torch.manual_seed(0)
    image, targets = scene(dims, batch=2)
    targets.instances[1], targets.semantic[1] = 0, 0
    stem, head = Stem(dims, 16), small_head(dims, norm=norm)
    features = stem(image)
    losses = head.loss(head(features, SHAPES[dims]), features, targets)
    assert set(losses) == {"objectness", "rpn_box", "class", "box", "mask"}
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    assert losses["mask"] > 0
    sum(losses.values()).backward()
    for parameter in [*stem.parameters(), *head.parameters()]:
        assert parameter.grad is not None


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_loss_and_decoding_without_any_thing(norm: str) -> None:
    torch.manual_seed(0)
    image, _ = scene(2)
    nothing = torch.zeros(1, *SHAPES[2], dtype=torch.long)
    head = small_head(2, norm=norm, score_floor=0.99)
    features = Stem(2, 16)(image)
    raw = head(features, SHAPES[2])
    losses = head.loss(raw, features, Targets(nothing, nothing, (torch.zeros(1, dtype=torch.long),)))
    assert losses["mask"] == losses["box"] == losses["rpn_box"] == 0
    sum(losses.values()).backward()
    assert len(head.eval().instances(raw, features, torch.empty(0))[0]) == 0


def test_same_seed_same_loss() -> None:
    def run() -> list[float]:
        torch.manual_seed(3)
        image, targets = scene(2, batch=2)
        features = Stem(2, 16)(image)
        head = small_head(2, rpn_samples=16, roi_samples=8)
        return [float(v.detach()) for v in head.loss(head(features, SHAPES[2]), features, targets).values()]

    assert run() == run()


def test_bf16_loss_is_close() -> None:
    torch.manual_seed(0)
    image, targets = scene(2)
    stem, head = Stem(2, 16), small_head(2, rpn_samples=10**6, roi_samples=10**6)
    features = stem(image)
    full = head.loss(head(features, SHAPES[2]), features, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = stem(image)
        half = head.loss(head(features, SHAPES[2]), features, targets)
    assert half["objectness"].dtype == torch.float32
    assert torch.allclose(half["objectness"], full["objectness"], rtol=0.05)
    assert torch.allclose(half["mask"], full["mask"], rtol=0.1)


def test_void_is_no_background() -> None:
    _, targets = scene(2)
    targets.semantic[targets.semantic == 0] = -1  # all but the things is unknown
    head = small_head(2)
    proposals = torch.tensor([[40.0, 40, 50, 50], [6, 7, 18, 20]])  # one in void, one on the first thing
    truth = head._truth(targets.instances[0], targets.labels[0])
    chosen = head._sample(proposals, truth, targets.semantic[0] < 0)
    assert sorted(chosen.classes.tolist()) == [1, 1, 1, 2]  # the three truths and the second proposal
    assert [40.0, 40, 50, 50] not in chosen.boxes.tolist()


def test_instance_boxes_with_gaps_in_the_ids() -> None:
    _, targets = scene(2)
    present, boxes = instance_boxes(targets.instances[0])
    assert present.tolist() == [1, 2, 4]
    assert boxes.tolist() == [list(map(float, box)) for box in BOXES[2]]
    assert instance_boxes(torch.zeros(3, 4, dtype=torch.long))[1].shape == (0, 4)


def test_levels_follow_lin_et_al() -> None:
    strides = [(4.0, 4.0), (8.0, 8.0), (16.0, 16.0), (32.0, 32.0)]
    sizes = torch.tensor([10.0, 111, 112, 223, 224, 448, 9000])
    boxes = torch.stack([0 * sizes, 0 * sizes, sizes, sizes], 1)
    assert assign_levels(boxes, strides, 14).tolist() == [0, 0, 1, 1, 2, 3, 3]


@settings(max_examples=50, deadline=None)
@given(
    dims=st.sampled_from([2, 3]),
    offsets=st.lists(st.floats(-1.9, 1.9), min_size=6, max_size=6),
    start=st.lists(st.integers(2, 8), min_size=3, max_size=3),
    length=st.lists(st.integers(4, 10), min_size=3, max_size=3),
)
def test_a_mask_cropped_and_pasted_is_the_thing(
    dims: int, offsets: list[float], start: list[int], length: list[int]
) -> None:
    """Whatever float box surrounds or cuts it: the part of the thing inside the float box, to the pixel."""
    shape = (22,) * dims
    stop = [a + n for a, n in zip(start, length, strict=True)]
    ids = torch.zeros(shape, dtype=torch.long)
    ids[tuple(slice(a, b) for a, b in zip(start[:dims], stop[:dims], strict=True))] = 5
    box = torch.tensor([[*start[:dims], *stop[:dims]]]) + torch.tensor(offsets[: 2 * dims])
    pixel_boxes = integer_boxes(box, shape)
    masks = crop_masks(ids, box, torch.tensor([5]), 28) * 2 - 1
    found = Instances(pixel_boxes, torch.ones(1), torch.ones(1), paste_masks(masks, box, pixel_boxes))
    expected = ids == 5
    for axis in range(dims):
        centres = (torch.arange(22) + 0.5).view(-1, *[1] * (dims - 1 - axis))
        expected = expected & (centres >= box[0, axis]) & (centres <= box[0, dims + axis])
    assert torch.equal(painted(found, 0, shape), expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-5, 30), min_size=4, max_size=4))
def test_integer_boxes_are_never_empty(numbers: list[float]) -> None:
    a, b, c, d = numbers
    box = torch.tensor([[min(a, c), min(b, d), max(a, c), max(b, d)]])
    (found,) = integer_boxes(box, (9, 20)).tolist()
    assert 0 <= found[0] < found[2] <= 9
    assert 0 <= found[1] < found[3] <= 20


def test_anisotropic_strides() -> None:
    torch.manual_seed(0)
    _, targets = scene(3)
    features = [torch.randn(1, 16, 24, 16, 12), torch.randn(1, 16, 12, 8, 6)]
    head = small_head(3, strides=((1, 2, 2), (2, 4, 4)))
    losses = head.loss(head(features, SHAPES[3]), features, targets)
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"anchor_sizes": (8,)}, "1 anchor_sizes for 2 levels"),
        ({"anchor_sizes": ((8, 12), 16)}, "equally many sizes"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_head(2, **arguments)
