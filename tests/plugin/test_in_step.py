"""Canvases in step and layer copies, with viewer models alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari_medpanoptic.in_step import InStep
from napari_medpanoptic.layers import result_layers, volume_layers
from napari_medpanoptic.mirror import LayerMirror
from napari_medpanoptic.orientation import PLANES
from napari_medpanoptic.view import arrange

from medpanoptic.samples import phantom


@pytest.fixture
def three(model_viewer):
    """The main model with a phantom, two mirrors in the other planes, and their link."""
    from napari.components import ViewerModel

    arrange(model_viewer)
    volume, truth = phantom(3, shape=(20, 30, 40), spacing=(3, 1, 2))
    for data, look, kind in [*volume_layers(volume), *result_layers(truth)]:
        getattr(model_viewer, f"add_{kind}")(data, **look)
    sides = [ViewerModel(), ViewerModel()]
    painted = []
    model_viewer.layers["things"].events.paint.connect(lambda event: painted.append(event.value))
    mirrors = [LayerMirror(model_viewer, side) for side in sides]
    for side, plane in zip(sides, ("coronal", "sagittal"), strict=True):
        side.dims.order = PLANES[plane]
        side.reset_view()
    link = InStep([model_viewer, *sides])
    return SimpleNamespace(main=model_viewer, sides=sides, mirrors=mirrors, link=link, painted=painted)


def test_copies_share_the_voxels_and_the_look(three):
    for side in three.sides:
        assert [layer.name for layer in side.layers] == [layer.name for layer in three.main.layers]
        for copy, layer in zip(side.layers, three.main.layers, strict=True):
            assert np.shares_memory(copy.data, layer.data)
            np.testing.assert_allclose(copy.scale, layer.scale)
            assert copy.units == layer.units
    image, stuff, things = three.main.layers
    image.contrast_limits = (5, 50)
    stuff.visible = False
    three.sides[0].layers["things"].selected_label = 3
    assert tuple(three.sides[1].layers["image"].contrast_limits) == (5, 50)
    assert not three.sides[0].layers["stuff"].visible
    assert things.selected_label == 3
    assert three.sides[1].layers["things"].selected_label == 3


def test_copies_come_go_and_move_with_their_layers(three):
    three.main.add_image(np.ones((4, 4, 4)), name="new")
    three.main.layers.move(3, 0)
    assert [layer.name for layer in three.sides[0].layers] == ["new", "image", "stuff", "things"]
    three.main.layers.remove("stuff")
    assert [layer.name for layer in three.sides[1].layers] == ["new", "image", "things"]
    three.main.layers.selection.active = three.main.layers["image"]
    assert three.sides[0].layers.selection.active.name == "image"


def test_a_stroke_in_another_plane_paints_the_one_array(three):
    copy = three.sides[0].layers["things"]
    copy.paint((2, 3, 4), 9)
    assert three.main.layers["things"].data[2, 3, 4] == 9
    assert len(three.painted) == 1


def test_one_point_for_all_planes(three):
    three.sides[1].dims.set_point(2, 20.0)
    assert three.main.dims.point[2] == 20
    assert three.sides[0].dims.point == three.main.dims.point


def test_zoom_is_in_step_by_factor_and_pan_by_axis(three):
    main, coronal, sagittal = (model.scene.camera for model in (three.main, *three.sides))
    before = coronal.zoom, sagittal.zoom
    main.zoom *= 3
    assert (coronal.zoom, sagittal.zoom) == pytest.approx((3 * before[0], 3 * before[1]))
    rows_before = coronal.center[-2]
    main.center = (12.0, 34.0)  # posterior, left
    assert coronal.center[-2:] == pytest.approx((rows_before, 34))
    assert sagittal.center[-1] == pytest.approx(12)


def test_a_jump_aims_every_canvas(three):
    three.link.show_point((-30.0, 10.0, 40.0), (6, 4, 2))
    for model in (three.main, *three.sides):
        assert model.dims.point == pytest.approx((-30, 10, 40))
        shown = [(-30, 10, 40)[axis] for axis in model.dims.displayed]
        assert model.scene.camera.center[-2:] == pytest.approx(shown)
        assert model.scene.camera.zoom == pytest.approx(min(model.canvas.size) / 60)


def mouse(model, kind, position, **more):
    return SimpleNamespace(
        type=kind,
        position=position,
        dims_displayed=list(model.dims.displayed),
        **{"button": 1, "modifiers": (), "pos": (50, 50), "is_dragging": False, "handled": False, **more},
    )


def click(model, position, end=(50, 50)):
    event = mouse(model, "mouse_press", position)
    for callback in model.mouse_drag_callbacks:
        generator = callback(model, event)
        if next(generator, "over") != "over":
            event.type, event.pos = "mouse_move", end
            if next(generator, "over") != "over":
                event.type = "mouse_release"
                next(generator, None)
        event.type, event.pos = "mouse_press", (50, 50)


def test_a_click_moves_the_crosshair_and_a_drag_does_not(three):
    coronal = three.sides[0]
    there = (-12.0, coronal.dims.point[1], 22.0)
    click(coronal, there, end=(80, 50))
    assert three.main.dims.point != pytest.approx(there)
    click(coronal, there, end=(51, 50))
    assert three.main.dims.point == pytest.approx(there)
    three.main.layers.selection.active = three.main.layers["things"]
    three.main.layers["things"].mode = "paint"  # in step with the copy
    click(coronal, (-30.0, 5.0, 5.0))
    assert three.main.dims.point == pytest.approx(there)


def test_the_crosshair_follows_the_cursor_with_shift(three):
    model = three.main
    move = three.link._on_move
    move(model, mouse(model, "mouse_move", (model.dims.point[0], 3.0, 4.0)))
    assert model.dims.point[1:] != pytest.approx((3, 4))
    move(model, mouse(model, "mouse_move", (model.dims.point[0], 3.0, 4.0), modifiers=("Shift",)))
    assert three.sides[1].dims.point[1:] == pytest.approx((3, 4))


def test_the_wheel_scrolls_one_slice_and_leaves_the_camera(three):
    coronal, before = three.sides[0], three.main.dims.point[1]
    event = mouse(coronal, "mouse_wheel", (0, 0, 0), delta=(0, -1))
    three.link._on_wheel(coronal, event)
    assert three.main.dims.point[1] == pytest.approx(before + 1)
    assert event.handled
    three.link.wheel_scrolls = False
    event.handled = False
    three.link._on_wheel(coronal, event)
    assert not event.handled


def test_closed_links_leave_the_viewer_alone(three):
    three.link.close()
    for mirror in three.mirrors:
        mirror.close()
    before = three.sides[0].dims.point
    three.main.dims.set_point(0, 0.0)
    three.main.layers["things"].visible = False
    assert three.sides[0].dims.point == before
    assert len(three.sides[0].layers) == 0
    assert three.main.mouse_wheel_callbacks == [
        c for c in three.main.mouse_wheel_callbacks if getattr(c, "__self__", None) is not three.link
    ]
