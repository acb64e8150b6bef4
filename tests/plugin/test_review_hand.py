"""Clicks on lesions, drawing tools, windows and zoom of a review, by a real mouse on a small phantom."""

from __future__ import annotations

import numpy as np
import pytest

from tests.plugin.hands import canvas_of, drag, middle_of, spot


def click(qtbot, widget, pos=None, held=None):
    from qtpy.QtCore import Qt

    held = held or Qt.KeyboardModifier.NoModifier
    qtbot.mouseMove(widget, pos) if pos is not None else None
    qtbot.mouseClick(widget, Qt.MouseButton.LeftButton, held, *([pos] if pos is not None else []))


def shown_rows(dock):
    return [int(dock.model.ids[i.row()]) for i in dock.table.selectionModel().selectedRows()]


def test_a_click_on_a_lesion_chooses_its_row_in_every_plane(real_viewer, small_review, qtbot):
    from napari_medpanoptic.planes import planes_of
    from qtpy.QtCore import Qt

    reading, canvas = small_review.reading, canvas_of(real_viewer)
    first, second, third, _ = (int(i) for i in small_review.model.ids)
    real_viewer.layers.selection.active = real_viewer.layers[0]  # an image: a click does not ask for a layer
    for lesion in (second, third):
        reading.go(first)
        at = middle_of(reading, lesion)
        real_viewer.dims.set_point(range(3), tuple(at))
        click(qtbot, canvas, spot(real_viewer, at))
        assert reading.current == lesion
        assert shown_rows(small_review) == [lesion]
    side = planes_of(real_viewer).sides[0]
    at = middle_of(reading, second)
    real_viewer.dims.set_point(range(3), tuple(at))
    click(qtbot, side.qt.canvas.native, spot(side.model, at, side.qt.canvas.native))
    assert reading.current == second

    # with Ctrl it is chosen as well, and a verdict goes to both
    reading.go(first)
    real_viewer.dims.set_point(range(3), tuple(middle_of(reading, third)))
    click(qtbot, canvas, spot(real_viewer, middle_of(reading, third)), Qt.KeyboardModifier.ControlModifier)
    assert reading.current == first
    assert sorted(shown_rows(small_review)) == sorted([first, third])
    qtbot.keyClick(canvas, Qt.Key.Key_U)
    verdicts = {i: reading.session.row(i).segment.verdict for i in (first, second, third)}
    assert verdicts == {first: "unsure", second: "unread", third: "unsure"}
    assert len(reading.session.edits) == 1
    assert reading.current not in (first, third)  # on to the next unread

    # a rejected lesion is not in the picture: a click there chooses nothing
    reading.go(third)
    at = middle_of(reading, third)
    reading.verdict("rejected")
    now = reading.current
    real_viewer.dims.set_point(range(3), tuple(at))
    click(qtbot, canvas, spot(real_viewer, at))
    assert reading.current == now


def test_tools_windows_and_zoom_by_mouse(real_viewer, small_review, qtbot):
    from napari_medpanoptic.display_widget import DisplayWidget
    from qtpy.QtCore import QPoint, Qt

    reading, canvas, tools = small_review.reading, canvas_of(real_viewer), small_review.tool_row
    image = real_viewer.layers[0]
    real_viewer.layers.selection.active = image
    click(qtbot, tools.buttons["paint"])
    assert str(reading.things.mode) == "paint"
    assert tools.buttons["paint"].isChecked()
    tools.size.setValue(7)
    assert reading.things.brush_size == 7
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)
    drag(qtbot, canvas, middle, middle + QPoint(60, 0))
    assert [e.action for e in reading.session.edits] == ["paint"]
    click(qtbot, tools.buttons["pan_zoom"])
    assert str(reading.things.mode) == "pan_zoom"

    display = next(d for d in real_viewer.window.dock_widgets.values() if isinstance(d, DisplayWidget))
    names = [display.presets.itemAt(i).widget() for i in range(display.presets.count())]
    wide = next(b for b in names if b.text() == "Full range")
    wide.click()
    assert image.contrast_limits[1] == pytest.approx(float(np.max(image.data)))
    drag(qtbot, canvas, middle, middle + QPoint(0, 60), Qt.MouseButton.RightButton)
    assert sum(image.contrast_limits) > float(np.max(image.data) + np.min(image.data))  # level up
    zoom = real_viewer.scene.camera.zoom
    drag(qtbot, canvas, middle - QPoint(80, 60), middle + QPoint(80, 60), held=Qt.KeyboardModifier.AltModifier)
    assert real_viewer.scene.camera.zoom > 1.5 * zoom  # the box that was drawn fills the canvas
    assert len(reading.session.edits) == 1


def test_the_list_is_saved_by_a_button(small_review, qtbot, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog

    asked, said = [], []
    answers = [(str(tmp_path / "list"), ""), ("", ""), (str(tmp_path / "nowhere" / "list.csv"), "")]
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *words: asked.append(words[2]) or answers.pop(0))
    small_review.reading.tell = said.append
    for _ in range(3):
        click(qtbot, small_review.save_button)
    assert asked[0].endswith("small_lesions.csv")
    rows = (tmp_path / "list.csv").read_text("utf-8").splitlines()
    assert len(rows) == 1 + len(small_review.reading.session.things)
    assert said[0] == "Saved list.csv"
    assert "WRITE-OS" in said[1]


def test_the_list_has_most_of_the_dock(real_viewer, small_review, qtbot):
    real_viewer.window.resize(1280, 800)  # a small screen
    qtbot.wait(300)
    table = small_review.table
    assert table.viewport().height() / table.verticalHeader().defaultSectionSize() >= 6
    headings = [small_review.model.headerData(i, _horizontal()) for i in range(small_review.model.columnCount())]
    assert "voxels" not in headings  # ml says it
    assert "uncertain" not in headings  # nothing is known of it here
    assert "class" not in headings  # there is one
    assert headings[-1] == "place"
    header = table.horizontalHeader()
    assert header.length() <= table.viewport().width()  # nothing is cut
    longest = max(table.sizeHintForIndex(small_review.model.index(r, len(headings) - 1)).width() for r in range(4))
    assert header.sectionSize(len(headings) - 1) >= longest


def _horizontal():
    from qtpy.QtCore import Qt

    return Qt.Orientation.Horizontal
