"""Where the review differs from the model, as a layer on demand. napari models only, no Qt."""

from __future__ import annotations

from typing import Any

import numpy as np

from medpanoptic.review import Change, changed_voxels
from napari_medpanoptic.reading import Reading

COLOR = (0.8, 0.47, 0.65, 1.0)  # reddish purple: neither a lesion's colour nor the model's blue


class ChangedLayer:
    """Keeps a Labels layer of the changed voxels in step with the session; each edit looks at its own box."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.layer: Any = None
        reading.session.listeners.append(self._on_change)

    def toggle(self) -> None:
        """Show the changed voxels, or take them away."""
        viewer, reading = self.reading.viewer, self.reading
        if self.layer is not None and self.layer in viewer.layers:
            viewer.layers.remove(self.layer)
            self.layer = None
            return
        changed = changed_voxels(reading.session.model, reading.session.live)
        active = viewer.layers.selection.active
        self.layer = viewer.add_labels(
            np.array(reading.grid.order.to_display(changed), np.uint8, order="C"),
            **reading.beside("changed"),
            colormap={None: COLOR, 0: (0.0,) * 4},
            opacity=0.6,
        )
        self.layer.editable = False
        viewer.layers.selection.active = active

    def close(self) -> None:
        """Let go of the session."""
        self.reading.session.listeners.remove(self._on_change)
        if self.layer is not None and self.layer in self.reading.viewer.layers:
            self.reading.viewer.layers.remove(self.layer)

    def _on_change(self, change: Change) -> None:
        if self.layer is None:
            return
        if self.layer not in self.reading.viewer.layers:
            self.layer = None  # a person deleted it
            return
        session, grid = self.reading.session, self.reading.grid
        boxes = (
            [change.box] if change.box is not None else [session.live.box(i) for i in change.ids if i in session.things]
        )
        for box in boxes:
            part = changed_voxels(session.model, session.live, box)
            self.layer.data[grid.display_slices(box)] = grid.order.to_display(part)
        self.layer.refresh()
        self.reading.refresh_side(self.layer)
