"""Copies of the viewer's layers for another canvas: same arrays, same look, always in step. napari models only.

A napari layer holds the one slice that it shows, so a second canvas needs layers of its own. The copies share the
voxels with the originals (nothing is duplicated in memory); what is set on one side is set on the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from napari_medpanoptic.grid import box_of_stroke
from napari_medpanoptic.redraw import redraw

LOOK = ("visible", "opacity", "blending", "name")
SHARED: dict[str, tuple[str, ...]] = {
    "Image": (*LOOK, "contrast_limits", "gamma", "colormap", "interpolation2d"),
    "Labels": (
        *LOOK,
        "contour",
        "colormap",
        "features",
        "selected_label",
        "show_selected_label",
        "brush_size",
        "preserve_labels",
        "contiguous",
        "n_edit_dimensions",
        "mode",
        "editable",
    ),
    "Shapes": (*LOOK, "mode", "editable"),
    "Points": (*LOOK, "mode", "editable"),
}


class LayerMirror:
    """Keeps copies of ``source``'s layers in ``target`` (both ViewerModels).

    A stroke on a copy is told as a stroke on its original, so that who listens there need not know of copies.
    """

    def __init__(self, source: Any, target: Any) -> None:
        self.source, self.target = source, target
        self.copies: dict[Any, Any] = {}
        self._callbacks: dict[Any, list[tuple[Any, Callable]]] = {}
        self._painted: dict[Any, tuple[slice, ...]] = {}  # strokes that may not be in the array yet
        self._busy = False
        events = source.layers.events
        events.inserted.connect(self._on_inserted, position="last")
        events.removed.connect(self._on_removed)
        events.reordered.connect(self._on_reordered)
        source.layers.selection.events.active.connect(self._on_active)
        for layer in source.layers:
            self._add(layer)
        self._on_active()

    def close(self) -> None:
        """Stop following, and let go of every layer."""
        events = self.source.layers.events
        for emitter, callback in (
            (events.inserted, self._on_inserted),
            (events.removed, self._on_removed),
            (events.reordered, self._on_reordered),
            (self.source.layers.selection.events.active, self._on_active),
        ):
            emitter.disconnect(callback)
        for layer in list(self.copies):
            self._remove(layer)

    def refresh(self, layer: Any, where: tuple[slice, ...] | None = None) -> None:
        """Draw a copy again after its shared array changed; of Labels, ``where`` names the part that did."""
        copy = self.copies.get(layer)
        if copy is not None and where is not None:
            redraw(copy, where)
        elif copy is not None:
            copy.refresh(thumbnail=False, extent=False)

    def _on_inserted(self, event: Any) -> None:
        self._add(event.value)

    def _add(self, layer: Any) -> None:
        shared = SHARED.get(type(layer).__name__)
        if shared is None or layer in self.copies or getattr(layer, "multiscale", False):
            return  # surfaces, tracks and pyramids stay in the main canvas
        data, attributes, kind = layer.as_layer_data_tuple()
        copy = type(layer).create(data, attributes, kind)
        copy._keymap = layer._keymap  # one set of keys, as for the viewers
        for name in shared:  # the tuple leaves some out, such as the outline
            setattr(copy, name, getattr(layer, name))
        self.copies[layer] = copy
        links: list[tuple[Any, Callable]] = []
        for name in shared:
            for one, other in ((layer, copy), (copy, layer)):
                links.append((getattr(one.events, name), partial(self._share, one, other, name)))
        links.append((layer.events.data, partial(self._share_data, layer, copy)))
        if kind in ("shapes", "points"):
            links.append((copy.events.data, partial(self._share_data, copy, layer)))
        if kind == "labels":
            for one, other in ((layer, copy), (copy, layer)):
                links.append((one.events.paint, partial(self._on_painted, one, other)))
                links.append((one.events.labels_update, partial(self._on_drawn, other)))
        for emitter, callback in links:
            emitter.connect(callback)
        self._callbacks[layer] = links
        place = sum(other in self.copies for other in self.source.layers[: self.source.layers.index(layer)])
        self.target.layers.insert(place, copy)

    def _on_removed(self, event: Any) -> None:
        self._remove(event.value)

    def _remove(self, layer: Any) -> None:
        for emitter, callback in self._callbacks.pop(layer, ()):
            emitter.disconnect(callback)
        copy = self.copies.pop(layer, None)
        for gone in (layer, copy):
            self._painted.pop(gone, None)
        if copy is not None and copy in self.target.layers:
            self.target.layers.remove(copy)

    def _on_reordered(self, event: Any = None) -> None:
        wanted = [self.copies[layer] for layer in self.source.layers if layer in self.copies]
        for place, copy in enumerate(wanted):
            now = self.target.layers.index(copy)
            if now != place:
                self.target.layers.move(now, place)

    def _on_active(self, event: Any = None) -> None:
        copy = self.copies.get(self.source.layers.selection.active)
        if copy is None:
            self.target.layers.selection.clear()
        else:
            self.target.layers.selection.active = copy

    def _share(self, one: Any, other: Any, name: str, event: Any = None) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            setattr(other, name, getattr(one, name))
        finally:
            self._busy = False

    def _share_data(self, one: Any, other: Any, event: Any = None) -> None:
        # shapes announce a change before and after it; only then are the data whole
        if self._busy or str(getattr(event, "action", "changed")).endswith("ing"):
            return
        self._busy = True
        try:
            other.data = one.data
        finally:
            self._busy = False

    def _on_painted(self, one: Any, other: Any, event: Any) -> None:
        """Draw a stroke on the other side; napari tells of a fill before it writes it, so perhaps once more later."""
        where = self._painted[other] = box_of_stroke(event.value)
        redraw(other, where)
        if other in self.copies:
            other.events.paint(value=event.value)

    def _on_drawn(self, other: Any, event: Any) -> None:
        where = None if getattr(event, "redrawn", False) else self._painted.pop(other, None)
        if where is not None:
            redraw(other, where, tell=other in self.copies)
