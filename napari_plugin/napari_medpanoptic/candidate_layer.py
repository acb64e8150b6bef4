"""A candidate that the fusion dropped, as an outline in the picture. napari models only, no Qt."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_medpanoptic.reading import Reading

COLOR = (0.9, 0.62, 0.0, 1.0)  # orange: neither the model's blue nor the purple of changes


class CandidateLayer:
    """One Labels layer with the candidate that is looked at, no larger than its box."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.layer: Any = None

    def show(self, number: int | None) -> None:
        """Draw candidate ``number`` of the model's dropped ones, if its mask is known; None takes it away."""
        viewer, reading = self.reading.viewer, self.reading
        if self.layer is not None and self.layer in viewer.layers:
            viewer.layers.remove(self.layer)
        self.layer = None
        dropped = reading.session.model.dropped[number] if number is not None else None
        if dropped is None or dropped.mask is None:
            return
        grid, active = reading.grid, viewer.layers.selection.active
        place = reading.beside("candidate")
        corner = [where.start for where in grid.display_slices(dropped.box)]
        place["translate"] = grid.translate + np.array(corner) * grid.scale
        self.layer = viewer.add_labels(
            np.array(grid.order.to_display(dropped.mask), np.uint8, order="C"),
            **place,
            colormap={None: COLOR, 0: (0.0,) * 4},
        )
        self.layer.contour = 1
        self.layer.editable = False
        viewer.layers.selection.active = active
