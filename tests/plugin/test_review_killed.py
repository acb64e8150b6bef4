"""The program that a person runs is killed amid a reading: the next one offers all that was done."""

from __future__ import annotations

import subprocess
import sys

from medpanoptic.io import read_result, write_result
from medpanoptic.samples import phantom

# medpanoptic review CASE, with a hand that goes on pressing keys in its window
PROGRAM = """
import sys
import napari
from qtpy.QtCore import QPoint, Qt, QTimer
from qtpy.QtTest import QTest
from medpanoptic.cli import main

def run():
    viewer = napari.current_viewer()
    canvas = viewer.window._qt_viewer.canvas.native
    dock = next(d for d in viewer.window.dock_widgets.values() if type(d).__name__ == "ReviewWidget")
    dock.reading.go_on = False
    keys = [Qt.Key.Key_R, Qt.Key.Key_N, Qt.Key.Key_U, Qt.Key.Key_N, Qt.Key.Key_A, Qt.Key.Key_Delete]
    def press():
        if keys:
            QTest.keyClick(canvas, keys.pop(0))
        else:
            dock.tool_row.buttons["paint"].click()
            dock.tool_row.size.setValue(30)
            at = QPoint(canvas.width() // 2, canvas.height() // 2)
            QTest.mousePress(canvas, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, at)
            QTest.mouseRelease(canvas, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, at)
            timer.stop()
            print("done", len(dock.reading.session.edits), flush=True)
    timer = QTimer()
    timer.timeout.connect(press)
    timer.start(20)
    loop()

loop, napari.run = napari.run, run
main(["review", sys.argv[1], "--reader", "A. Reader"])
"""


def test_edits_of_the_killed_program_are_offered_and_taken_up(real_viewer, tmp_path, qtbot):
    from napari_medpanoptic.start import start_review
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QApplication, QMessageBox

    _, truth = phantom(3, shape=(24, 40, 44), spacing=(3, 2, 2), lesions=4)
    case = tmp_path / "case"
    write_result(truth, case)
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(case)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    said = program.stdout.readline().split()
    program.kill()  # SIGKILL: no handler, no clean-up
    program.wait()
    program.stdout.close()
    asked = []

    def answer():
        box = next((w for w in QApplication.topLevelWidgets() if isinstance(w, QMessageBox)), None)
        if box is None:
            QTimer.singleShot(50, answer)
            return
        asked.append(box.text())
        next(b for b in box.buttons() if b.text() == "Go on").click()

    QTimer.singleShot(0, answer)
    session = start_review(real_viewer, case, reader="A. Reader").reading.session
    assert asked[0].startswith("5 edits by A. Reader")
    assert said == ["done", "5"]
    rejected, unsure, _, painted = sorted(s.id for s in truth.things)
    assert session.things == [rejected, unsure, painted]
    assert [session.row(i).segment.verdict for i in session.things] == ["rejected", "unsure", "unread"]
    assert session.row(painted).segment.origin == "edited"
    assert (session.ids == painted).sum() > (truth.ids == painted).sum()
    assert read_result(case).ids.tobytes() == truth.ids.tobytes()
