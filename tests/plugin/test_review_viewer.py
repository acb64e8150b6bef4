"""A whole reading as a person does it: real keys and mouse, from open to signed SEG and SR, on the sample study."""

from __future__ import annotations

import shutil
import subprocess
import time

import numpy as np
import pydicom
import pytest
from scipy import ndimage

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.io import read_result, write_result
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.samples import PHANTOM_CLASSES, sample_path
from tests.plugin.hands import canvas_of

ROLES = Code("49755003", "SCT", "Morphologically Abnormal Structure"), Code("108369006", "SCT", "Neoplasm")
CLASSES = ClassTable((ClassInfo(1, "tumour", True, (220, 60, 40), *ROLES), PHANTOM_CLASSES[2]))


@pytest.fixture
def case(tmp_path):
    """A result of the sample study that needs no model: every hot spot of the PET is a lesion."""
    from napari_medpanoptic.sample_data import sarcoma_petct

    volume = sarcoma_petct()[0][1]["metadata"]["medpanoptic"]["volume"]
    suv = volume.array[[c.unit for c in volume.channels].index("SUV")]
    labels, count = ndimage.label(suv > 4)
    sizes = ndimage.sum_labels(suv > 4, labels, range(1, count + 1))
    kept = np.argsort(sizes)[::-1][:4]
    kept = [i for i in kept if sizes[i] > 20]
    ids = np.ones(labels.shape, np.int32)
    for place, i in enumerate(kept):
        ids[labels == i + 1] = place + 2
    if len(kept) == 1:  # one tumour: cut it in four, so that there is a list to read
        rows = np.argwhere(ids == 2)[:, 1]
        ids[ids == 2] = 2 + np.digitize(rows, np.quantile(rows, (0.25, 0.5, 0.75)))
    found = sorted(set(np.unique(ids).tolist()) - {1})
    segments = (Segment(1, 2), *(Segment(i, 1, score=1 - i / 10) for i in found))
    result = PanopticResult(ids, segments, CLASSES, volume.affine)
    folder = tmp_path / "sarcoma"
    write_result(result, folder)
    return folder


@pytest.fixture
def widget(small_review):
    """The Review dock on a small phantom: what does not need the study does not read it."""
    return small_review


@pytest.fixture
def study_review(real_viewer, case, qtbot):
    """The Review dock on the sample study."""
    from napari_medpanoptic.start import start_review

    dock = start_review(real_viewer, case, sample_path("sarcoma_petct"), reader="A. Reader")
    qtbot.wait(100)
    return dock


def test_a_reading_by_keyboard_from_open_to_signed_seg_and_sr(real_viewer, study_review, qtbot, capsys, monkeypatch):
    from qtpy.QtCore import Qt

    widget = study_review
    reading, canvas = widget.reading, canvas_of(real_viewer)
    lesions = list(reading.session.things)
    assert len(lesions) >= 2
    assert widget.progress.text() == f"sarcoma: 0 of {len(lesions)} read"
    assert not widget.sign_box.button.isEnabled()
    correct_by_brush(reading, canvas, qtbot)

    start = time.perf_counter()
    for _ in lesions[1:]:
        qtbot.keyClick(canvas, Qt.Key.Key_A)
    seconds = (time.perf_counter() - start) / len(lesions[1:])
    qtbot.keyClick(canvas, Qt.Key.Key_U)
    with capsys.disabled():
        print(f"\nseconds per accepted lesion by keyboard alone: {seconds:.2f} ({len(lesions) - 1} accepted)")
    assert seconds < 5
    assert widget.progress.text().startswith(f"sarcoma: {len(lesions)} of {len(lesions)} read")

    signed = sign_by_mouse(widget, canvas, qtbot)
    find_the_files(widget.sign_box, signed, qtbot, monkeypatch)
    check_signed(signed, len(lesions))
    qtbot.keyClick(canvas, Qt.Key.Key_R)  # locked: refused and said
    assert [e.action for e in reading.session.edits][-1] != "rejected"
    qtbot.mouseClick(widget.sign_box.again, Qt.MouseButton.LeftButton)
    assert widget.reading.session.version == 2


def correct_by_brush(reading, canvas, qtbot):
    """Paint over the current lesion by a real drag of the mouse; undo and redo by keys."""
    from qtpy.QtCore import QPoint, Qt

    first = reading.current
    volume = reading.session.measures(first).size
    qtbot.keyClick(canvas, Qt.Key.Key_P)
    assert str(reading.things.mode) == "paint"
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)
    qtbot.mousePress(canvas, Qt.MouseButton.LeftButton, pos=middle)
    for step in range(1, 12):
        qtbot.mouseMove(canvas, middle + QPoint(12 * step, 0))
        qtbot.wait(10)
    qtbot.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=middle + QPoint(132, 0))
    assert [e.action for e in reading.session.edits] == ["paint"]
    assert reading.session.measures(first).size > volume
    qtbot.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert reading.session.measures(first).size == volume
    qtbot.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    assert reading.session.measures(first).size > volume
    qtbot.keyClick(canvas, Qt.Key.Key_Z)  # napari: pan and zoom again


def sign_by_mouse(widget, canvas, qtbot):
    """Press Sign and watch the window while a worker writes; return the signed folder."""
    from qtpy.QtCore import Qt, QTimer

    reading = widget.reading
    widget.sign_box.name.setText("B. Reader")
    told, ticks, timer = [], [], QTimer()
    widget.sign_box.steps.told.connect(lambda part, step: told.append((part, step)))
    timer.timeout.connect(lambda: ticks.append(1))
    timer.start(20)
    qtbot.mouseClick(widget.sign_box.button, Qt.MouseButton.LeftButton)
    signed = widget.case / "review" / "v1"
    assert reading.locked  # the files are written by a worker; the window is free
    assert widget.sign_box.bar.isVisible()
    qtbot.keyClick(canvas, Qt.Key.Key_R)
    assert [e.action for e in reading.session.edits][-1] == "unsure"
    qtbot.waitUntil(lambda: widget.sign_box.worker is None, timeout=120000)
    timer.stop()
    assert len(ticks) >= 5  # the window lived on
    assert [part for part, _ in told] == sorted(part for part, _ in told)
    assert {"nifti", "dicom-seg", "dicom-sr", "dicom-sc", "list", "hashes", "signed"} <= {step for _, step in told}
    assert not widget.sign_box.bar.isVisible()
    assert not reading.things.editable
    return signed


def find_the_files(box, signed, qtbot, monkeypatch):
    """What is said after signing, and the button that shows the folder."""
    from napari_medpanoptic import sign_box
    from qtpy.QtCore import Qt

    said = box.said.text()
    assert all(part in said for part in ("Signed as v1 and locked", str(signed), "seg.dcm", "sr.dcm", "lesions.csv"))
    opened = []
    monkeypatch.setattr(sign_box.QDesktopServices, "openUrl", opened.append)
    qtbot.mouseClick(box.files, Qt.MouseButton.LeftButton)
    assert opened[0].toLocalFile() == str(signed)


def check_signed(signed, lesions):
    """All but the last accepted; SEG and SR valid, with the reader's name."""
    verdicts = sorted(s.verdict for s in read_result(signed).things)
    assert verdicts == ["accepted"] * (lesions - 1) + ["unsure"]
    for name in ("seg.dcm", "sr.dcm"):
        dataset = pydicom.dcmread(signed / name)
        assert dataset.StudyInstanceUID
        validate(signed / name)
    assert "B. Reader" in str(pydicom.dcmread(signed / "sr.dcm").to_json())


def validate(path):
    """Let dicom3tools look at a file, where it is installed."""
    if shutil.which("dciodvfy") is None:
        return
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    assert not errors, errors


def test_rows_and_clicks_follow_each_other(real_viewer, widget, qtbot):
    from qtpy.QtCore import Qt

    reading = widget.reading
    other = next(i for i in reading.session.things if i != reading.current)
    row = widget.model.row_of(other)
    spot = widget.table.visualRect(widget.model.index(row, 1)).center()
    qtbot.mouseClick(widget.table.viewport(), Qt.MouseButton.LeftButton, pos=spot)
    assert reading.current == other
    assert reading.under_crosshair() in (other, None)  # a ring has no lesion in the middle of its box
    native = canvas_of(real_viewer)
    reading.go(reading.session.things[0])
    qtbot.wait(100)
    qtbot.keyClick(native, Qt.Key.Key_N)
    first_row = widget.table.selectionModel().selectedRows()
    assert [int(widget.model.ids[i.row()]) for i in first_row] == [reading.current]
    widget.filter.setText("no such lesion")
    assert widget.model.rowCount() == 0
    widget.filter.setText("unread")
    assert widget.model.rowCount() == len(reading.session.things)


def test_an_unsigned_review_is_found_at_the_start(real_viewer, widget, qtbot, monkeypatch):
    from napari_medpanoptic import start

    widget.reading.verdict("rejected")
    asked = []
    monkeypatch.setattr(start, "ask", lambda waiting: asked.append(waiting.edits) or "resume")
    again = start.start_review(real_viewer, widget.case, reader="A. Reader")
    assert asked == [1]
    assert again is widget
    assert (widget.reading.table["status"] == "rejected").sum() == 1
    monkeypatch.setattr(start, "ask", lambda waiting: "discard")
    start.start_review(real_viewer, widget.case, reader="A. Reader")
    assert set(widget.reading.table["status"]) == {"unread"}
