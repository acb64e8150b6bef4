from __future__ import annotations

import numpy as np
import pytest
from napari_medpanoptic.inputs import find_inputs
from napari_medpanoptic.layers import result_layers, volume_layers
from napari_medpanoptic.orientation import DISPLAY_DIRECTIONS, PLANES, display_order
from napari_medpanoptic.view import arrange, box_in_viewer, edge_letters, go_to_largest, set_plane, show_point

from medpanoptic.geometry import to_world
from medpanoptic.samples import phantom
from medpanoptic.volume import Channel, Volume


def show(viewer, layers):
    for data, look, kind in layers:
        getattr(viewer, f"add_{kind}")(data, **look)


def letters(viewer):
    overlays = viewer.canvas.overlays
    return {e: overlays[f"medpanoptic_{e}"].text for e in ("left", "right", "top", "bottom")}


def test_letters_follow_the_radiologists_convention():
    straight = DISPLAY_DIRECTIONS.T
    assert edge_letters((1, 2), straight) == {"top": "A", "bottom": "P", "left": "R", "right": "L"}  # axial
    assert edge_letters((0, 2), straight) == {"top": "H", "bottom": "F", "left": "R", "right": "L"}  # coronal
    assert edge_letters((0, 1), straight) == {"top": "H", "bottom": "F", "left": "A", "right": "P"}  # sagittal


@pytest.mark.parametrize(("degrees", "bottom"), [(0, "P"), (8, "P"), (30, "PF"), (-30, "PH"), (60, "FP")])
def test_letters_of_an_oblique_series_name_both_axes_nearest_first(model_viewer, degrees, bottom):
    """An axial stack tilted about the left-right axis: its rows run to posterior and to the feet or the head."""
    turn = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack(  # slice, row, column
        [(0, np.sin(turn), np.cos(turn)), (0, np.cos(turn), -np.sin(turn)), (1, 0, 0)]
    ) * (3, 1, 1)
    arrange(model_viewer)
    volume = Volume(np.zeros((1, 6, 20, 20), np.float32), affine, (Channel("mr", "MR"),))
    show(model_viewer, volume_layers(volume))
    model_viewer.dims.order = next(o for o in PLANES.values() if o[0] == display_order(affine, 3).axes.index(0))
    shown = letters(model_viewer)
    if degrees < 45:
        assert shown["bottom"] == bottom
        assert (shown["left"], shown["right"]) == ("R", "L")
    else:  # nearer to a coronal: its rows run to the feet first
        assert shown["bottom"] == bottom


def test_no_letters_where_the_visible_layers_disagree(model_viewer):
    arrange(model_viewer)
    straight, tilted = np.diag([3.0, 1, 1, 1])[[2, 1, 0, 3]], np.eye(4)
    tilted[:3, :3] = np.column_stack([(0, 0.5, 0.866), (0, 0.866, -0.5), (1, 0, 0)])
    for affine in (straight, tilted):
        show(model_viewer, volume_layers(Volume(np.zeros((1, 4, 5, 6), np.float32), affine, (Channel("mr", "MR"),))))
    assert set(letters(model_viewer).values()) == {""}
    model_viewer.layers[1].visible = False
    assert letters(model_viewer)["bottom"] == "P"


def test_a_jump_centres_the_box_and_fills_a_fifth_of_the_canvas(model_viewer):
    arrange(model_viewer)
    volume, truth = phantom(3, shape=(30, 40, 50), spacing=(3, 1, 2))
    show(model_viewer, [*volume_layers(volume), *result_layers(truth)])
    lesion = truth.things[0].id
    point, size = box_in_viewer(truth.boxes[lesion], truth.affine, truth.ids.shape)
    show_point(model_viewer, point, size)
    things = model_viewer.layers["things"]
    corners = np.argwhere(things.data == lesion)
    scale, translate = things.scale, things.translate
    np.testing.assert_allclose(point, (corners.min(0) + corners.max(0)) / 2 * scale + translate)
    np.testing.assert_allclose(size, np.ptp(corners, axis=0) * scale + scale)
    np.testing.assert_allclose(model_viewer.dims.point, point)
    np.testing.assert_allclose(model_viewer.scene.camera.center[-2:], point[1:])
    wanted = max(*size[1:], 60 / 5) * 5
    np.testing.assert_allclose(model_viewer.scene.camera.zoom, min(model_viewer.canvas.size) / wanted)


def test_the_viewer_is_dressed_once_and_follows_the_plane(model_viewer):
    arrange(model_viewer)
    arrange(model_viewer)
    assert model_viewer.canvas.overlays["scale_bar"].visible
    assert set(letters(model_viewer).values()) == {""}
    volume, truth = phantom(3, shape=(8, 10, 12), spacing=(3, 1, 1))
    show(model_viewer, [*volume_layers(volume), *result_layers(truth)])
    straight = DISPLAY_DIRECTIONS.T
    assert letters(model_viewer) == edge_letters((1, 2), straight)
    set_plane(model_viewer, "coronal")
    assert letters(model_viewer) == edge_letters((0, 2), straight)
    model_viewer.dims.ndisplay = 3
    assert set(letters(model_viewer).values()) == {""}


def test_no_letters_where_an_orientation_is_unknown(model_viewer):
    arrange(model_viewer)
    model_viewer.add_image(np.zeros((4, 5, 6)))
    assert set(letters(model_viewer).values()) == {""}


def test_our_labels_are_safe_to_paint_on(model_viewer):
    arrange(model_viewer)
    _, truth = phantom(3, shape=(16, 16, 16))
    show(model_viewer, result_layers(truth))
    things = model_viewer.layers["things"]
    assert things.preserve_labels
    assert things.selected_label == max(s.id for s in truth.segments) + 1
    assert things.contour == 1


def test_the_largest_thing_is_shown_first(model_viewer):
    _, truth = phantom(3, spacing=(3, 1, 1))
    show(model_viewer, result_layers(truth))
    go_to_largest(model_viewer, truth)
    largest = max(truth.things, key=lambda s: truth.sizes[s.id])
    centre = to_world(np.argwhere(truth.ids == largest.id), truth.affine).mean(axis=0)
    np.testing.assert_allclose(model_viewer.dims.point[0], -centre[2], atol=3)
    slices = model_viewer.layers["things"].data
    index = round(model_viewer.layers["things"].world_to_data(model_viewer.dims.point)[0])
    assert largest.id in slices[index]


def test_channels_of_a_study_are_one_input_and_other_images_one_each(model_viewer):
    volume, truth = phantom(3, shape=(8, 10, 12))
    show(model_viewer, [*volume_layers(volume, "ours"), *result_layers(truth)])
    model_viewer.add_image(np.zeros((5, 6, 3), np.uint8), name="tile", rgb=True)
    ours, tile = find_inputs(model_viewer.layers)
    assert (ours.title, ours.image) == ("ours", volume)
    assert tile.volume.array.shape == (3, 5, 6)
    assert not tile.volume.calibrated


def test_a_study_on_disk_is_given_as_its_folder(model_viewer, tmp_path):
    volume, _ = phantom(3, shape=(8, 10, 12))
    show(model_viewer, volume_layers(volume, path=tmp_path))
    assert find_inputs(model_viewer.layers)[0].image == tmp_path


def test_a_stack_of_another_reader_is_taken_as_it_stands_on_the_screen(model_viewer):
    data = np.random.default_rng(0).random((4, 5, 6))
    layer = model_viewer.add_image(
        data, scale=(2000, 500, 500), translate=(100, 0, 0), units=("micrometer",) * 3, name="stack"
    )
    volume = find_inputs(model_viewer.layers)[0].volume
    assert volume.calibrated
    np.testing.assert_allclose(volume.spacing, (2, 0.5, 0.5))
    again, look, _ = volume_layers(volume)[0]
    assert np.array_equal(again, data)
    np.testing.assert_allclose(look["scale"], (2, 0.5, 0.5))
    np.testing.assert_allclose(look["translate"], np.array(layer.translate) / 1000)


@pytest.mark.parametrize(("slice_axis", "plane"), [(2, "axial"), (1, "coronal"), (0, "sagittal")])
def test_a_series_opens_in_the_plane_it_was_acquired_in(model_viewer, slice_axis, plane):
    rest = [axis for axis in (0, 1, 2) if axis != slice_axis]
    affine = np.eye(4)
    affine[:3, :3] = 0
    for i, axis in enumerate((slice_axis, *rest)):
        affine[axis, i] = (5.0, 1.0, 1.0)[i]
    arrange(model_viewer)
    volume = Volume(np.zeros((1, 4, 20, 24), np.float32), affine, (Channel("mr", "MR"),))
    show(model_viewer, volume_layers(volume))
    assert model_viewer.dims.order == PLANES[plane]
    assert model_viewer.dims.nsteps[model_viewer.dims.order[0]] == 4
    model_viewer.dims.order = (0, 1, 2)
    show(model_viewer, volume_layers(volume))  # a second layer leaves the reader's choice alone
    assert model_viewer.dims.order == (0, 1, 2)
