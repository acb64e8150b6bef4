"""The Planes dock: the two planes that the main canvas does not show, all three in step, with a crosshair."""

from __future__ import annotations

from functools import partial
from typing import Any

from napari.viewer import Viewer
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QSplitter, QVBoxLayout, QWidget

from napari_medpanoptic.crosshair import Crosshair
from napari_medpanoptic.in_step import InStep
from napari_medpanoptic.side_canvas import SideCanvas
from napari_medpanoptic.step import other_planes
from napari_medpanoptic.view import arrange


class PlanesWidget(QWidget):
    """Two canvases beside the viewer's own; ``in_step`` links all three."""

    def __init__(self, napari_viewer: Viewer) -> None:  # the name by which napari hands itself over
        super().__init__()
        # napari hands plugins a proxy without private parts; the main canvas is one
        self.viewer = viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        arrange(viewer)
        order = viewer.dims.order if viewer.dims.ndim == 3 else (0, 1, 2)
        self.sides = [SideCanvas(viewer, plane) for plane in other_planes(order)]
        self.crosshairs = [Crosshair(viewer, viewer.window._qt_viewer.canvas), *(s.crosshair for s in self.sides)]
        self.in_step = InStep([viewer, *(side.model for side in self.sides)])
        self._build()
        self._emitters = (
            (viewer.dims.events.order, self._on_order),
            (viewer.dims.events.ndim, self._on_order),
            (viewer.events.reset_view, self._fit_sides),
        )
        for emitter, callback in self._emitters:
            emitter.connect(callback, position="last")
        # when napari closes, it lets go of its canvas at once, and so must we
        viewer.window._qt_viewer.installEventFilter(self)
        # after the layout has given the canvases their sizes
        QTimer.singleShot(0, self._fit)

    def _build(self) -> None:
        self.cross_box = QCheckBox("Crosshair")
        self.cross_box.setChecked(True)
        self.cross_box.setToolTip("Show where the planes cut each other. It follows clicks, and the cursor with Shift")
        self.cross_box.toggled.connect(self.show_crosshair)
        self.wheel_box = QCheckBox("Wheel scrolls slices")
        self.wheel_box.setChecked(True)
        self.wheel_box.setToolTip("Off: the wheel zooms and Ctrl+wheel scrolls, as napari does it")
        self.wheel_box.toggled.connect(partial(setattr, self.in_step, "wheel_scrolls"))
        splitter = QSplitter(Qt.Orientation.Vertical)
        for side in self.sides:
            splitter.addWidget(side)
        row = QHBoxLayout()
        row.addWidget(self.cross_box)
        row.addWidget(self.wheel_box)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(2, 2, 2, 2)
        layout.addWidget(splitter, stretch=1)
        layout.addLayout(row)

    def show_crosshair(self, on: bool) -> None:
        """Switch the crosshair of all canvases."""
        for cross in self.crosshairs:
            cross.show(on)
        self.cross_box.setChecked(on)

    def refresh(self, layer: Any, where: tuple[slice, ...] | None = None) -> None:
        """Draw the copies of a layer again after its array was changed in place; of Labels, at ``where``."""
        for side in self.sides:
            side.mirror.refresh(layer, where)

    def closeEvent(self, event: Any) -> None:  # noqa: N802  (Qt's name)
        """Undo every connection: the viewer may live on without this dock."""
        self.shut()
        super().closeEvent(event)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802  (Qt's name)
        """Shut down with the main canvas."""
        if event.type() == QEvent.Type.Close:
            self.shut()
        return False

    def shut(self) -> None:
        """Stop following the viewer. A second call does nothing."""
        if not self.crosshairs:
            return
        for emitter, callback in self._emitters:
            emitter.disconnect(callback)
        self.in_step.close()
        self.crosshairs[0].close()  # those of the sides go with them
        self.crosshairs = []
        for side in self.sides:
            side.shut()
        self.sides = []

    def _on_order(self, event: Any = None) -> None:
        if self.viewer.dims.ndim != 3:
            return
        for side, plane in zip(self.sides, other_planes(self.viewer.dims.order), strict=True):
            self.in_step.alone(partial(side.show_plane, plane))

    def _fit(self) -> None:
        if self.crosshairs and len(self.viewer.layers):
            self.viewer.reset_view()

    def _fit_sides(self, event: Any = None) -> None:
        for side in self.sides:
            self.in_step.alone(side.model.reset_view)


def planes_of(viewer: Any) -> PlanesWidget | None:
    """Return the open Planes dock of a viewer, or None."""
    docks = viewer.window.dock_widgets.values()
    return next((dock for dock in docks if isinstance(dock, PlanesWidget) and dock.crosshairs), None)
