"""Where no Planes dock keeps a crosshair, as in 2D: a click is the place at which I, J and S work. No Qt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from napari_medpanoptic.in_step import is_click, is_looking, point_at
from napari_medpanoptic.reading import Reading
from napari_medpanoptic.view import planes_dock


class ClickedPlace:
    """Listens on the large canvas, and marks the place of a 2D image with a crosshair."""

    def __init__(self, reading: Reading) -> None:
        self.viewer = reading.viewer
        self.crosshair: Any = None
        if self.viewer.dims.ndim == 2 and getattr(self.viewer, "window", None) is not None:
            from napari_medpanoptic.crosshair import Crosshair  # vispy: only where there is a canvas

            self.crosshair = Crosshair(self.viewer, self.viewer.window._qt_viewer.canvas)
        self.viewer.mouse_drag_callbacks.append(self._on_press)

    def toggle(self) -> None:
        """Show or hide the crosshair."""
        if self.crosshair is not None:
            self.crosshair.show(not self.crosshair.on)

    def close(self) -> None:
        """Let go of the canvas."""
        self.viewer.mouse_drag_callbacks.remove(self._on_press)
        if self.crosshair is not None:
            self.crosshair.close()
            self.crosshair = None

    def _on_press(self, model: Any, event: Any) -> Iterator[None]:
        kept = model.dims.ndim == 3 and planes_dock(model) is not None
        if kept or event.button != 1 or event.modifiers or not is_looking(model):
            return
        if (yield from is_click(event)):
            point_at(model, event)
