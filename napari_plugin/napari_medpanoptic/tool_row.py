"""napari's drawing tools on the lesions, as buttons: they work whichever layer is chosen in the layer list."""

from __future__ import annotations

from functools import partial
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSlider, QWidget

from napari_medpanoptic.reading import Reading

# what a button says, napari's name of the mode, what it does
TOOLS = (
    ("Look", "pan_zoom", "Move, zoom and click (key Z)"),
    ("Brush", "paint", "Paint what belongs to the lesion (key P); other lesions are spared"),
    ("Eraser", "erase", "Take away from the lesion (key E); tissue comes back"),
    ("Polygon", "polygon", "Click round the lesion, double click ends (key 3)"),
    ("Fill", "fill", "Give the area under the click to the lesion (key 4)"),
)
LARGEST = 60  # voxels


class ToolRow(QWidget):
    """Buttons for the modes of the things layer, and the size of its brush; follows keys and napari's own controls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer: Any = None
        self.viewer: Any = None
        self.buttons: dict[str, QPushButton] = {}
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        for text, mode, tip in TOOLS:
            button = self.buttons[mode] = QPushButton(text)
            button.setCheckable(True)
            button.setToolTip(tip)
            button.clicked.connect(partial(self.use, mode))
            row.addWidget(button)
        self.size = QSlider(Qt.Orientation.Horizontal)
        self.size.setRange(1, LARGEST)
        self.size.setToolTip("Size of brush and eraser in voxels (keys [ and ])")
        self.size.valueChanged.connect(self._set_size)
        row.addWidget(QLabel("size"))
        row.addWidget(self.size, stretch=1)

    def begin(self, reading: Reading) -> None:
        """Draw on the lesions of this review from now on."""
        self.viewer, self.layer = reading.viewer, reading.things
        self.layer.events.mode.connect(self._follow)
        self.layer.events.brush_size.connect(self._follow)
        self._follow()

    def end(self) -> None:
        """Let go of the layer."""
        if self.layer is not None:
            self.layer.events.mode.disconnect(self._follow)
            self.layer.events.brush_size.disconnect(self._follow)
        self.viewer = self.layer = None

    def use(self, mode: str, checked: bool = False) -> None:
        """Take a tool. A locked review has none but to look."""
        if self.layer is None:
            return
        self.viewer.layers.selection.active = self.layer
        if self.layer.editable or mode == "pan_zoom":
            self.layer.mode = mode
        self._follow()

    def _set_size(self, size: int) -> None:
        if self.layer is not None:
            self.layer.brush_size = size

    def _follow(self, event: Any = None) -> None:
        for mode, button in self.buttons.items():
            button.setChecked(str(self.layer.mode) == mode)
        self.size.blockSignals(True)
        self.size.setValue(round(self.layer.brush_size))
        self.size.blockSignals(False)
