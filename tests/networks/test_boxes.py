"""Box arithmetic, anchors and their matching against the slow obvious versions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.box_utils import box_iou as monai_box_iou
from torch import Tensor

from medpanoptic.networks import boxes as boxes_module
from medpanoptic.networks.anchors import BACKGROUND, IGNORED, AnchorGrid, anchor_lengths, match_anchors
from medpanoptic.networks.boxes import (
    box_volumes,
    clip_boxes,
    decode_boxes,
    elementwise_iou,
    encode_boxes,
    nms,
    pairwise_iou,
)


def random_boxes(number: int, dims: int, seed: int, span: float = 20.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(number, dims, generator=generator) * span
    return torch.cat([start, start + 1 + torch.rand(number, dims, generator=generator) * span / 2], 1)


def obvious_nms(boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -float(scores[i])):
        rivals = [j for j in kept if groups[j] == groups[i]]
        if all(float(pairwise_iou(boxes[i : i + 1], boxes[j : j + 1])) <= threshold for j in rivals):
            kept.append(i)
    return kept


@pytest.mark.parametrize("dims", [2, 3])
def test_iou_equals_monai(dims: int) -> None:
    first, second = random_boxes(7, dims, 0), random_boxes(7, dims, 1)
    assert torch.allclose(pairwise_iou(first, second), monai_box_iou(first, second), atol=1e-6)
    assert torch.allclose(elementwise_iou(first, second), pairwise_iou(first, second).diagonal(), atol=1e-6)


def test_iou_by_eye() -> None:
    two_by_two = torch.tensor([[0.0, 0, 2, 2]])
    others = torch.tensor([[0.0, 1, 2, 3], [2, 2, 4, 4], [0, 0, 0, 0]])
    assert pairwise_iou(two_by_two, others).tolist() == [[pytest.approx(1 / 3), 0, 0]]
    assert box_volumes(torch.tensor([[1.0, 2, 3, 4, 6, 8]])).tolist() == [60]


@pytest.mark.parametrize("dims", [2, 3])
def test_code_and_decode_are_inverse(dims: int) -> None:
    boxes, references = random_boxes(20, dims, 2), random_boxes(20, dims, 3)
    assert torch.allclose(decode_boxes(encode_boxes(boxes, references), references), boxes, atol=1e-4)
    assert torch.allclose(decode_boxes(torch.zeros_like(boxes), references), references, atol=1e-5)


def test_decode_stays_finite() -> None:
    assert decode_boxes(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0, 1, 1]])).isfinite().all()


def test_clip() -> None:
    clipped = clip_boxes(torch.tensor([[-3.0, 2, 5, 99]]), (4, 7))
    assert clipped.tolist() == [[0, 2, 4, 7]]


@settings(max_examples=40, deadline=None)
@given(
    number=st.integers(0, 40),
    dims=st.sampled_from([2, 3]),
    seed=st.integers(0, 10_000),
    threshold=st.sampled_from([0.1, 0.3, 0.5, 0.7]),
    groups=st.integers(1, 3),
    chunk=st.sampled_from([1, 7, 512]),
)
def test_nms_equals_the_greedy_loop(
    number: int, dims: int, seed: int, threshold: float, groups: int, chunk: int
) -> None:
    boxes = random_boxes(number, dims, seed)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 10, (number,), generator=generator) / 10  # ties on purpose
    group = torch.randint(0, groups, (number,), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes_module, "NMS_CHUNK", chunk)
        kept = nms(boxes, scores, threshold, group)
        best = nms(boxes, scores, threshold, group, keep_most=3)
    expected = obvious_nms(boxes, scores, threshold, group)
    assert kept.tolist() == expected
    assert best.tolist() == expected[:3]


def test_nms_of_a_chain() -> None:
    # each box overlaps only its neighbours, so every second one survives
    start = torch.arange(101.0)[:, None]
    chain = torch.cat([start, torch.zeros_like(start), start + 2, torch.ones_like(start)], 1)
    assert nms(chain, 1 - start[:, 0] / 200, 0.3).tolist() == list(range(0, 101, 2))


def test_anchors_by_eye() -> None:
    lengths = torch.tensor(anchor_lengths([8], [1.0, 4.0], 2))
    assert lengths.tolist() == [[8, 8], [16, 4]]
    grid = AnchorGrid((1, 2), (4.0, 10.0), lengths)
    assert grid.boxes().tolist() == [[-2, 1, 6, 9], [-6, 3, 10, 7], [-2, 11, 6, 19], [-6, 13, 10, 17]]
    assert torch.tensor(anchor_lengths([6], [8.0], 3)).prod(1).tolist() == [pytest.approx(216, rel=1e-5)]


def obvious_match(anchors: Tensor, truths: Tensor) -> list[int]:
    iou = pairwise_iou(anchors, truths)
    best, owner = iou.max(1)
    match = [int(o) if b >= 0.7 else IGNORED if b >= 0.3 else BACKGROUND for b, o in zip(best, owner, strict=True)]
    for truth in range(len(truths)):
        if iou[:, truth].max() >= 0.05:
            match[int(iou[:, truth].argmax())] = truth
    return match


@settings(max_examples=40, deadline=None)
@given(number=st.integers(0, 6), dims=st.sampled_from([2, 3]), seed=st.integers(0, 10_000))
def test_match_equals_the_dense_matrix(number: int, dims: int, seed: int) -> None:
    truths = random_boxes(number, dims, seed, span=30)
    ratios = [0.5, 1.0, 2.0] if dims == 2 else [1.0]
    grids = [
        AnchorGrid((16, 14, 12)[:dims], (2.0, 2.5, 3.0)[:dims], torch.tensor(anchor_lengths([6.0], ratios, dims))),
        AnchorGrid((8, 7, 6)[:dims], (4.0, 5.0, 6.0)[:dims], torch.tensor(anchor_lengths([14.0], ratios, dims))),
    ]
    match = match_anchors(grids, truths, 0.7, 0.3)
    if number == 0:
        assert (match == BACKGROUND).all()
        return
    anchors = torch.cat([grid.boxes() for grid in grids])
    expected = torch.tensor(obvious_match(anchors, truths))
    iou = pairwise_iou(anchors, truths)
    # differences only where floating point ties leave a choice
    for anchor in (match != expected).nonzero()[:, 0].tolist():
        assert _is_tie(iou, anchor), (match[anchor], expected[anchor], iou[anchor])
    reachable = {t for t in range(number) if iou[:, t].max() >= 0.05}
    assert reachable <= set(match.tolist()) | _shared_best(iou)


def _is_tie(iou: Tensor, anchor: int) -> bool:
    best_of_truth = (iou[anchor] >= iou.max(0).values - 1e-5).any()
    near_limit = ((iou[anchor].max() - torch.tensor([0.3, 0.7])).abs() < 1e-5).any()
    return bool(best_of_truth or near_limit)


def _shared_best(iou: Tensor) -> set[int]:
    """Return truths whose best anchors are also the best of another truth."""
    is_best = iou >= iou.max(0).values - 1e-5
    return {t for t in range(iou.shape[1]) if (is_best[:, t] & (is_best.sum(1) > 1)).any()}
