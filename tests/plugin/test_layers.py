from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from napari_medpanoptic.layers import (
    HU_WINDOW,
    KEY,
    SUV_WINDOW,
    result_layers,
    stuff_map,
    thing_map,
    volume_layers,
)
from napari_medpanoptic.windows import percentile_window

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.geometry import spatial_affine
from medpanoptic.result import PanopticResult, Provenance, Segment
from medpanoptic.volume import Channel, Source, Volume

CODE = Code("85756007", "SCT", "Tissue")
CLASSES = ClassTable(
    (
        ClassInfo(1, "lesion", True, (220, 40, 40), CODE, CODE),
        ClassInfo(2, "fat", False, (230, 210, 120), CODE, CODE),
        ClassInfo(3, "outside", False, (0, 0, 0), CODE, CODE),
    )
)


def small_result(**changes):
    """A 4 x 4 map: fat (id 1), lesion 5 of 2 pixels and lesion 9 of 1 on it; fat known under the lesions."""
    ids = np.full((4, 4), 1, np.int32)
    ids[0, :2], ids[3, 3] = 5, 9
    segments = (Segment(1, 2), Segment(5, 1, 0.8765), Segment(9, 1, 0.5, tracking_uid="2.25.9"))
    result = PanopticResult(ids, segments, CLASSES, spatial_affine((0.5, 2.0)), stuff=np.full((4, 4), 2, np.uint8))
    return replace(result, **changes)


def test_things_and_stuff_are_two_labels_layers_with_their_tables():
    (stuff, stuff_look, kind), (things, things_look, _) = result_layers(small_result(), "case")
    assert kind == "labels"
    assert (stuff_look["name"], things_look["name"]) == ("case stuff", "case things")
    assert np.unique(things).tolist() == [0, 5, 9]
    assert np.unique(stuff).tolist() == [2]  # class id, under the lesions too
    table = things_look["features"]
    assert table[["index", "class", "score", "size", "area_mm2"]].values.tolist() == [
        [5, "lesion", 0.876, 2, 2.0],
        [9, "lesion", 0.5, 1, 1.0],
    ]
    assert stuff_look["features"]["area_mm2"].tolist() == [13.0, 0.0]
    assert stuff_look["opacity"] < things_look["opacity"]


def test_colours_are_those_of_the_result_and_black_stuff_is_clear():
    result = small_result()
    (_, stuff_look, _), (_, things_look, _) = result_layers(result)
    expected = [v / 255 for v in result.segment_color(result.segments[1])]
    assert list(things_look["colormap"][5][:3]) == expected
    assert stuff_look["colormap"][2][3] == 1
    assert stuff_look["colormap"][3] == (0, 0, 0, 0)


def test_the_truth_is_kept_in_metadata_and_never_painted_on():
    source = Source(series_uid="1.2.3")
    result = small_result(source=source)
    for data, look, _ in result_layers(result):
        meta = look["metadata"][KEY]
        assert meta["result"] is result
        assert meta["source"] is source
        assert np.array_equal(meta["affine_lps"], result.affine)
        assert not np.shares_memory(data, result.ids)
        assert not np.shares_memory(data, result.stuff)


def test_pixels_of_unknown_size_have_no_mm():
    result = small_result(provenance=Provenance(parameters={"calibrated": False}))
    for _, look, _ in result_layers(result):
        assert look["units"] == ("pixel", "pixel")
        assert "area_mm2" not in look["features"]


def test_a_result_without_things_still_has_both_layers():
    ids = np.ones((2, 2, 2), np.int32)
    result = PanopticResult(ids, (Segment(1, 2),), CLASSES, spatial_affine((1, 1, 1)))
    (stuff, _, _), (things, look, _) = result_layers(result)
    assert not things.any()
    assert (stuff == 2).all()
    assert look["features"].columns.tolist() == [
        "index",
        "class",
        "score",
        "size",
        "volume_mm3",
        "origin",
        "verdict",
    ]


def test_maps_split_ids_into_things_and_stuff():
    result = small_result(stuff=None)
    assert thing_map(result)[0].tolist() == [5, 5, 0, 0]
    assert stuff_map(result)[0].tolist() == [0, 0, 2, 2]  # unknown under the lesion


def study(*channels):
    array = np.stack([np.arange(24, dtype=np.float32).reshape(2, 3, 4) + i for i in range(len(channels))])
    return Volume(array, spatial_affine((3.0, 1.0, 2.0)), channels, Source(series_uid="1.2"))


def test_ct_and_pet_get_their_windows_and_pet_lies_on_top():
    layers = volume_layers(
        study(
            Channel("pet", "PT", "SUV"), Channel("ct", "CT", "HU"), Channel("mr", "MR"), Channel("t2", present=False)
        ),
        "S",
    )
    looks = {look["name"]: look for _, look, _ in layers}
    assert list(looks) == ["S ct", "S mr", "S pet"]  # absent channels are not shown
    assert looks["S ct"]["contrast_limits"] == HU_WINDOW
    assert looks["S pet"]["contrast_limits"] == SUV_WINDOW
    assert looks["S pet"]["blending"] == "additive"
    assert looks["S mr"]["visible"] is False
    assert looks["S ct"]["units"] == ("mm",) * 3
    assert looks["S ct"]["scale"] == (3.0, 1.0, 2.0)
    assert "affine" not in looks["S ct"]


def test_pet_alone_is_dark_on_white():
    _, look, _ = volume_layers(study(Channel("pet", "PT", "SUV")), "S")[0]
    assert (look["colormap"], look["name"]) == ("gray_r", "S")


def test_images_are_views_in_display_order_and_the_volume_is_in_the_metadata():
    volume = study(Channel("ct", "CT", "HU"))
    data, look, _ = volume_layers(volume)[0]
    assert np.shares_memory(data, volume.array)
    assert np.array_equal(data, volume.array[0][::-1])  # slices of +z run to the head, the display to the feet
    assert look["metadata"][KEY]["volume"] is volume


def test_a_colour_picture_is_one_rgb_layer():
    array = np.zeros((3, 5, 6), np.uint8)
    volume = Volume(array, spatial_affine((1, 1)), tuple(map(Channel, ("red", "green", "blue"))), calibrated=False)
    ((data, look, _),) = volume_layers(volume, "tile")
    assert data.shape == (5, 6, 3)
    assert look["rgb"] is True
    assert look["units"] == ("pixel", "pixel")


@pytest.mark.parametrize(
    ("data", "window"),
    [
        (np.array([[0, 9]], np.uint8), (9, 10)),
        (np.zeros((2, 2)), (0, 1)),
        (np.full((2, 2), np.nan), (0, 1)),
        (np.full((2, 2), 7.0), (7, 8)),
    ],
)
def test_windows_of_odd_images_are_usable(data, window):
    assert percentile_window(data) == window


def test_napari_takes_the_layers_and_shows_the_row_under_the_cursor(model_viewer):
    for data, look, kind in result_layers(small_result(), "case"):
        getattr(model_viewer, f"add_{kind}")(data, **look)
    things = model_viewer.layers["case things"]
    assert np.allclose(things.get_color(5)[:3], look["colormap"][5][:3], atol=1e-6)
    status = things.get_status((0, 0), world=True)
    assert "lesion" in str(status)
