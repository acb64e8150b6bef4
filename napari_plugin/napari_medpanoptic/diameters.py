"""RECIST diameters of the current lesion as two lines whose ends can be dragged. napari models only, no Qt.

Nothing is selected in napari's sense, so that both lines keep their colours and the brush keeps its layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpanoptic.geometry import to_world
from medpanoptic.review.edit import Line
from napari_medpanoptic.diameter_shapes import TEXT_SIZE, diameter_shapes, slice_axes
from napari_medpanoptic.in_step import is_looking
from napari_medpanoptic.reading import Reading
from napari_medpanoptic.units import unit_of
from napari_medpanoptic.view import canvases, listen, stop_listening

GRIP_PIXELS = 12  # so near must the mouse come to take hold of an end


class Diameters:
    """Keeps a Shapes layer of two lines, their ends and lengths in step with the current lesion."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.layer: Any = None
        self._of: int | None = None  # the lesion that is drawn
        self._awaited = False  # a drawing after a zoom is on its way
        reading.watchers.append(self.follow)

    def toggle(self) -> None:
        """Show the lines on the slice that they are measured on, or take them away."""
        viewer, things = self.reading.viewer, self.reading.things
        if self.layer is not None:
            self.close_layer()
            return
        active = viewer.layers.selection.active
        text = {"string": "{text}", "color": "white", "size": TEXT_SIZE, "anchor": "center"}
        self.layer = viewer.add_shapes(
            ndim=things.ndim, **self.reading.beside("diameters"), features={"text": []}, text=text, opacity=0.9
        )
        self.layer.editable = False
        viewer.layers.selection.active = active
        viewer.scene.camera.events.zoom.connect(self._zoomed)
        self._of = None
        self.follow()

    def close_layer(self) -> None:
        """Take the lines away."""
        viewer, layer, self.layer = self.reading.viewer, self.layer, None
        viewer.scene.camera.events.zoom.disconnect(self._zoomed)
        if layer in viewer.layers:
            viewer.layers.remove(layer)

    def close(self) -> None:
        """Let go of the reading."""
        self.reading.watchers.remove(self.follow)
        stop_listening(self.reading.viewer, self._on_press)
        if self.layer is not None:
            self.close_layer()

    def follow(self) -> None:
        """Draw the lines of the current lesion as they are now; go to their slice when the lesion is another."""
        if self.layer is None:
            return
        if self.layer not in self.reading.viewer.layers:
            self.close_layer()  # a person deleted it
            return
        listen(self.reading.viewer, self._on_press)
        current = self.reading.current
        if current is None:
            self.layer.data = []
            return
        lines = self.lines()
        if current != self._of:
            self._of = current
            self._show_slice(lines[0])
        self._draw(lines)

    def lines(self) -> tuple[Line, Line]:
        """Return long and short axis in LPS mm: the reader's, else the computed ones."""
        session, current = self.reading.session, self.reading.current or 0
        row, measures = session.row(current), session.measures(current)
        long_axis, short_axis = measures.long_axis, measures.short_axis
        return (
            row.long_axis or _ends(long_axis.start_mm, long_axis.stop_mm),
            row.short_axis or _ends(short_axis.start_mm, short_axis.stop_mm),
        )

    def _show_slice(self, line: Line) -> None:
        dims = self.reading.viewer.dims
        if dims.ndim == 3 and dims.ndisplay == 2:
            axis = dims.order[0]
            middle = self._in_viewer(line).mean(axis=0)
            if abs(middle[axis] - dims.point[axis]) > self.reading.grid.scale[axis] / 2:
                dims.set_point(axis, float(middle[axis]))

    def _in_viewer(self, line: Line) -> NDArray[np.float64]:
        grid = self.reading.grid
        points: NDArray[np.float64] = grid.display_points_of_mm(line) * grid.scale + grid.translate
        return points

    def _zoomed(self, event: Any = None) -> None:
        """Draw ends and labels in their size on the screen again, once for a turn of the wheel."""
        if not self._awaited:
            self._awaited = True
            self.reading.later(self._draw_again)

    def _draw_again(self) -> None:
        self._awaited = False
        if self.layer in self.reading.viewer.layers and self.reading.current is not None:
            self._draw(self.lines())

    def _draw(self, lines: tuple[Line, Line]) -> None:
        reading = self.reading
        shapes, words = diameter_shapes(reading.grid, lines, unit_of(reading.session), self._zoom())
        self.layer.data = []
        # a shape that is added takes the features of the moment
        self.layer.add(**shapes)
        self.layer.features = {"text": words}

    def _zoom(self) -> float:
        """Return the zoom of the canvas that shows the plane in which the lines lie."""
        across, models = slice_axes(self.reading.grid)[0], canvases(self.reading.viewer)
        shown = next((m for m in models if m.dims.ndim < 3 or m.dims.order[0] == across), models[0])
        return max(float(shown.scene.camera.zoom), 1e-6)

    # ---- the hand

    def _on_press(self, model: Any, event: Any) -> Iterator[None]:
        reading = self.reading
        free = event.button == 1 and not event.modifiers and is_looking(model)
        if self.layer is None or reading.current is None or reading.locked or not free:
            return
        lines = self.lines()
        held = self._grip(model, event.position, lines)
        if held is None:
            return
        event.handled = True  # else the camera pans as well
        yield
        number, end = held
        moved = False
        while event.type == "mouse_move":
            lines = self._moved(model, event.position, lines, number, end)
            self._draw(lines)
            event.handled = moved = True
            yield
        if moved:
            self._keep(number, lines[number])

    def _grip(self, model: Any, position: Sequence[float], lines: tuple[Line, Line]) -> tuple[int, int] | None:
        """Return (line, end) near a place in the plane of a canvas, or None."""
        ends = np.concatenate([self._in_viewer(line) for line in lines])
        shown = list(model.dims.displayed)
        away = np.linalg.norm(ends[:, shown] - np.asarray(position)[shown], axis=1) * model.scene.camera.zoom
        if model.dims.ndim == 3:
            axis = model.dims.order[0]
            # what is seen on this slice
            away[np.abs(ends[:, axis] - position[axis]) > 0.51 * self.reading.grid.scale[axis]] = np.inf
        best = int(np.argmin(away))
        return (best // 2, best % 2) if away[best] <= GRIP_PIXELS else None

    def _moved(
        self, model: Any, position: Sequence[float], lines: tuple[Line, Line], number: int, end: int
    ) -> tuple[Line, Line]:
        grid = self.reading.grid
        ends = self._in_viewer(lines[number])
        shown = list(model.dims.displayed)
        ends[end, shown] = np.asarray(position)[shown]
        native = np.array([grid.native_index(point) for point in ends])
        start, stop = to_world(native, grid.affine).tolist()
        changed = _ends(start, stop)
        return (changed, lines[1]) if number == 0 else (lines[0], changed)

    def _keep(self, number: int, line: Line) -> None:
        """Make the dragged line an edit; the other stays as it was, the reader's or the computed one."""
        session, current = self.reading.session, self.reading.current or 0
        row = session.row(current)
        pair = (line, row.short_axis) if number == 0 else (row.long_axis, line)
        if not self.reading.attempt(lambda: session.set_axes(current, *pair)):
            self.follow()


def _ends(start: Sequence[float], stop: Sequence[float]) -> Line:
    (x, y, z), (u, v, w) = start, stop
    return (x, y, z), (u, v, w)
