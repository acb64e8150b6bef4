"""RECIST diameters of the current lesion as two lines that can be dragged; a drag is an edit of the session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medpanoptic.geometry import to_world
from medpanoptic.review.edit import Line
from napari_medpanoptic.reading import Reading

COLORS = ("#ffd166", "#56b4e9")  # long, short


class Diameters:
    """Keeps a Shapes layer of two lines in step with the current lesion."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.layer: Any = None
        self._busy = False
        reading.watchers.append(self.follow)

    def toggle(self) -> None:
        """Show the lines ready to be dragged, or take them away."""
        viewer = self.reading.viewer
        if self.layer is not None:
            self.close_layer()
            return
        things = self.reading.things
        self.layer = viewer.add_shapes(
            ndim=things.ndim,
            **self.reading.beside("diameters"),
            face_color="transparent",
        )
        self.layer.events.data.connect(self._on_data)
        self.layer.mode = "direct"  # ends of lines can be dragged
        self.follow()
        viewer.layers.selection.active = self.layer

    def close_layer(self) -> None:
        """Take the lines away and go back to the lesions."""
        viewer, layer, self.layer = self.reading.viewer, self.layer, None
        if layer in viewer.layers:
            viewer.layers.remove(layer)
        if self.reading.things in viewer.layers:
            viewer.layers.selection.active = self.reading.things

    def close(self) -> None:
        """Let go of the reading."""
        self.reading.watchers.remove(self.follow)
        if self.layer is not None:
            self.close_layer()

    def follow(self) -> None:
        """Draw the lines of the current lesion as they are now."""
        if self.layer is None or self._busy:
            return
        if self.layer not in self.reading.viewer.layers:
            self.layer = None  # a person deleted it
            return
        self._busy = True
        try:
            self.layer.selected_data = set()
            self.layer.data = []
            if self.reading.current is not None:
                ends = [self.reading.grid.display_points_of_mm(line) for line in self.lines()]
                self.layer.add_lines(ends, edge_width=0.4, edge_color=list(COLORS))
                self.layer.selected_data = {0, 1}  # napari takes hold of the ends of selected lines only
        finally:
            self._busy = False

    def lines(self) -> tuple[Line, Line]:
        """Return long and short axis in LPS mm: the reader's, else the computed ones."""
        session, current = self.reading.session, self.reading.current or 0
        row, measures = session.row(current), session.measures(current)
        long_axis, short_axis = measures.long_axis, measures.short_axis
        return (
            row.long_axis or _ends(long_axis.start_mm, long_axis.stop_mm),
            row.short_axis or _ends(short_axis.start_mm, short_axis.stop_mm),
        )

    def _on_data(self, event: Any) -> None:
        """Keep lines that were dragged."""
        finished = str(getattr(event, "action", "")).endswith("changed")
        if self._busy or self.reading.current is None or not finished or len(self.layer.data) != 2:
            return
        new = [self._line(ends) for ends in self.layer.data]
        if not all(np.allclose(a, b, atol=1e-3) for a, b in zip(new, self.lines(), strict=True)):
            self._busy = True  # the lines are where the hand left them
            try:
                kept = self.reading.attempt(
                    lambda: self.reading.session.set_axes(self.reading.current or 0, new[0], new[1])
                )
            finally:
                self._busy = False
            if not kept:
                self.follow()

    def _line(self, display: Any) -> Line:
        start, stop = to_world(self.reading.grid.native_points(display), self.reading.grid.affine).tolist()
        return _ends(start, stop)


def _ends(start: Sequence[float], stop: Sequence[float]) -> Line:
    (x, y, z), (u, v, w) = start, stop
    return (x, y, z), (u, v, w)
