from __future__ import annotations

import numpy as np
import pytest
from napari_medpanoptic.edited import result_from_layers, volume_from_layers
from napari_medpanoptic.layers import result_layers, volume_layers

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.errors import WriteError
from medpanoptic.geometry import spatial_affine
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.samples import phantom

CODE = Code("85756007", "SCT", "Tissue")
CLASSES = ClassTable(
    (
        ClassInfo(1, "tumour", True, (220, 40, 40), CODE, CODE),
        ClassInfo(2, "node", True, (40, 40, 220), CODE, CODE),
        ClassInfo(3, "fat", False, (230, 210, 120), CODE, CODE),
        ClassInfo(4, "bone", False, (230, 230, 230), CODE, CODE),
    )
)


def layers_of(classes=CLASSES):
    """(2, 3, 4) voxels of fat (id 1); tumour 2 in the first slice, bone known under it."""
    ids = np.ones((2, 3, 4), np.int32)
    ids[0, 0] = 2
    stuff = np.full(ids.shape, 3, np.uint8)
    stuff[0, 0] = 4
    segments = (Segment(1, 3), Segment(2, 1, 0.7, tracking_uid="2.25.2"))
    result = PanopticResult(ids, segments, classes, spatial_affine((3, 1, 1)), stuff=stuff)
    return result, *result_layers(result)


def test_untouched_layers_give_the_very_result():
    result, stuff, things = layers_of()
    assert result_from_layers([stuff, things]) is result
    assert result_from_layers([things]) is result


def test_a_grown_lesion_is_edited_and_keeps_id_and_tracking_uid():
    _, stuff, things = layers_of()
    things[0][1, 1] = 2  # the display's second slice is the first native one
    result = result_from_layers([stuff, things])
    assert result.ids[0, :2].tolist() == [[2] * 4] * 2
    tumour = next(s for s in result.segments if s.id == 2)
    assert (tumour.origin, tumour.tracking_uid, tumour.score) == ("edited", "2.25.2", 0.7)


def test_an_erased_lesion_leaves_the_tissue_below():
    _, stuff, things = layers_of()
    things[0][things[0] == 2] = 0
    result = result_from_layers([stuff, things])
    assert not result.things
    bone = next(s for s in result.segments if s.class_id == 4)
    assert (result.ids[0, 0] == bone.id).all()


def test_a_painted_lesion_is_added_with_a_free_id_even_where_stuff_owns_the_label():
    _, stuff, things = layers_of()
    things[0][0, 2, 3] = 1  # 1 is fat's id in the result
    table = things[1]["features"]
    things[1]["features"] = type(table)([*table.to_dict("records"), {"index": 1, "class": "node"}])
    result = result_from_layers([stuff, things])
    added = [s for s in result.segments if s.origin == "added"]
    assert [(s.id, s.class_id) for s in added] == [(3, 2)]
    assert added[0].tracking_uid
    assert np.argwhere(result.ids == 3).tolist() == [[1, 2, 3]]


def test_painted_stuff_changes_stuff():
    _, stuff, things = layers_of()
    stuff[0][0] = 4
    result = result_from_layers([stuff, things])
    assert set(result.class_map()[1].ravel().tolist()) == {4}
    assert (result.stuff[1] == 4).all()


def test_inputs_are_not_changed():
    result, stuff, things = layers_of()
    before = result.ids.copy(), result.stuff.copy()
    things[0][:] = 0
    painted = things[0].copy()
    result_from_layers([stuff, things])
    assert np.array_equal(result.ids, before[0])
    assert np.array_equal(result.stuff, before[1])
    assert np.array_equal(things[0], painted)


def test_a_label_without_class_is_refused_with_what_to_do():
    _, stuff, things = layers_of()
    things[0][0, 0, 0] = 77
    with pytest.raises(WriteError, match=r"LAYER-CLASS.*label 77.*'node', 'tumour'"):
        result_from_layers([stuff, things])


def test_an_unknown_stuff_label_is_refused():
    _, stuff, things = layers_of()
    stuff[0][0, 0, 0] = 9
    with pytest.raises(WriteError, match=r"LAYER-CLASS.*\[9\].*fat"):
        result_from_layers([stuff, things])


def test_other_layers_are_refused():
    _, stuff, things = layers_of()
    foreign = (np.zeros((2, 2), int), {"name": "mine"}, "labels")
    with pytest.raises(WriteError, match=r"LAYER-UNKNOWN.*'mine'"):
        result_from_layers([stuff, things, foreign])
    with pytest.raises(WriteError, match="LAYER-MIXED"):
        result_from_layers([stuff, *layers_of()[1:]])
    with pytest.raises(WriteError, match="LAYER-MIXED"):
        result_from_layers([stuff])
    with pytest.raises(WriteError, match="LAYER-SHAPE"):
        result_from_layers([stuff, (things[0][:1], *things[1:])])


def test_the_volume_is_the_one_on_the_results_grid():
    volume, truth = phantom(3, shape=(8, 10, 12))
    other, _ = phantom(3, shape=(8, 10, 13))
    layers = [*volume_layers(other), *volume_layers(volume), *result_layers(truth)]
    assert volume_from_layers(layers, truth) is volume
    assert volume_from_layers(layers[:1], truth) is None
