"""The Planes and Display docks in the real viewer: what is drawn, and real keys and mouse."""

from __future__ import annotations

import numpy as np
import pytest
from napari_medpanoptic.layers import result_layers, volume_layers
from napari_medpanoptic.orientation import PLANES
from napari_medpanoptic.planes import planes_of
from napari_medpanoptic.view import arrange, box_in_viewer, planes_dock, set_plane, show_point

from medpanoptic.geometry import to_index
from medpanoptic.volume import Channel, Volume
from tests.plugin.test_real_viewer import DISPLAY_TO_LPS, lesion_case, world_of_pixels


@pytest.fixture
def case(real_viewer, qtbot):
    """One lesion in a volume of odd orientation and spacing, filled; the Planes dock open and aimed at it."""
    volume, truth = lesion_case()
    arrange(real_viewer)
    for data, look, kind in [*volume_layers(volume, "case"), *result_layers(truth, "case")]:
        getattr(real_viewer, f"add_{kind}")(data, **look)
    real_viewer.layers["case things"].contour = 0
    real_viewer.layers["case stuff"].visible = False
    _, dock = real_viewer.window.add_plugin_dock_widget("medpanoptic", "Planes")
    qtbot.wait(200)
    show_point(real_viewer, *box_in_viewer(truth.boxes[7], truth.affine, truth.ids.shape))
    qtbot.wait(200)
    return truth, dock


def grab(qt_viewer):
    return qt_viewer.screenshot(flash=False)[..., :3]


def test_the_lesion_is_drawn_where_it_is_in_every_plane(real_viewer, case):
    truth, dock = case
    dock.show_crosshair(False)
    color = truth.segment_color(truth.segments[1])
    for model, qt in [
        (real_viewer, real_viewer.window._qt_viewer),
        *((side.model, side.qt) for side in dock.sides),
    ]:
        picture = grab(qt).astype(int)
        drawn = np.abs(picture - color).max(axis=-1) <= 2
        place = world_of_pixels(model, picture.shape[:2]) @ DISPLAY_TO_LPS.T
        index = to_index(place.reshape(-1, 3), truth.affine).round().astype(int)
        inside = np.all((index >= 0) & (index < truth.ids.shape), axis=1)
        expected = np.zeros(len(index), bool)
        expected[inside] = truth.ids[tuple(index[inside].T)] == 7
        expected = expected.reshape(drawn.shape)
        assert expected.sum() > 500
        assert (drawn & expected).sum() / (drawn | expected).sum() > 0.9


def test_the_crosshair_crosses_at_the_point(real_viewer, case):
    _, dock = case
    for side in dock.sides:
        with_lines = grab(side.qt).astype(int)
        side.crosshair.show(False)
        without = grab(side.qt).astype(int)
        changed = np.abs(with_lines - without).max(axis=-1) > 20
        row, column = changed.sum(axis=1).argmax(), changed.sum(axis=0).argmax()
        assert changed.sum() > 100
        place = world_of_pixels(side.model, changed.shape)[row, column]
        pixel = 1 / side.model.scene.camera.zoom
        np.testing.assert_allclose(place, side.model.dims.point, atol=1.5 * pixel)
        # nothing over the point itself
        assert not changed[row - 5 : row + 5, column - 5 : column + 5].any()


def test_planes_change_places_and_fit(real_viewer, case, qtbot):
    _, dock = case
    set_plane(real_viewer, "sagittal")
    assert [side.plane for side in dock.sides] == ["axial", "coronal"]
    dock.sides[0].title.click()
    assert real_viewer.dims.order == PLANES["axial"]
    assert [side.plane for side in dock.sides] == ["coronal", "sagittal"]


def test_a_real_click_in_a_side_canvas_moves_all_planes(real_viewer, case, qtbot):
    from qtpy.QtCore import QPoint, Qt

    _, dock = case
    set_plane(real_viewer, "axial")
    qtbot.wait(200)
    side = dock.sides[0]
    native = side.qt.canvas.native
    spot = (native.height() // 2 - 20, native.width() // 2 + 30)
    expected = world_of_pixels(side.model, (native.height(), native.width()))[spot]
    qtbot.mouseClick(native, Qt.MouseButton.LeftButton, pos=QPoint(spot[1], spot[0]))
    # napari's sliders round to the nearest slice
    half_a_voxel = real_viewer.layers["case"].scale / 2
    pixel = 1 / side.model.scene.camera.zoom
    assert np.all(np.abs(np.array(real_viewer.dims.point) - expected) <= half_a_voxel + 1.5 * pixel)


def test_keys_work_over_every_canvas(real_viewer, case, qtbot):
    from qtpy.QtCore import Qt

    _, dock = case
    image = real_viewer.layers["case"]
    qtbot.keyClick(real_viewer.window._qt_viewer.canvas.native, Qt.Key.Key_2, Qt.KeyboardModifier.ControlModifier)
    assert tuple(image.contrast_limits) == (-1350, 150)  # lung
    qtbot.keyClick(dock.sides[0].qt.canvas.native, Qt.Key.Key_3, Qt.KeyboardModifier.ControlModifier)
    assert tuple(image.contrast_limits) == (-500, 1300)  # bone
    qtbot.keyClick(dock.sides[1].qt.canvas.native, Qt.Key.Key_T)
    assert not real_viewer.layers["case things"].visible
    qtbot.keyClick(dock.sides[1].qt.canvas.native, Qt.Key.Key_K)
    assert not dock.cross_box.isChecked()


def test_help_lists_every_key_and_goes_away(real_viewer, case, qtbot):
    from napari_medpanoptic.keys import DISPLAY_KEYS
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QLabel

    native = real_viewer.window._qt_viewer.canvas.native
    qtbot.keyClick(native, Qt.Key.Key_F1)
    label = real_viewer.window._qt_window.findChild(QLabel, "medpanoptic_keys")
    assert label.isVisible()
    assert all(key.text in label.text() for key in DISPLAY_KEYS if not key.action.startswith("preset"))
    qtbot.keyClick(native, Qt.Key.Key_F1)
    assert not label.isVisible()


def test_closing_the_dock_leaves_a_working_viewer(real_viewer, case):
    _, dock = case
    assert planes_of(real_viewer) is dock
    real_viewer.window.remove_dock_widget(dock)
    dock.close()
    assert planes_dock(real_viewer) is None
    real_viewer.dims.set_point(0, 0.0)
    real_viewer.layers.remove("case")


def test_display_dock_shows_the_window_the_fusion_and_the_legend(real_viewer, qtbot):
    _, truth = lesion_case()
    array = np.stack([np.zeros(truth.ids.shape, np.float32), np.ones(truth.ids.shape, np.float32)])
    channels = (Channel("ct", "CT", "HU"), Channel("pet", "PT", "SUV"))
    _, dock = real_viewer.window.add_plugin_dock_widget("medpanoptic", "Display")
    assert not dock.window_box.isVisible()
    for data, look, kind in [
        *volume_layers(Volume(array, truth.affine, channels), "S"),
        *result_layers(truth, "S"),
    ]:
        getattr(real_viewer, f"add_{kind}")(data, **look)
    names = [dock.presets.itemAt(i).widget() for i in range(dock.presets.count())]
    assert [b.text() for b in names][:3] == ["Soft tissue", "Lung", "Bone"]
    names[1].click()
    assert dock.window_label.text() == "S ct: level -600, width 1500"
    dock.fusion_buttons.buttons()[2].click()
    assert (real_viewer.layers["S ct"].visible, real_viewer.layers["S pet"].colormap.name) == (False, "gray_r")
    dock.opacity.setValue(35)
    assert real_viewer.layers["S pet"].opacity == 0.35
    assert "lesion: 1" in dock.legend.text()
    assert "soft tissue" in dock.legend.text()
    real_viewer.layers.clear()
    assert not dock.legend.isVisible()


def test_a_jump_draws_each_canvas_once(real_viewer, case, qtbot):
    """A scale bar that changes must not have its canvas drawn twice."""
    _, dock = case
    drawn = []
    for canvas in (real_viewer.window._qt_viewer.canvas, *(side.qt.canvas for side in dock.sides)):
        canvas._scene_canvas.events.draw.connect(lambda event, canvas=canvas: drawn.append(canvas))
    point = np.array(real_viewer.dims.point)
    for size in (40.0, 5.0, 80.0):
        show_point(real_viewer, tuple(point + 1), (size,) * 3)
        drawn.clear()
        qtbot.wait(300)
        assert len(drawn) == len(set(map(id, drawn))) == 3
