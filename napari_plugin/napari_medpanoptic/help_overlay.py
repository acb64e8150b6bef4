"""The list of our keys over the window: F1 shows it, F1 or a click takes it away."""

from __future__ import annotations

from html import escape
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QWidget

from napari_medpanoptic.keys import DISPLAY_KEYS, REVIEW_KEYS, Key

_NAME = "medpanoptic_keys"
_STYLE = "background: rgba(20, 22, 28, 235); color: #f0f0f0; border: 1px solid #ffd166; padding: 14px;"
MOUSE = (
    ("left click", "put the crosshair here; a lesion: to its row"),
    ("Ctrl + click", "choose this lesion as well"),
    ("Alt + drag", "zoom to a box"),
    ("Shift + move", "the crosshair follows the cursor"),
    ("right drag", "window: left and right width, up and down level"),
    ("wheel", "next slice (with the Planes dock), else zoom"),
)
NAPARI = (
    ("P, E, 3", "napari: brush, eraser, polygon"),
    ("Z", "napari: pan, zoom and click"),
    ("[ ]", "napari: brush size"),
)


class HelpOverlay(QLabel):
    """A label over the window that a click closes."""

    def __init__(self, parent: QWidget, groups: dict[str, tuple[tuple[str, str], ...]]) -> None:
        super().__init__(parent)
        self.setObjectName(_NAME)
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setStyleSheet(_STYLE)
        self.setText(help_html(groups))
        self.adjustSize()
        self.move(max(0, (parent.width() - self.width()) // 2), max(0, (parent.height() - self.height()) // 2))

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802  (Qt's name)
        """Close."""
        self.close()
        self.deleteLater()


def help_html(groups: dict[str, tuple[tuple[str, str], ...]]) -> str:
    """Return a table of (key, what it does), two groups side by side."""
    cells = []
    for title, rows in groups.items():
        lines = "".join(f"<tr><td><b>{escape(k)}</b>&nbsp;&nbsp;</td><td>{escape(t)}</td></tr>" for k, t in rows)
        cells.append(f"<td valign='top'><h3>{escape(title)}</h3><table>{lines}</table></td>")
    pairs = ("".join(cells[i : i + 2]) for i in range(0, len(cells), 2))
    return "<table cellspacing='12'>" + "".join(f"<tr>{pair}</tr>" for pair in pairs) + "</table>"


def rows(keys: tuple[Key, ...]) -> tuple[tuple[str, str], ...]:
    """Return (key, text) of keys; the nine presets take one line."""
    shown = [(key.shown, key.text) for key in keys if not key.action.startswith("preset ")]
    presets = [("Ctrl+1 … 9", "window presets")] if len(shown) < len(keys) else []
    return (*presets, *shown)


def toggle(viewer: Any) -> None:
    """Show or hide the list in the middle of the window."""
    window = viewer.window._qt_window
    there = window.findChild(QLabel, _NAME)
    if there is not None:
        there.mousePressEvent(None)
        return
    groups = {"Look": rows(DISPLAY_KEYS), "Mouse": MOUSE, "Review": rows(REVIEW_KEYS), "Tools": NAPARI}
    HelpOverlay(window, groups).show()
