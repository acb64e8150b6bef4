"""Data sets on disk in the three layouts become cases with the same truth."""

import logging

import numpy as np
import pytest
from tiny_training import blobs, coco_layout, nnunet_layout, own_layout, tiny_bundle

from medpanoptic.bundle import load_bundle
from medpanoptic.errors import DataError
from medpanoptic.training.cases import prepare
from medpanoptic.training.layouts import VOID, read_layout
from medpanoptic.volume import ChannelSpec

CHANNELS = (ChannelSpec("image"),)
CODES = {0: "background", 1: "blob"}


def test_own_layout_keeps_its_split_and_labels(tmp_path):
    cases = list(read_layout(own_layout(tmp_path), CHANNELS, CODES))
    assert [(c.id, c.split) for c in cases] == [("c0", "train"), ("c1", "train"), ("c2", "train"), ("c3", "val")]
    ids, image = blobs((48, 64), 2)
    np.testing.assert_array_equal(cases[2].instances, ids)
    np.testing.assert_array_equal(cases[2].volume.array[0], image)
    np.testing.assert_array_equal(cases[2].codes, ids > 0)


def test_nnunet_with_instances(tmp_path):
    truth = nnunet_layout(tmp_path, instances=True)
    cases = list(read_layout(tmp_path, CHANNELS, {}))
    assert [(c.id, c.split) for c in cases] == [("a", "train"), ("b", "val")]
    np.testing.assert_array_equal(cases[0].instances, truth["a"])
    assert cases[0].code_names == CODES
    np.testing.assert_allclose(cases[0].volume.spacing, (2, 1, 1))


def test_plain_nnunet_takes_components_and_says_so(tmp_path, caplog):
    truth = nnunet_layout(tmp_path, instances=False)
    with caplog.at_level(logging.WARNING):
        case = next(read_layout(tmp_path, CHANNELS, {}))
    assert "connected component" in caplog.text
    assert len(np.unique(case.instances)) == 3
    assert np.array_equal(case.instances > 0, truth["a"] > 0)


def test_coco_panoptic(tmp_path):
    truth = coco_layout(tmp_path)
    cases = {c.split: c for c in read_layout(tmp_path, CHANNELS, {})}
    ids, crowd = truth["val"]
    assert (cases["val"].codes[ids == crowd] == VOID).all()
    single = next(i for i in np.unique(ids) if i not in (0, crowd))
    assert (cases["val"].codes[ids == single] == 9).all()
    assert len(np.unique(cases["val"].instances[ids == single])) == 1


def test_coco_stuff_is_no_instance_after_preparation(tmp_path):
    coco_layout(tmp_path / "data")
    bundle = load_bundle(tiny_bundle(tmp_path / "bundle", 2, [32, 32]), weights=False)
    annotated = next(read_layout(tmp_path / "data", CHANNELS, {}))
    case = prepare(annotated, bundle.preprocessing, bundle.classes)
    assert (case.instances[case.semantic == 0] == 0).all()
    assert set(case.labels[1:].tolist()) == {1}
    assert (case.semantic == -1).any()


def test_unknown_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="DATA-LAYOUT"):
        list(read_layout(tmp_path, CHANNELS, CODES))


def test_a_missing_file_is_named(tmp_path):
    folder = own_layout(tmp_path)
    (folder / "labels" / "c1.png").unlink()
    with pytest.raises(DataError, match=r"c1: c1\.png"):
        list(read_layout(folder, CHANNELS, CODES))


def test_classes_that_do_not_fit_are_refused(tmp_path):
    bundle = load_bundle(tiny_bundle(tmp_path / "bundle", 2, [32, 32]), weights=False)
    annotated = next(read_layout(own_layout(tmp_path / "data"), CHANNELS, {0: "sky", 1: "car"}))
    with pytest.raises(DataError, match=r"DATA-CLASSES.*sky"):
        prepare(annotated, bundle.preprocessing, bundle.classes)


def test_shared_consep_has_its_four_classes(shared_data):
    codes = {0: "b", 1: "e", 2: "s", 101: "other", 102: "inflammatory", 103: "epithelial", 104: "spindle"}
    case = next(read_layout(shared_data("data/consep"), CHANNELS, codes))
    assert set(np.unique(case.codes)) <= {VOID, *codes}
    assert (case.codes[case.instances > 0] > 100).all()
