from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medpanoptic.errors import ModelError
from medpanoptic.networks.outputs import Instances
from medpanoptic.tiling import fit_window, in_threads, predict_image, shared_voxels, window_starts


def components(foreground, logits):
    """One instance per connected component (by faces), numbered in scan order; score by size."""
    labels, _ = ndimage.label(foreground.numpy())
    boxes, masks, scores = [], [], []
    for i, where in enumerate(ndimage.find_objects(labels), start=1):
        inside = torch.from_numpy(labels[where] == i)
        boxes.append([s.start for s in where] + [s.stop for s in where])
        masks.append(torch.where(inside, logits[where], torch.tensor(-12.0)))
        scores.append(1 - 1 / (1 + float(inside.sum())))
    if not boxes:
        return Instances.empty(logits.ndim)
    return Instances(torch.tensor(boxes), torch.ones(len(boxes), dtype=torch.int64), torch.tensor(scores), tuple(masks))


class ComponentHead:
    """Finds components where the first image channel is positive; dense or by proposals."""

    def __init__(self, is_dense):
        self.is_dense = is_dense
        self.calls = 0

    def instances(self, raw, features, semantic_logits):
        self.calls += 1
        assert (features is None) == self.is_dense
        return [components(m[0] > 0, m[0]) for m in raw]


class PixelNet:
    """Semantic logits (-x, x) and the map x: every pixel by itself."""

    def __init__(self, is_dense=True, divisor=4):
        self.instance_head = ComponentHead(is_dense)
        self.divisor = divisor
        self.shapes = []

    def __call__(self, x):
        assert all(n % self.divisor == 0 for n in x.shape[2:])
        self.shapes.append(tuple(x.shape))
        return SimpleNamespace(
            semantic_logits=torch.cat((-x[:, :1], x[:, :1]), 1), raw=x[:, :1], features=[x], spread=None
        )


def masks(instances):
    """A comparable form: the set of (label, voxel positions)."""
    found = []
    for box, label, logits in zip(instances.boxes, instances.labels, instances.mask_logits, strict=True):
        assert tuple(logits.shape) == tuple((box[len(box) // 2 :] - box[: len(box) // 2]).tolist())
        where = (logits > 0).nonzero() + box[: len(box) // 2]
        found.append((int(label), tuple(map(tuple, where.tolist()))))
    return sorted(found)


@given(size=st.integers(1, 300), window=st.integers(1, 64), overlap=st.floats(0, 0.9))
def test_windows_cover_the_axis_and_share_enough(size, window, overlap):
    size = max(size, window)
    (shared,) = shared_voxels((window,), overlap)
    starts = window_starts(size, window, shared)
    assert starts[0] == 0
    assert starts[-1] == size - window
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (window - steps >= min(overlap * window, window - 1)).all()


@given(
    shape=st.lists(st.integers(1, 23), min_size=2, max_size=3),
    window=st.integers(3, 14),
    overlap=st.sampled_from([0, 0.25, 0.5]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_pixelwise_network_does_not_see_the_windows(shape, window, overlap, batch, seed):
    image = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32))
    net = PixelNet()
    prediction = predict_image(net, image, (window,) * len(shape), overlap, batch=batch)
    assert prediction.semantic_logits.shape == (2, *shape)
    torch.testing.assert_close(prediction.semantic_logits[1], image[0], rtol=1e-5, atol=1e-6)
    assert masks(prediction.instances) == masks(components(image[0] > 0, image[0]))
    assert net.instance_head.calls == 1


@st.composite
def blobs(draw, size=40, largest=6):
    """An image of boxes no larger than ``largest``, a voxel or more apart."""
    axes = draw(st.integers(2, 3))
    shape = (size,) * axes if axes == 2 else (size, 20, 20)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image, taken = np.full(shape, -1.0, np.float32), np.zeros(shape, bool)
    for _ in range(draw(st.integers(0, 30))):
        start = [int(rng.integers(0, n - 1)) for n in shape]
        where = tuple(slice(a, a + int(rng.integers(1, largest + 1))) for a in start)
        if not taken[where].any():
            image[where] = rng.uniform(0.5, 3)
            taken[tuple(slice(max(0, s.start - 1), s.stop + 1) for s in where)] = True
    return torch.from_numpy(image)[None]


@given(image=blobs())
@settings(max_examples=60, deadline=None)
def test_things_smaller_than_the_overlap_come_out_as_without_windows(image):
    net = PixelNet(is_dense=False)
    tiled = predict_image(net, image, (16,) * (image.ndim - 1), 0.5)  # 8 shared; a border touches none of 6 in both
    assert len(net.shapes) > 1
    assert masks(tiled.instances) == masks(components(image[0] > 0, image[0]))
    assert bool((tiled.instances.scores > 0).all())


@pytest.mark.parametrize("stripe", [(slice(5, 9), slice(2, 38)), (slice(3, 37), slice(3, 37))])
def test_a_thing_larger_than_a_window_is_joined(stripe):
    image = torch.full((1, 40, 40), -1.0)
    image[0][stripe] = 2
    tiled = predict_image(PixelNet(is_dense=False), image, (16, 16), 0.25)
    assert masks(tiled.instances) == masks(components(image[0] > 0, image[0]))


def test_two_classes_at_one_place_are_not_doubles():
    class TwoLabels(ComponentHead):
        def instances(self, raw, features, semantic_logits):
            found = super().instances(raw, features, semantic_logits)[0]
            twice = [torch.cat((t, t)) for t in (found.boxes, found.labels, found.scores)]
            twice[1][: len(found)] = 2
            return [Instances(*twice, found.mask_logits * 2)]

    image = torch.full((1, 32, 32), -1.0)
    image[0, 12:18, 12:18] = 1
    net = PixelNet(is_dense=False)
    net.instance_head = TwoLabels(False)
    assert sorted(predict_image(net, image, (16, 16), 0.5).instances.labels.tolist()) == [1, 2]


def test_a_small_image_is_one_padded_window_and_exact():
    image = torch.randn(1, 5, 7)
    net = PixelNet(divisor=4)
    prediction = predict_image(net, image, (64, 64), 0.5)
    assert net.shapes == [(1, 1, 8, 8)]
    assert torch.equal(prediction.semantic_logits[1], image[0])


def test_instances_in_the_padding_are_left_out():
    class Bright(ComponentHead):
        def instances(self, raw, features, semantic_logits):
            return [components(m[0] > -0.5, m[0] + 0.5) for m in raw]  # padding with zeros is bright

    net = PixelNet(is_dense=False, divisor=8)
    net.instance_head = Bright(False)
    image = torch.full((1, 5, 8), -1.0)
    assert len(predict_image(net, image, (8, 8), 0.5).instances) == 0
    image[0, 4, 2] = 1
    found = predict_image(net, image, (8, 8), 0.5).instances
    assert found.boxes.tolist() == [[4, 0, 5, 8]]
    assert (found.mask_logits[0] > 0).nonzero().tolist() == [[0, 2]]


def test_progress_rises_to_one_and_can_cancel():
    seen = []
    predict_image(PixelNet(), torch.zeros(1, 20, 20), (8, 8), 0.5, progress=seen.append, batch=3)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0

    def stop(part):
        raise KeyboardInterrupt

    net = PixelNet()
    with pytest.raises(KeyboardInterrupt):
        predict_image(net, torch.zeros(1, 20, 20), (8, 8), 0.5, progress=stop)
    # of 16 windows only those that threads had begun: one, or two for each thread
    threads = torch.get_num_threads()
    assert len(net.shapes) <= (1 if threads == 1 else 2 * threads)


def test_the_image_stays_as_it_is_and_no_instance_is_fine():
    image = torch.full((1, 20, 20), -1.0)
    before = image.clone()
    for is_dense in (True, False):
        assert len(predict_image(PixelNet(is_dense), image, (8, 8), 0.5).instances) == 0
    assert torch.equal(image, before)


def test_windows_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="do not fit an image"):
        fit_window((5, 5), (8, 8, 8), 4, (2, 2, 2))
    with pytest.raises(ModelError, match="overlap must be"):
        shared_voxels((5,), 1.0)


def test_windows_are_as_small_as_their_number_allows():
    assert fit_window((5, 100, 1024), (64, 64, 512), (4, 32, 16), (16, 16, 128)) == (8, 64, 432)


@given(
    size=st.integers(1, 400), most=st.integers(1, 64), divisor=st.sampled_from([1, 4, 16]), overlap=st.floats(0, 0.9)
)
def test_smaller_windows_are_no_more_and_share_as_much(size, most, divisor, overlap):
    shared = shared_voxels((most,), overlap)
    (window,) = fit_window((size,), (most,), divisor, shared)
    assert window % divisor == 0
    assert window <= -(-most // divisor) * divisor
    padded = max(size, window)
    starts = window_starts(padded, window, *shared)
    assert len(starts) <= len(window_starts(max(size, most), most, *shared))
    assert (window - np.diff(starts) >= shared[0]).all()


def test_threads_give_what_one_gives_in_order_and_stop_on_errors():
    before = torch.get_num_threads()
    seen = []

    def work(item):
        seen.append(item)
        assert not torch.is_grad_enabled()
        assert torch.get_num_threads() == 1
        return item * item

    assert list(in_threads(work, range(20), 3)) == [i * i for i in range(20)]
    assert torch.get_num_threads() == before
    seen.clear()
    first = in_threads(work, range(1000), 2)
    assert next(first) == 0
    first.close()
    assert len(seen) < 20

    def broken(item):
        raise InterruptedError(item)

    with pytest.raises(InterruptedError):
        list(in_threads(broken, range(10), 2))
    assert torch.get_num_threads() == before
