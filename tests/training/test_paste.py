"""Pasting things of other cases: where they land, what they leave alone, what they look like."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medpanoptic.training.augment import build_augmentation, draw_patch
from medpanoptic.training.cases import Case
from medpanoptic.training.paste import paste_things

AIR, TISSUE, TUMOUR = 0, 1, 2


def body(shape=(24, 32, 32), channels=2):
    """Tissue of value 10 with air of value 0 in front, no thing."""
    semantic = np.full(shape, TISSUE, np.int16)
    semantic[:, :8] = AIR
    image = np.repeat(np.where(semantic == TISSUE, 10.0, 0.0)[None], channels, 0).astype(np.float32)
    return Case("host", "", image, semantic, np.zeros(shape, np.int32), np.zeros(1, np.int64))


def with_tumour(value=50.0, **kwargs):
    case = body(**kwargs)
    where = (slice(8, 15), slice(14, 21), slice(12, 19))
    case.image[(slice(None), *where)] = value
    case.semantic[where] = TUMOUR
    case.instances[where] = 1
    return Case("donor", "", case.image, case.semantic, case.instances, np.array([0, TUMOUR]))


@pytest.mark.parametrize("seed", range(8))
def test_a_pasted_tumour_is_a_thing_in_tissue_of_its_kind(seed):
    host = body()
    out = paste_things(host, [with_tumour()], np.random.default_rng(seed), most=1, scale=(0.6, 1.0))
    mine = out.instances == 1
    assert mine.sum() > 30
    assert out.labels.tolist() == [0, TUMOUR]
    assert (host.semantic[mine] == TISSUE).all()
    assert (out.semantic[mine] == TUMOUR).all()
    assert out.image[0][mine].mean() > 25
    far = np.abs(out.image[0] - host.image[0]) > 1e-3
    assert far.sum() < 3 * mine.sum(), "only the tumour and its rim may change"


def test_things_do_not_overwrite_things():
    host = with_tumour()
    for seed in range(20):
        out = paste_things(host, [with_tumour(90.0)], np.random.default_rng(seed), most=3, scale=(0.5, 1.0))
        assert (out.instances[host.instances == 1] == 1).all()
        assert len(out.labels) == out.instances.max() + 1


def test_a_gap_keeps_things_apart():
    host = with_tumour(shape=(40, 60, 60))
    for seed in range(20):
        out = paste_things(host, [host], np.random.default_rng(seed), most=1, scale=(0.6, 0.9), gap=(4, 4))
        if out.instances.max() > 1:
            distance = ndimage.distance_transform_edt(out.instances != 1)
            assert distance[out.instances == 2].min() > 4


def test_the_host_itself_is_left_as_it_was():
    host = body()
    before = host.image.copy(), host.semantic.copy(), host.instances.copy()
    paste_things(host, [with_tumour()], np.random.default_rng(0), most=3, scale=(0.5, 1.0))
    for now, then in zip((host.image, host.semantic, host.instances), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_channel_that_one_side_lacks_is_empty():
    donor = with_tumour()
    donor.image[1] = 0
    out = paste_things(body(), [donor], np.random.default_rng(0), most=1, scale=(1.0, 1.0))
    assert out.instances.any()
    assert out.image[0].any()
    assert not out.image[1].any()


def test_without_room_or_donors_nothing_is_pasted():
    rng, host = np.random.default_rng(0), body()
    assert paste_things(host, [body()], rng, most=2, scale=(1.0, 1.0)) is host
    host.semantic[:] = AIR
    assert paste_things(host, [with_tumour()], rng, most=2, scale=(1.0, 1.0)) is host


def test_drawing_with_paste_gives_more_things_and_repeats_by_its_seed():
    cases, steps = [with_tumour(), with_tumour(70.0)], build_augmentation([])
    how = {"prob": 1.0, "most": 3, "scale": [0.4, 0.8]}
    counts = []
    for seed in range(12):
        first, labels = draw_patch(cases, [20, 28, 28], {"thing": 1.0}, steps, (seed,), paste=how)
        again, _ = draw_patch(cases, [20, 28, 28], {"thing": 1.0}, steps, (seed,), paste=how)
        np.testing.assert_array_equal(first["image"], again["image"])
        ids = np.unique(first["instances"])
        assert ids.max() < len(labels)
        counts.append(len(ids) - 1)
    assert max(counts) > 1
