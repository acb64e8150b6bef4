"""Every way to a review: a drop on the window, File > Open Folder, the dock's button, the sample menu."""

from __future__ import annotations

import pytest

from medpanoptic.io import write_result
from medpanoptic.samples import phantom


@pytest.fixture
def folder(tmp_path):
    write_result(phantom(3, shape=(20, 24, 28))[1], tmp_path / "dropped")
    return tmp_path / "dropped"


def review_in(viewer, qtbot):
    """Wait for the review that begins by itself."""
    from napari_medpanoptic.review_widget import ReviewWidget

    def found():
        docks = [d for d in viewer.window.dock_widgets.values() if isinstance(d, ReviewWidget)]
        return docks and docks[0].reading is not None and docks[0].reading.current is not None

    qtbot.waitUntil(lambda: bool(found()), timeout=60000)
    return next(d for d in viewer.window.dock_widgets.values() if isinstance(d, ReviewWidget))


def answer_reader_dialog(monkeypatch):
    """napari asks which reader shall open a folder, since its own claims every folder: a person takes ours."""
    from napari._qt.dialogs import qt_reader_dialog

    asked = []

    def choose(self):
        buttons = {b.text(): b for b in self.reader_btn_group.buttons()}
        asked.append(sorted(buttons))
        return "medpanoptic", False

    monkeypatch.setattr(qt_reader_dialog.QtReaderDialog, "get_user_choices", choose)
    return asked


def test_a_case_dropped_on_the_window_opens_ready_to_read(real_viewer, folder, qtbot, monkeypatch):
    from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
    from qtpy.QtGui import QDragEnterEvent, QDropEvent
    from qtpy.QtWidgets import QApplication

    answer_reader_dialog(monkeypatch)
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(folder))])
    canvas = real_viewer.window._qt_viewer
    at, action = QPointF(50, 50), Qt.DropAction.CopyAction
    held = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    enter = QDragEnterEvent(at.toPoint(), action, mime, *held)
    QApplication.sendEvent(canvas, enter)
    assert enter.isAccepted()
    QApplication.sendEvent(canvas, QDropEvent(at, action, mime, *held))
    review = review_in(real_viewer, qtbot)
    assert [layer.name for layer in real_viewer.layers] == ["dropped stuff", "dropped things", "dropped model"]
    review.reading.verdict("accepted")
    assert review.progress.text().startswith("dropped: 1 of")


def test_file_open_folder_and_the_docks_button_open_a_case(real_viewer, folder, qtbot, monkeypatch):
    from qtpy.QtWidgets import QFileDialog

    asked = answer_reader_dialog(monkeypatch)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *args: str(folder))
    entry = next(a for a in real_viewer.window.file_menu.actions() if a.text().replace("&", "") == "Open Folder...")
    entry.trigger()
    review = review_in(real_viewer, qtbot)
    assert all("medpanoptic" in names for names in asked)
    case = review.case
    review.end()
    review._enable()
    assert review.open_button.isVisible()
    review.open_button.click()
    assert review.reading is not None
    assert review.case == case


def test_the_sample_menu_offers_the_studies(real_viewer, qtbot):
    menus = [a for a in real_viewer.window.file_menu.actions() if a.text().replace("&", "") == "Open Sample"]
    texts = [a.text() for menu in menus for a in menu.menu().actions()]
    inner = [a for menu in menus for a in menu.menu().actions() if a.menu() is not None and "medpanoptic" in a.text()]
    offered = [a.text() for sub in inner for a in sub.menu().actions()]
    assert any("sarcoma" in text.lower() for text in [*texts, *offered])
    viewer_actions = [a for sub in inner for a in sub.menu().actions()]
    next(a for a in viewer_actions if "Fluorescence" in a.text()).trigger()
    qtbot.waitUntil(lambda: len(real_viewer.layers) > 0, timeout=20000)
