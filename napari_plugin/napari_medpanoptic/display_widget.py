"""The Display dock: planes, window presets, PET over CT, what is seen. Every button has its key in the tooltip."""

from __future__ import annotations

from functools import partial
from typing import Any

from napari.viewer import Viewer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QButtonGroup,
    QFormLayout,
    QGridLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from napari_medpanoptic.display import (
    FUSION_STATES,
    fusion_state,
    pet_layers,
    role_layers,
    show_fusion,
    toggle_help,
    toggle_role,
)
from napari_medpanoptic.legend import Legend
from napari_medpanoptic.orientation import PLANES
from napari_medpanoptic.view import arrange, set_plane
from napari_medpanoptic.windowing import layer_presets, use_preset, window_layer, window_text

_PRESET_COLUMNS = 3


class DisplayWidget(QWidget):
    """Shows and changes how the viewer shows our layers; follows what keys and the mouse change."""

    def __init__(self, napari_viewer: Viewer) -> None:  # the name by which napari hands itself over
        super().__init__()
        self.viewer = viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        arrange(viewer)
        self._watched: Any = None
        self._build()
        self._emitters = (
            viewer.layers.events.inserted,
            viewer.layers.events.removed,
            viewer.layers.selection.events.active,
            viewer.dims.events.ndim,
        )
        for emitter in self._emitters:
            emitter.connect(self.refresh, position="last")
        self.refresh()

    def _build(self) -> None:
        layout = QVBoxLayout(self)
        planes = QHBoxLayout()
        self.plane_buttons = {plane: QPushButton(plane.capitalize()) for plane in PLANES}
        for plane, button in self.plane_buttons.items():
            button.clicked.connect(partial(self._set_plane, plane))
            planes.addWidget(button)
        layout.addLayout(planes)
        self.window_box = QGroupBox("Window")
        self.window_label = QLabel()
        self.window_label.setToolTip("Drag with the right mouse button: left and right width, up and down level")
        self.presets = QGridLayout()
        inner = QVBoxLayout(self.window_box)
        inner.addWidget(self.window_label)
        inner.addLayout(self.presets)
        layout.addWidget(self.window_box)
        layout.addWidget(self._fusion())
        layout.addLayout(self._seen())
        self.legend = Legend()
        layout.addWidget(self.legend)
        layout.addStretch()

    def _fusion(self) -> QWidget:
        self.fusion_box = QGroupBox("PET and CT")
        row, self.fusion_buttons = QHBoxLayout(), QButtonGroup(self)
        for state in FUSION_STATES:
            button = QPushButton(state[0].upper() + state[1:])
            button.setCheckable(True)
            button.setToolTip("Fused, anatomy alone, PET alone (key W goes round)")
            button.clicked.connect(partial(self._show_fusion, state))
            self.fusion_buttons.addButton(button)
            row.addWidget(button)
        self.opacity = QSlider(Qt.Orientation.Horizontal)
        self.opacity.setRange(0, 100)
        self.opacity.setToolTip("Opacity of PET over CT")
        self.opacity.valueChanged.connect(self._set_opacity)
        form = QFormLayout(self.fusion_box)
        form.addRow(row)
        form.addRow("PET", self.opacity)
        return self.fusion_box

    def _seen(self) -> QHBoxLayout:
        row = QHBoxLayout()
        for text, tip, action in (
            ("Things", "Show or hide the things (key T)", partial(toggle_role, self.viewer, "things")),
            ("Stuff", "Show or hide the tissue (key G)", partial(toggle_role, self.viewer, "stuff")),
            ("Keys", "List all keys (key F1)", partial(toggle_help, self.viewer)),
        ):
            button = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(lambda checked=False, action=action: action())
            row.addWidget(button)
        return row

    def refresh(self, event: object = None) -> None:
        """Show what the layers are now."""
        volume = any(layer.ndim == 3 for layer in self.viewer.layers)
        for button in self.plane_buttons.values():
            button.setEnabled(volume)
        self._watch(window_layer(self.viewer))
        self._fill_presets()
        self._show_window()
        self._follow_fusion()
        self.legend.show_results([*role_layers(self.viewer, "things"), *role_layers(self.viewer, "stuff")])

    def _watch(self, layer: Any) -> None:
        if self._watched is not None:
            self._watched.events.contrast_limits.disconnect(self._show_window)
        self._watched = layer
        if layer is not None:
            layer.events.contrast_limits.connect(self._show_window)
        for image in role_layers(self.viewer, "image"):
            image.events.visible.connect(self._follow_fusion)  # a second connection is none
            image.events.opacity.connect(self._follow_fusion)  # a second connection is none

    def _fill_presets(self) -> None:
        while (item := self.presets.takeAt(0)) is not None:
            item.widget().setParent(None)
        for index, preset in enumerate(layer_presets(self._watched) if self._watched is not None else ()):
            button = QPushButton(preset.name)
            button.setToolTip(f"Ctrl+{index + 1}")
            button.clicked.connect(partial(self._use_preset, index))
            self.presets.addWidget(button, index // _PRESET_COLUMNS, index % _PRESET_COLUMNS)

    def _show_window(self, event: object = None) -> None:
        layer = self._watched
        self.window_box.setVisible(layer is not None)
        self.window_label.setText("" if layer is None else f"{layer.name}: {window_text(layer)}")

    def _follow_fusion(self, event: object = None) -> None:
        state = fusion_state(self.viewer)
        self.fusion_box.setVisible(bool(state))
        if state:
            for button in self.fusion_buttons.buttons():
                button.setChecked(button.text().lower() == state.lower())
            self.opacity.blockSignals(True)
            self.opacity.setValue(round(100 * pet_layers(self.viewer)[0].opacity))
            self.opacity.blockSignals(False)

    def _set_plane(self, plane: str, checked: bool = False) -> None:
        set_plane(self.viewer, plane)

    def _use_preset(self, index: int, checked: bool = False) -> None:
        use_preset(self.viewer, index)

    def _show_fusion(self, state: str, checked: bool = False) -> None:
        show_fusion(self.viewer, state)

    def _set_opacity(self, value: int) -> None:
        for layer in pet_layers(self.viewer):
            layer.opacity = value / 100

    def closeEvent(self, event: Any) -> None:  # noqa: N802  (Qt's name)
        """Stop following the viewer."""
        for emitter in self._emitters:
            emitter.disconnect(self.refresh)
        self._watch(None)
        super().closeEvent(event)
