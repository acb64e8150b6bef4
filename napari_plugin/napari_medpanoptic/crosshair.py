"""The crosshair of one canvas: where the other planes cut it, in 2D where a click was. In the scene, so no layer."""

from __future__ import annotations

from typing import Any

from vispy.scene.visuals import Line

from napari_medpanoptic.step import crosshair_lines

COLOR = (1.0, 0.82, 0.4, 0.75)
GAP_PIXELS = 14


class Crosshair:
    """Lines through ``dims.point`` of a ViewerModel, in its VispyCanvas."""

    def __init__(self, model: Any, canvas: Any) -> None:
        self.model, self.canvas = model, canvas
        self.on = True
        self.line = Line(connect="segments", color=COLOR, width=1, antialias=True, parent=canvas.view.scene)
        self.line.set_gl_state("translucent", depth_test=False)
        self.line.order = 1_000_000  # over every layer
        self._emitters = (
            model.dims.events.point,
            model.dims.events.order,
            model.dims.events.ndim,
            model.dims.events.ndisplay,
            model.scene.camera.events.zoom,
            model.layers.events.inserted,
            model.layers.events.removed,
        )
        for emitter in self._emitters:
            emitter.connect(self.draw, position="last")
        self.draw()

    def show(self, on: bool) -> None:
        """Switch the lines on or off."""
        self.on = on
        self.draw()

    def close(self) -> None:
        """Take the lines out of the scene."""
        for emitter in self._emitters:
            emitter.disconnect(self.draw)
        self.line.parent = None

    def draw(self, event: Any = None) -> None:
        """Put the lines where the point is now."""
        dims = self.model.dims
        visible = self.on and dims.ndisplay == 2 <= dims.ndim <= 3 and len(self.model.layers) > 0
        self.line.visible = visible
        if visible:
            gap = GAP_PIXELS / max(self.model.scene.camera.zoom, 1e-6)
            self.line.set_data(crosshair_lines(dims.point, dims.displayed, self.model.layers.extent.world, gap))
        # a scale bar that grew is put into its place while the canvas is drawn, which draws it a second time: do it
        # before. napari has no public call for it; ``test_planes_viewer`` counts the drawings
        if self.canvas._needs_overlay_position_update:
            self.canvas._update_overlay_canvas_positions()
        self.canvas.native.update()
