"""Hands that do not rest while the files are written: nothing they do is lost half-way or comes into the files."""

from __future__ import annotations

import threading

import numpy as np

from medpanoptic.io import read_result
from medpanoptic.review import check_signed
from tests.plugin.hands import canvas_of, drag, press_move, spot


def test_wheel_brush_and_keys_while_signing_change_nothing(real_viewer, small_review, qtbot, monkeypatch):
    from napari_medpanoptic import sign_box
    from qtpy.QtCore import QPoint, Qt

    reading, canvas, box = small_review.reading, canvas_of(real_viewer), small_review.sign_box
    started, go_on, said, sign = threading.Event(), threading.Event(), [], sign_box.sign

    def slow(session, on_step, **more):
        def step(part, what):
            on_step(part, what)
            if what == "list":  # the result is written, the list and the journal are not
                started.set()
                assert go_on.wait(60)

        return sign(session, on_step=step, **more)

    monkeypatch.setattr(sign_box, "sign", slow)
    reading.tell = said.append
    reading.verdict("rejected")
    edits = len(reading.session.edits)
    box.allow.setChecked(True)
    # a stroke that is under way when signing begins
    qtbot.keyClick(canvas, Qt.Key.Key_P)
    small_review.tool_row.size.setValue(9)
    at = spot(real_viewer, real_viewer.dims.point)
    free = Qt.KeyboardModifier.NoModifier
    qtbot.mousePress(canvas, Qt.MouseButton.LeftButton, free, pos=at)
    press_move(canvas, at + QPoint(30, 0), Qt.MouseButton.LeftButton, free)
    box.button.click()
    qtbot.waitUntil(started.is_set, timeout=60000)
    press_move(canvas, at + QPoint(60, 0), Qt.MouseButton.LeftButton, free)
    qtbot.mouseRelease(canvas, Qt.MouseButton.LeftButton, free, pos=at + QPoint(60, 0))

    # all that a hand may try now
    qtbot.keyClick(canvas, Qt.Key.Key_P)
    drag(qtbot, canvas, at, at + QPoint(40, 10))
    reading.things.paint((2, 2, 2), reading.current)
    held = Qt.KeyboardModifier.ControlModifier
    for key in (Qt.Key.Key_R, Qt.Key.Key_A, Qt.Key.Key_Delete, Qt.Key.Key_S, Qt.Key.Key_I):
        qtbot.keyClick(canvas, key)
    qtbot.keyClick(canvas, Qt.Key.Key_Z, held)
    assert any("being signed; nothing can be changed" in text for text in said)
    assert "nothing can be changed now" in box.said.text()
    before = real_viewer.dims.point[0]
    real_viewer.dims.point = (before + 3.0, *real_viewer.dims.point[1:])  # to look on is allowed
    go_on.set()
    qtbot.waitUntil(lambda: box.worker is None, timeout=60000)

    session = reading.session
    assert session.signed
    assert len(session.edits) == edits
    qtbot.wait(50)
    kept = np.isin(session.ids, [i for i in session.things if session.row(i).segment.verdict != "rejected"])
    shown = reading.grid.order.to_native(np.asarray(reading.things.data))
    assert np.array_equal(shown, np.where(kept, session.ids, 0))
    signed = read_result(small_review.case / "review" / "v1")
    assert np.array_equal(np.where(np.isin(signed.ids, [s.id for s in signed.things]), signed.ids, 0), shown)
    assert check_signed(small_review.case / "review" / "v1")["version"] == 1


def test_nothing_found_signs_too(real_viewer, qtbot, tmp_path):
    from napari_medpanoptic.start import start_review
    from qtpy.QtCore import Qt

    from medpanoptic.io import write_result
    from medpanoptic.samples import phantom

    write_result(phantom(3, shape=(8, 12, 14), lesions=0)[1], tmp_path / "empty")
    review = start_review(real_viewer, tmp_path / "empty", reader="A. Reader")
    assert review.progress.text().startswith("empty: nothing found")
    assert review.sign_box.button.isEnabled()
    qtbot.mouseClick(review.sign_box.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: review.sign_box.worker is None, timeout=60000)
    assert not read_result(tmp_path / "empty" / "review" / "v1").things
