"""Split the current lesion around points that a person sets. napari models only, no Qt."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_medpanoptic.reading import Reading

SIZE = 4  # voxels


class Seeds:
    """First a Points layer to click into, then the split: one key does both."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.layer: Any = None

    def toggle(self) -> None:
        """Offer a layer for the points; or split by those that are set, and take it away. Fewer than two: nothing."""
        viewer, things = self.reading.viewer, self.reading.things
        if self.layer is not None and self.layer in viewer.layers:
            points = np.asarray(self.layer.data) * things.scale + things.translate
            self.close()
            if len(points) >= 2:
                self.reading.split_by_points(points)
            else:
                self.reading.tell("Split by points: two or more clicks on the lesion, then the key again")
            return
        if self.reading.current is None or self.reading.locked:
            return
        self.layer = viewer.add_points(
            ndim=things.ndim,
            **self.reading.beside("seeds"),
            size=SIZE,
            face_color="#ffd166",
        )
        self.layer.mode = "add"
        viewer.layers.selection.active = self.layer
        self.reading.tell("Click into each part of the lesion, then split again")

    def close(self) -> None:
        """Take the points away."""
        viewer, layer, self.layer = self.reading.viewer, self.layer, None
        if layer is not None and layer in viewer.layers:
            viewer.layers.remove(layer)
            if self.reading.things in viewer.layers:
                viewer.layers.selection.active = self.reading.things
