"""What a hand does in a review, with real presses and drags of the mouse, on a small phantom."""

from __future__ import annotations

import numpy as np
import pytest

from tests.plugin.hands import canvas_of, drag, spot, world_of


def test_the_end_of_a_diameter_is_dragged_and_the_window_too(real_viewer, small_review, qtbot):
    from qtpy.QtCore import QPoint, Qt

    reading, canvas = small_review.reading, canvas_of(real_viewer)
    image = next(layer for layer in real_viewer.layers if type(layer).__name__ == "Image")
    before = image.contrast_limits
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)
    drag(qtbot, canvas, middle, middle + QPoint(60, 0), Qt.MouseButton.RightButton)
    assert np.ptp(image.contrast_limits) > np.ptp(before)

    reading.go(reading.session.things[-1])
    qtbot.mouseClick(small_review.buttons["axes"], Qt.MouseButton.LeftButton)
    layer = small_review.diameters.layer
    colors = layer.edge_color.copy()
    start, end = layer.data[0]
    long_mm, short_mm = reading.table.loc[reading.current, ["long_axis_mm", "short_axis_mm"]]
    assert np.linalg.norm((end - start) * layer.scale) == pytest.approx(long_mm, abs=0.05)
    assert layer.text.values.tolist()[-2:] == [f"{long_mm:.1f} mm", f"{short_mm:.1f} mm"]
    assert real_viewer.dims.point[0] == pytest.approx(world_of(layer, start)[0])  # on the slice of the line
    from_spot, to_spot = (
        spot(real_viewer, world_of(layer, end)),
        spot(real_viewer, world_of(layer, end + (end - start) / 2)),
    )
    center = real_viewer.scene.camera.center
    drag(qtbot, canvas, from_spot, to_spot)
    row = reading.session.row(reading.current)
    assert row.long_axis is not None
    assert row.short_axis is None  # the other line is still the computed one
    assert reading.table.loc[reading.current, "long_axis_mm"] == pytest.approx(1.5 * long_mm, rel=0.1)
    assert real_viewer.scene.camera.center == center  # the picture did not move along
    np.testing.assert_allclose(layer.edge_color, colors)
    assert real_viewer.layers.selection.active is reading.things
    qtbot.mouseClick(small_review.buttons["undo"], Qt.MouseButton.LeftButton)
    start, end = layer.data[0]
    assert np.linalg.norm((end - start) * layer.scale) == pytest.approx(long_mm, abs=0.05)
    qtbot.keyClick(canvas, Qt.Key.Key_Q)
    assert layer not in real_viewer.layers


def test_join_split_points_and_polygon_by_mouse(real_viewer, small_review, qtbot):
    from qtpy.QtCore import QPoint, Qt

    reading, canvas, left = small_review.reading, canvas_of(real_viewer), Qt.MouseButton.LeftButton
    table, model = small_review.table, small_review.model
    first, second = model.ids[:2]
    for row, held in ((0, Qt.KeyboardModifier.NoModifier), (1, Qt.KeyboardModifier.ControlModifier)):
        qtbot.mouseClick(table.viewport(), left, held, table.visualRect(model.index(row, 1)).center())
    qtbot.mouseClick(small_review.buttons["merge"], left)
    assert second not in reading.session.things
    qtbot.mouseClick(small_review.buttons["undo"], left)
    assert {first, second} <= set(reading.session.things)

    reading.go(int(first))
    count = len(reading.session.things)
    qtbot.mouseClick(small_review.buttons["split"], left)
    assert len(reading.session.things) == count + 1
    qtbot.mouseClick(small_review.buttons["undo"], left)

    qtbot.mouseClick(small_review.buttons["points"], left)
    box = np.argwhere(np.asarray(reading.things.data) == first)
    at = world_of(reading.things, box.mean(axis=0).round())
    reach = np.ptp(box[:, 2]) / 3 * reading.things.scale[2]
    for side in (-reach, reach):
        qtbot.mouseClick(canvas, left, pos=spot(real_viewer, at + np.array([0, 0, side])))
    assert len(small_review.seeds.layer.data) == 2
    qtbot.mouseClick(small_review.buttons["points"], left)
    assert len(reading.session.things) == count + 1
    assert small_review.seeds.layer is None
    qtbot.mouseClick(small_review.buttons["undo"], left)

    reading.go(int(first))
    size = reading.session.live.size(int(first))
    qtbot.keyClick(canvas, Qt.Key.Key_3)
    assert str(reading.things.mode) == "polygon"
    centre = spot(real_viewer, at)
    wide = round(reach * real_viewer.camera.zoom * 3)
    corners = [QPoint(-wide, -wide), QPoint(wide, -wide), QPoint(wide, wide), QPoint(-wide, wide)]
    for corner in corners:
        qtbot.mouseMove(canvas, centre + corner)
        qtbot.mouseClick(canvas, left, pos=centre + corner)
    qtbot.mouseDClick(canvas, left, pos=centre + corners[0])
    assert [e.action for e in reading.session.edits][-1] == "paint"
    assert reading.session.live.size(int(first)) > size


def test_words_on_a_lesion_changes_shown_and_a_locked_version(real_viewer, small_review, qtbot):
    from qtpy.QtCore import Qt

    reading, canvas, form = small_review.reading, canvas_of(real_viewer), small_review.form
    current = reading.current
    shift = Qt.KeyboardModifier.ShiftModifier
    qtbot.keyClick(canvas, Qt.Key.Key_T, shift)
    qtbot.keyClick(canvas, Qt.Key.Key_L, shift)
    qtbot.keyClick(canvas, Qt.Key.Key_W, shift)
    qtbot.keyClicks(form.note, "as before")
    qtbot.keyClick(form.note, Qt.Key.Key_Return)
    form.organ.setEditText("liver")
    qtbot.keyClick(form.organ.lineEdit(), Qt.Key.Key_Return)
    row = reading.session.row(current)
    assert (row.note, row.organ, row.is_node, row.is_target) == ("as before", "liver", True, True)

    qtbot.keyClick(canvas, Qt.Key.Key_D, shift)
    layer = small_review.changed.layer
    assert not np.asarray(layer.data).any()
    qtbot.keyClick(canvas, Qt.Key.Key_R)
    assert np.array_equal(np.asarray(layer.data) > 0, np.asarray(reading.model.data) == current)
    qtbot.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not np.asarray(layer.data).any()

    small_review.sign_box.allow.setChecked(True)
    qtbot.mouseClick(small_review.sign_box.button, Qt.MouseButton.LeftButton)
    assert not reading.things.editable
    qtbot.waitUntil(lambda: small_review.sign_box.worker is None, timeout=60000)
    assert reading.session.signed
    edits = len(reading.session.edits)
    qtbot.keyClick(canvas, Qt.Key.Key_P)
    drag(qtbot, canvas, spot(real_viewer, real_viewer.dims.point), spot(real_viewer, real_viewer.dims.point) * 1.1)
    assert len(reading.session.edits) == edits
    qtbot.mouseClick(small_review.sign_box.again, Qt.MouseButton.LeftButton)
    assert small_review.reading.session.version == 2
    assert small_review.reading.things.editable
