"""Where the review differs from the model, as a layer on demand. napari models only, no Qt."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpanoptic.review import Change
from napari_medpanoptic.reading import Reading

COLOR = (0.8, 0.47, 0.65, 1.0)  # reddish purple: neither a lesion's colour nor the model's blue


class ChangedMap:
    """An array in display order, 1 where the review differs from the model: worked out for the slice that is asked for.

    As ``review.changed_voxels``: what was rejected counts as tissue. napari takes it in place of a NumPy array.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        model, order = reading.session.model, reading.grid.order
        self._was = np.zeros(max((s.id for s in model.segments), default=0) + 1, np.int32)
        for segment in model.things:
            self._was[segment.id] = segment.id
        self._maps = order.to_display(model.ids), order.to_display(reading.session.ids)
        self.shape, self.ndim = self._maps[0].shape, model.ndim

    def __len__(self) -> int:
        """Return the length of the first axis."""
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        """Return what NumPy's basic indexing would of the whole array."""
        was, now = self._was[self._maps[0][key]], self._reading.in_picture[self._maps[1][key]]
        return np.not_equal(was, now).astype(np.uint8)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        """Return the whole array."""
        return np.asarray(self[...], dtype)


class ChangedLayer:
    """Keeps a Labels layer of the changed voxels in step with the session; an edit works out the slices seen."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.layer: Any = None
        reading.session.listeners.append(self._on_change)

    def toggle(self) -> None:
        """Show the changed voxels, or hide them."""
        viewer = self.reading.viewer
        if self.layer is not None and self.layer in viewer.layers:
            self.layer.visible = not self.layer.visible
            return
        active = viewer.layers.selection.active
        self.layer = viewer.add_labels(
            ChangedMap(self.reading),
            **self.reading.beside("changed"),
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
        """Draw it anew; a layer that is hidden is sliced when it is shown."""
        if self.layer is None:
            return
        if self.layer not in self.reading.viewer.layers:
            self.layer = None  # a person deleted it
        elif self.layer.visible:
            self.layer.refresh(thumbnail=False, highlight=False, extent=False)
            self.reading.refresh_side(self.layer)
