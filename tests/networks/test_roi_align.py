"""RoIAlign against grid_sample, by eye, and its gradient."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d, grid_sample

from medpanoptic.networks import roi_align as module
from medpanoptic.networks.roi_align import batched_roi_align, roi_align

BY_GATHERING, ONE_BY_ONE = 10**9, 0


@pytest.fixture(params=[BY_GATHERING, ONE_BY_ONE], ids=["gathered", "one by one"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Force one of the two ways of reading crops."""
    monkeypatch.setattr(module, "GATHER_LIMIT", request.param)
    return


def by_grid_sample(features: Tensor, box: Tensor, size: int, sampling: int) -> Tensor:
    dims = features.ndim - 1
    axes = []
    for axis, length in enumerate(features.shape[1:]):
        steps = (torch.arange(size * sampling, dtype=features.dtype) + 0.5) / (size * sampling)
        axes.append((box[axis] + steps * (box[dims + axis] - box[axis])) / length * 2 - 1)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)[None]
    points = grid_sample(features[None], grid, padding_mode="border", align_corners=False)
    return (avg_pool2d if dims == 2 else avg_pool3d)(points, sampling)[0]


def random_boxes(number: int, dims: int) -> Tensor:
    start = torch.rand(number, dims, dtype=torch.double) * 20 - 3  # some begin before the map, some lie beyond it
    return torch.cat([start, start + 0.1 + torch.rand(number, dims, dtype=torch.double) * 15], 1)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("sampling", [1, 2])
@pytest.mark.parametrize("dims", [2, 3])
def test_equals_grid_sample(dims: int, sampling: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(3, *(11, 17, 13)[:dims], dtype=torch.double, requires_grad=True)
    boxes = random_boxes(9, dims)
    ours = roi_align(features, boxes, 5, sampling)
    reference = torch.stack([by_grid_sample(features, box, 5, sampling) for box in boxes])
    assert torch.allclose(ours, reference, atol=1e-12)
    weights = torch.randn_like(ours)
    (ours_grad,) = torch.autograd.grad(ours, features, weights)
    (reference_grad,) = torch.autograd.grad(reference, features, weights)
    assert torch.allclose(ours_grad, reference_grad, atol=1e-12)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dims", [2, 3])
def test_gradcheck(dims: int) -> None:
    torch.manual_seed(1)
    features = torch.randn(2, 2, *(5, 4, 3)[:dims], dtype=torch.double, requires_grad=True)
    boxes = random_boxes(3, dims) / 4
    image = torch.tensor([0, 1, 0])
    assert torch.autograd.gradcheck(lambda f: batched_roi_align(f, boxes, image, 2), features)


@pytest.mark.usefixtures("path")
def test_by_eye() -> None:
    ramp = torch.arange(6.0).repeat(4, 1)[None]  # the value at pixel centre x + 0.5 is x
    out = roi_align(ramp, torch.tensor([[0.0, 1, 4, 5]]), (1, 2))
    assert out.tolist() == [[[[1.5, 3.5]]]]


@pytest.mark.usefixtures("path")
def test_a_box_of_whole_pixels_returns_them() -> None:
    torch.manual_seed(2)
    features = torch.randn(2, 3, 8, 9)
    out = batched_roi_align(features, torch.tensor([[2.0, 3, 6, 7]]), torch.tensor([1]), 4, sampling=1)
    assert torch.allclose(out[0], features[1, :, 2:6, 3:7], atol=1e-6)


def test_no_box() -> None:
    features = torch.randn(4, 8, 8, requires_grad=True)
    out = roi_align(features, torch.zeros(0, 4), 7)
    assert out.shape == (0, 4, 7, 7)
    out.sum().backward()
    assert features.grad is not None
    assert (features.grad == 0).all()


def test_half_precision_features_give_half_precision() -> None:
    features = torch.randn(3, 9, 9)
    boxes = torch.tensor([[1.2, 0.4, 7.7, 8.1]])
    half = roi_align(features.bfloat16(), boxes, 3)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), roi_align(features, boxes, 3), atol=2e-2)


def test_the_number_of_box_columns_is_checked() -> None:
    with pytest.raises(ValueError, match="4 numbers on a map with 3 spatial axes; 6 expected"):
        roi_align(torch.zeros(1, 4, 4, 4), torch.zeros(1, 4), 2)
