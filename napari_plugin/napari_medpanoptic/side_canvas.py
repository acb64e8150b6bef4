"""One extra canvas: a viewer model with copies of the layers, in the plane that it is given."""

from __future__ import annotations

from typing import Any

from napari._qt.qt_viewer import QtViewer  # napari has no public canvas widget; its own examples take this one
from napari.components import ViewerModel
from qtpy.QtCore import QCoreApplication, QEvent, QSize
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_medpanoptic.crosshair import Crosshair
from napari_medpanoptic.mirror import LayerMirror
from napari_medpanoptic.orientation import PLANES
from napari_medpanoptic.view import arrange_canvas, set_plane


class SideCanvas(QWidget):
    """Shows another plane of ``viewer``; ``model`` is a ViewerModel of its own, with slider, letters and scale bar."""

    def __init__(self, viewer: Any, plane: str) -> None:
        super().__init__()
        self.viewer = viewer
        self.model = ViewerModel(title=plane)
        self.model.theme = viewer.theme
        arrange_canvas(self.model)
        self.mirror = LayerMirror(viewer, self.model)
        self.qt: Any = QtViewer(self.model)
        self.crosshair = Crosshair(self.model, self.qt.canvas)
        # one set of keys: what is bound on the viewer works over every canvas
        self.model._keymap = viewer._keymap
        self.title = QPushButton()
        self.title.setFlat(True)
        self.title.setToolTip("Show this plane in the large canvas")
        self.title.clicked.connect(self._enlarge)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.title)
        layout.addWidget(self.qt, stretch=1)
        self.setMinimumSize(200, 160)
        self.show_plane(plane)

    def show_plane(self, plane: str) -> None:
        """Turn to a plane and fit it to the canvas; the point stays."""
        self.plane = plane
        self.title.setText(f"{plane.capitalize()}  ⤢")
        if self.model.dims.ndim == 3:
            self.model.dims.order = PLANES[plane]
            self.model.reset_view()

    def sizeHint(self) -> QSize:  # noqa: N802  (Qt's name)
        """Return a modest size: the large canvas keeps most of the window."""
        return QSize(400, 330)

    def _enlarge(self, checked: bool = False) -> None:
        set_plane(self.viewer, self.plane)

    def shut(self) -> None:
        """Let go of the viewer and of the canvas; a closed canvas must not hear of layers any more."""
        self.crosshair.close()
        self.mirror.close()
        self.qt.close()
        self.qt.setParent(None)
        self.qt.deleteLater()
        # now, not later: napari counts the canvases that outlive their window
        QCoreApplication.sendPostedEvents(self.qt, QEvent.Type.DeferredDelete)
        del self.qt, self.crosshair
