"""The training loop, from a folder of images to a bundle that can be loaded."""

import csv
import json

import numpy as np
import pytest
import torch
from tiny_training import blobs, nnunet_layout, own_layout, tiny_bundle

from medpanoptic.bundle import load_bundle
from medpanoptic.errors import DataError, ModelError
from medpanoptic.training.augment import build_augmentation, crop_case, draw_patch
from medpanoptic.training.cases import Case
from medpanoptic.training.loop import learning_rate, train
from medpanoptic.training.validate import truth_map


def make_case(shape=(40, 60), count=1, seed=0):
    ids, image = blobs(shape, seed, count)
    labels = np.array([0, *[1] * count])
    return Case("a", "", image[None].astype(np.float32) / 255, (ids > 0).astype(np.int16), ids, labels)


def rows(run):
    with open(run / "log.csv", newline="") as f:
        return list(csv.DictReader(f))


@pytest.fixture
def trained(tmp_path):
    bundle, data = tiny_bundle(tmp_path / "tiny", 2, [32, 32]), own_layout(tmp_path / "data")
    return bundle, data, train(bundle, data, tmp_path / "run", threads=1, progress=False)


def test_a_run_ends_in_a_bundle_with_log_and_curves(trained, tmp_path):
    _, _, out = trained
    run = tmp_path / "run"
    assert {p.name for p in run.iterdir()} >= {"log.csv", "curves.png", "checkpoint.pt", "bundle"}
    assert [r["step"] for r in rows(run)] == ["2", "4"]
    assert {"pq_blob", "pq_background", "pq_binary", "semantic", "centre", "offset"} <= set(rows(run)[0])
    network = load_bundle(out).load_network()
    assert network.predict(torch.zeros(1, 1, 32, 32))[0].semantic_logits.shape == (2, 32, 32)


def test_a_killed_run_goes_on_to_the_same_weights(trained, tmp_path):
    bundle, data, whole = trained
    half = tmp_path / "half"

    class KilledError(RuntimeError):
        pass

    from medpanoptic.training import loop

    real, calls = loop._export, []

    def export_then_die(*arguments):
        real(*arguments)
        calls.append(1)
        if len(calls) == 1:
            raise KilledError

    loop._export = export_then_die
    try:
        with pytest.raises(KilledError):
            train(bundle, data, half, threads=1, progress=False)
    finally:
        loop._export = real
    resumed = train(bundle, data, half, threads=1, progress=False)
    assert load_bundle(resumed).weights_sha256 == load_bundle(whole).weights_sha256


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(trained, tmp_path):
    bundle, data, first = trained
    again = train(bundle, data, tmp_path / "again", threads=1, progress=False)
    other = train(bundle, data, tmp_path / "other", seed=4, threads=1, progress=False)
    hashes = [load_bundle(b).weights_sha256 for b in (first, again, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_training_in_3d_from_nnunet(tmp_path):
    bundle = tiny_bundle(tmp_path / "tiny", 3, [16, 16, 16], steps=2)
    nnunet_layout(tmp_path / "data", instances=True)
    out = train(bundle, tmp_path / "data", tmp_path / "run", threads=1, progress=False)
    assert load_bundle(out).spatial_dims == 3


def test_no_training_case_is_an_error(tmp_path):
    bundle, data = tiny_bundle(tmp_path / "tiny", 2, [32, 32]), own_layout(tmp_path / "data", cases=1)
    with pytest.raises(DataError, match="DATA-EMPTY"):
        train(bundle, data, tmp_path / "run", progress=False)


def test_learning_rate_warms_up_and_falls():
    rates = [learning_rate(s, 100, 1.0, 10) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.02


def test_patches_keep_image_and_labels_together():
    case = make_case(count=4)
    steps = build_augmentation(
        [{"_target_": "RandFlipd", "prob": 0.5, "spatial_axis": 1}, {"_target_": "RandRotate90d", "prob": 0.5}]
    )
    for seed in range(20):
        patch, labels = draw_patch([case], [32, 32], {"thing": 1.0}, steps, (0, seed))
        bright = patch["image"][0] > 110 / 255
        known = patch["semantic"][0] > 0
        assert torch.equal(bright & known, (patch["instances"][0] > 0) & known)
        assert patch["instances"].max() < len(labels)


def test_drawing_is_a_function_of_the_seed():
    case, steps = make_case(), build_augmentation([{"_target_": "RandGaussianNoised", "prob": 1.0}])
    a, b, c = (draw_patch([case], [16, 16], {"any": 1.0}, steps, s)[0]["image"] for s in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_thing_free_patches_hold_no_thing():
    case, steps = make_case((30, 40, 40), 1), build_augmentation([])
    for seed in range(20):
        patch, _ = draw_patch([case], [16, 16, 16], {"thing_free": 1.0}, steps, (seed,))
        assert patch["instances"].max() == 0


def test_things_are_moved_off_the_centre():
    case, steps = make_case((30, 40, 40), 1), build_augmentation([])
    means = []
    for seed in range(30):
        patch, _ = draw_patch([case], [24, 24, 24], {"thing": 1.0}, steps, (seed,))
        where = np.argwhere(np.asarray(patch["instances"][0]) > 0)
        means.append(where.mean(0))
    assert np.std(means, 0).min() > 2


def test_a_crop_over_the_rim_is_unknown_there():
    case = make_case((10, 10), 1)
    cut = crop_case(case, np.array([-3, 5]), np.array([8, 8]))
    assert (cut.semantic[:3] == -1).all()
    assert (cut.semantic[:, 5:] == -1).all()
    np.testing.assert_array_equal(cut.semantic[3:, :5], case.semantic[:5, 5:])


def test_an_augmentation_outside_the_list_is_refused():
    with pytest.raises(ModelError, match="BUNDLE-UNSAFE"):
        build_augmentation([{"_target_": "Lambdad", "func": "$print"}])


def test_truth_map_covers_every_known_pixel():
    ids, segments = truth_map(make_case(count=3), [False, True])
    assert set(np.unique(ids).tolist()) == set(segments)
    assert sorted(segments.values())[:1] == [1]


@pytest.mark.parametrize("name", ["nuclei", "nuclei_he", "sarcoma_petct"])
def test_shipped_train_configs_are_plain_data_that_build(name):
    config = json.loads((load_bundle(name, weights=False).folder / "configs" / "train.json").read_text())
    build_augmentation(config["augmentation"])
    names = {c.name for c in load_bundle(name, weights=False).classes}
    assert set(config["codes"].values()) <= names


def test_small_things_are_drawn_more_often():
    big, small = make_case((40, 60), 1), make_case((40, 60), 1)
    big.instances[:20, :30] = 1
    steps = build_augmentation([])
    sizes = [
        int((draw_patch([big, small], [40, 60], {"small_thing": 1.0}, steps, (s,))[0]["instances"] > 0).sum())
        for s in range(40)
    ]
    assert sum(n < 100 for n in sizes) > 25


def test_fine_tuning_starts_from_the_bundles_weights(trained, tmp_path):
    _, data, out = trained
    more = train(out, data, tmp_path / "more", steps=2, threads=1, fine_tune=True, progress=False)
    fresh = train(out, data, tmp_path / "fresh", steps=2, seed=9, threads=1, progress=False)
    start = load_bundle(out).load_network().state_dict()

    def distance(bundle):
        end = load_bundle(bundle).load_network().state_dict()
        return sum(float((end[k] - v).abs().sum()) for k, v in start.items() if v.dtype.is_floating_point)

    assert distance(more) < 0.5 * distance(fresh)
