"""The buttons of a review, one for each action; their tooltips name the keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qtpy.QtWidgets import QGridLayout, QPushButton, QWidget

from napari_medpanoptic.keys import REVIEW_KEYS

# what a button says
VERDICT_BUTTONS = {
    "previous": "◀",
    "next": "▶",
    "accept": "✓ Accept",
    "reject": "✗ Reject",
    "unsure": "? Unsure",
}
EDIT_BUTTONS = {
    "undo": "Undo",
    "redo": "Redo",
    "new": "New here",
    "delete": "Delete",
    "merge": "Join",
    "split": "Split",
    "points": "Split by points",
    "interpolate": "Fill between",
    "model": "Model",
    "changed": "Changes",
    "axes": "Diameters",
    "help": "Keys",
}


class ActionGrid(QWidget):
    """Buttons in rows; ``press`` is called with the name of the action."""

    def __init__(self, labels: dict[str, str], columns: int, press: Callable[[str], None]) -> None:
        super().__init__()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(3)
        self.buttons: dict[str, QPushButton] = {}
        tips = {key.action: f"{key.text} (key {key.shown})" for key in REVIEW_KEYS}
        for place, (action, text) in enumerate(labels.items()):
            button = self.buttons[action] = QPushButton(text)
            button.setToolTip(tips.get(action, "All keys (key F1)"))
            button.clicked.connect(partial(_pressed, press, action))
            grid.addWidget(button, place // columns, place % columns)


def _pressed(press: Callable[[str], None], action: str, checked: bool = False) -> None:
    press(action)
