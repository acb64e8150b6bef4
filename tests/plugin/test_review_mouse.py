"""What a hand does in a review, with real presses and drags of the mouse, on a small phantom."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest


def canvas_of(viewer):
    return viewer.window._qt_viewer.canvas.native


def spot(viewer, world):
    """Return where a point in viewer coordinates is on the canvas."""
    from qtpy.QtCore import QPoint

    rows_columns = np.array([world[axis] for axis in viewer.dims.displayed])
    centre = np.array(viewer.camera.center)[-2:]
    canvas = canvas_of(viewer)
    row, column = (rows_columns - centre) * viewer.camera.zoom + np.array([canvas.height(), canvas.width()]) / 2
    return QPoint(round(column), round(row))


def drag(qtbot, canvas, start, stop, button=None):
    from qtpy.QtCore import QPoint, Qt

    button = button or Qt.MouseButton.LeftButton
    qtbot.mouseMove(canvas, start)
    qtbot.mousePress(canvas, button, pos=start)
    for part in (0.25, 0.5, 0.75, 1.0):
        way = QPoint(round(part * (stop.x() - start.x())), round(part * (stop.y() - start.y())))
        press_move(canvas, start + way, button)
        qtbot.wait(10)
    qtbot.mouseRelease(canvas, button, pos=stop)


def press_move(canvas, at, button):
    """Move with a button held: qtbot's own moves carry none."""
    from qtpy.QtCore import QEvent, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtWidgets import QApplication

    place = QPointF(at)
    event = QMouseEvent(
        QEvent.Type.MouseMove,
        place,
        QPointF(canvas.mapToGlobal(at)),
        Qt.MouseButton.NoButton,
        button,
        Qt.KeyboardModifier.NoModifier,
    )
    QApplication.sendEvent(canvas, event)


def world_of(layer, index):
    return np.asarray(index) * layer.scale + layer.translate


def test_the_end_of_a_diameter_is_dragged_and_the_window_too(real_viewer, small_review, qtbot):
    from qtpy.QtCore import QPoint, Qt

    reading, canvas = small_review.reading, canvas_of(real_viewer)
    image = next(layer for layer in real_viewer.layers if type(layer).__name__ == "Image")
    before = image.contrast_limits
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)
    drag(qtbot, canvas, middle, middle + QPoint(60, 0), Qt.MouseButton.RightButton)
    assert np.ptp(image.contrast_limits) > np.ptp(before)

    qtbot.mouseClick(small_review.buttons["axes"], Qt.MouseButton.LeftButton)
    layer = small_review.diameters.layer
    start, end = layer.data[0]
    real_viewer.dims.set_point(range(3), tuple(world_of(layer, start)))  # the slice that holds the line
    length = reading.table.loc[reading.current, "long_axis_mm"]
    from_spot, to_spot = (
        spot(real_viewer, world_of(layer, end)),
        spot(real_viewer, world_of(layer, end + (end - start) / 2)),
    )
    drag(qtbot, canvas, from_spot, to_spot)
    assert reading.session.row(reading.current).long_axis is not None
    assert reading.table.loc[reading.current, "long_axis_mm"] == pytest.approx(1.5 * length, rel=0.1)


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
    assert not layer.data.any()
    qtbot.keyClick(canvas, Qt.Key.Key_R)
    assert np.array_equal(layer.data > 0, np.asarray(reading.model.data) == current)
    qtbot.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not layer.data.any()

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


KILLED = """
import sys, time
from pathlib import Path
from medpanoptic.review import ReviewSession
session = ReviewSession.open(Path(sys.argv[1]), reader="A. Reader")
session.reject(session.things[0])
session.delete(session.things[1])
print("edited", flush=True)
time.sleep(600)
"""


def test_edits_of_a_killed_program_are_offered_and_taken_up(real_viewer, tmp_path, qtbot):
    from napari_medpanoptic.start import start_review
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QApplication, QMessageBox

    from medpanoptic.io import write_result
    from medpanoptic.samples import phantom

    _, truth = phantom(3, shape=(20, 24, 28))
    write_result(truth, tmp_path / "case")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "case")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "edited\n"
    process.kill()
    process.wait()
    process.stdout.close()
    asked = []

    def answer():
        box = next((w for w in QApplication.topLevelWidgets() if isinstance(w, QMessageBox)), None)
        if box is None:
            QTimer.singleShot(50, answer)
            return
        asked.append(box.text())
        next(b for b in box.buttons() if b.text() == "Go on").click()

    QTimer.singleShot(0, answer)
    widget = start_review(real_viewer, tmp_path / "case", reader="A. Reader")
    assert asked[0].startswith("2 edits by A. Reader")
    session = widget.reading.session
    assert session.row(session.things[0]).segment.verdict == "rejected"
    assert len(session.things) == len(truth.things) - 1


def test_the_command_opens_a_case_beside_its_prior(real_viewer, tmp_path, monkeypatch):
    import napari
    from napari_medpanoptic.follow_up_widget import FollowUpWidget
    from napari_medpanoptic.start import review_of

    from medpanoptic.cli import main
    from medpanoptic.io import write_result
    from medpanoptic.samples import phantom

    _, truth = phantom(3, shape=(20, 24, 28))
    for name in ("now", "before"):
        write_result(truth, tmp_path / name)
    monkeypatch.setattr(napari, "Viewer", lambda **choices: real_viewer)
    monkeypatch.setattr(napari, "run", lambda: None)
    with pytest.raises(SystemExit) as stop:
        main(["review", str(tmp_path / "now"), "--prior", str(tmp_path / "before"), "--reader", "A. Reader"])
    assert not stop.value.code
    assert review_of(real_viewer).reading.session.reader == "A. Reader"
    dock = next(d for d in real_viewer.window.dock_widgets.values() if isinstance(d, FollowUpWidget))
    assert [link.relation for link in dock.pairs().links] == ["same"] * len(truth.things)
    assert dock.table.rowCount() == len(truth.things)
