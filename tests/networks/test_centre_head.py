"""The dense instance head: targets and decoding are each other's inverse."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medpanoptic.networks.centre_head import CentreHead, centre_targets
from medpanoptic.networks.losses import foreground_loss, thing_log_odds


def perfect_maps(ids, offset_scale=16.0):
    """What an ideal network would give for an id map: raw maps (1, 1 + D, *S) and logits (1, 2, *S)."""
    heat, offsets = centre_targets(ids[None])
    raw = torch.cat([torch.logit(heat.clamp(1e-4, 1 - 1e-4))[:, None], offsets / offset_scale], 1)
    thing = torch.where(ids > 0, 4.0, -4.0)[None]
    return raw, torch.stack([-thing, thing], 1)


def decode(ids, **arguments):
    head = CentreHead(ids.ndim, 4, (1,), channels=4, norm="group", **arguments)
    raw, logits = perfect_maps(ids)
    return head.instances(raw, None, logits)[0]


def paste(instances, shape):
    out = np.zeros(shape, int)
    ndim = len(shape)
    for number, (box, mask) in enumerate(zip(instances.boxes.tolist(), instances.mask_logits, strict=True), start=1):
        where = tuple(slice(a, b) for a, b in zip(box[:ndim], box[ndim:], strict=True))
        out[where][mask.numpy() > 0] = number
    return out


def same_partition(a, b):
    pairs = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    return len(pairs) == len({x for x, _ in pairs}) == len({y for _, y in pairs})


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(4, 9)), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_decoding_perfect_maps_gives_the_truth_back_2d(cells):
    ids = torch.zeros(60, 60, dtype=torch.int64)
    for number, (row, column, size) in enumerate(cells, start=1):
        if not ids[row * 10 : row * 10 + 10, column * 10 : column * 10 + 10].any():
            ids[row * 10 : row * 10 + size, column * 10 : column * 10 + size] = number
    found = decode(ids, min_size=1, peak_threshold=0.5, merge_distance=2)
    assert same_partition(paste(found, ids.shape), ids.numpy())


def test_touching_things_are_told_apart_3d():
    ids = torch.zeros(16, 24, 24, dtype=torch.int64)
    ids[2:14, 2:12, 2:22] = 1
    ids[2:14, 12:22, 2:22] = 2
    found = decode(ids, reach=30)
    assert len(found) == 2
    assert same_partition(paste(found, ids.shape), ids.numpy())
    assert found.scores.min() > 0.9


def test_foreground_without_a_centre_becomes_a_thing_of_its_own():
    ids = torch.zeros(40, 40, dtype=torch.int64)
    ids[2:12, 2:12] = 1
    ids[25:35, 25:35] = 2
    raw, logits = perfect_maps(ids)
    raw[0, 0, 20:, 20:] = -9  # the network saw no centre for the second one
    head = CentreHead(2, 4, (1,), channels=4, norm="group", peak_threshold=0.3)
    found = head.instances(raw, None, logits)[0]
    assert same_partition(paste(found, ids.shape), ids.numpy())
    assert sorted(found.scores.tolist())[0] == pytest.approx((0.3 * 0.99966) ** 0.5, abs=1e-3)


def test_no_foreground_no_instance():
    found = decode(torch.zeros(16, 16, dtype=torch.int64))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


def test_specks_below_min_size_are_left_out():
    ids = torch.zeros(32, 32, dtype=torch.int64)
    ids[4:14, 4:14] = 1
    ids[20:22, 20:22] = 2
    assert len(decode(ids, min_size=5)) == 1


def test_class_is_the_one_with_most_evidence():
    ids = torch.zeros(32, 32, dtype=torch.int64)
    ids[4:24, 4:24] = 1
    raw, logits = perfect_maps(ids)
    three = torch.cat([logits, logits[:, 1:] - 1], 1)
    three[:, 2, 4:7] += 3  # a few rows look like the other class
    head = CentreHead(2, 4, (1, 2), channels=4, norm="group")
    assert head.instances(raw, None, three)[0].labels.tolist() == [1]


@pytest.mark.parametrize("dims", [2, 3])
def test_targets_point_into_the_thing(dims):
    ids = torch.zeros(1, *(20,) * dims, dtype=torch.int64)
    ids[(0, slice(2, 18), slice(2, 6), *(slice(2, 18),) * (dims - 2))] = 7
    ids[(0, slice(14, 18), slice(2, 18), *(slice(2, 18),) * (dims - 2))] = 7  # an L: its centroid lies outside
    heat, offsets = centre_targets(ids)
    pixels = (ids[0] == 7).nonzero()
    ends = pixels + offsets[0][:, *pixels.T].T
    assert len(ends.unique(dim=0)) == 1
    assert ids[0][*ends[0].long()] == 7
    assert heat.max() == 1
    assert heat[ids == 0].max() == 0


def test_log_odds_are_those_of_the_softmax():
    logits = torch.randn(4, 5, 5)
    p = logits.softmax(0)[[1, 3]].sum(0)
    torch.testing.assert_close(thing_log_odds(logits, (1, 3), 0), torch.logit(p), rtol=1e-4, atol=1e-5)


def test_foreground_loss_ignores_disputes_among_thing_classes_and_the_unknown():
    target = torch.tensor([[[0, 1, 2, -1]]])
    swapped = torch.full((1, 3, 1, 4), -9.0)
    swapped[0, (0, 2, 1, 0), 0, (0, 1, 2, 3)] = 9.0  # thing classes 1 and 2 taken for each other
    assert foreground_loss(swapped, target, (1, 2)) < 1e-3
    missed = swapped.clone()
    missed[0, :, 0, 1] = torch.tensor([9.0, -9.0, -9.0])
    assert foreground_loss(missed, target, (1, 2)) > 1
    assert foreground_loss(missed, torch.full_like(target, -1), (1, 2)) == 0
