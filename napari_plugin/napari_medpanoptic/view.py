"""The viewer around our layers: scale bar, orientation letters, planes, going to a finding. Uses napari models only."""

from __future__ import annotations

from typing import Any

import numpy as np

from medpanoptic.result import PanopticResult
from napari_medpanoptic.layers import KEY
from napari_medpanoptic.orientation import AXIS_LETTERS, PLANES, DisplayOrder, display_order, display_placement

_LETTER_PLACES = {"top": "top_center", "bottom": "bottom_center", "left": "middle_left", "right": "middle_right"}
_PREFIX = "medpanoptic_"


def arrange(viewer: Any) -> None:
    """Switch the scale bar on, keep orientation letters at the canvas edges, dress our layers as they come.

    Calling it again changes nothing.
    """
    from napari.components.overlays import TextOverlay

    overlays = viewer.canvas.overlays
    overlays["scale_bar"].visible = True
    if f"{_PREFIX}top" in overlays:
        return
    for edge, position in _LETTER_PLACES.items():
        overlays[_PREFIX + edge] = TextOverlay(position=position, font_size=14, color="#ffd166")

    def update(event: object = None) -> None:
        _show_letters(viewer)

    def dress(event: Any) -> None:
        _dress_labels(event.value)
        if len(viewer.layers) == 1:
            _show_acquired_plane(viewer, event.value)

    for emitter in (viewer.dims.events.order, viewer.dims.events.ndisplay, viewer.dims.events.ndim):
        emitter.connect(update)
    # last: after the viewer itself has taken the layer into its dimensions
    viewer.layers.events.inserted.connect(dress, position="last")
    viewer.layers.events.inserted.connect(update)
    viewer.layers.events.removed.connect(update)
    update()


def _dress_labels(layer: Any) -> None:
    """Make a things layer of ours readable and safe to paint on."""
    meta = layer.metadata.get(KEY, {})
    if meta.get("role") not in ("things", "stuff"):
        return
    layer.preserve_labels = True  # painting must not damage a neighbour
    if meta["role"] == "things":
        layer.selected_label = max((s.id for s in meta["result"].segments), default=0) + 1
        if layer.ndim == 3:
            # a lesion is read through its outline: a fill would mix with CT window and PET colours
            layer.contour = 1
            layer.opacity = 1.0


def acquired_plane(order: DisplayOrder) -> str:
    """Return the plane in which a volume's own slices are seen, which has the best resolution."""
    slider = order.axes.index(0)
    return next(plane for plane, axes in PLANES.items() if axes[0] == slider)


def _show_acquired_plane(viewer: Any, layer: Any) -> None:
    order = layer.metadata.get(KEY, {}).get("order")
    if order is not None and layer.ndim == 3:
        set_plane(viewer, acquired_plane(order))


def edge_letters(displayed: tuple[int, ...]) -> dict[str, str]:
    """Return the letter at each canvas edge for the displayed (row, column) axes of a volume in display order."""
    (top, bottom), (left, right) = (AXIS_LETTERS[axis] for axis in displayed)
    return {"top": top, "bottom": bottom, "left": left, "right": right}


def _show_letters(viewer: Any) -> None:
    # letters only where every layer is a volume whose orientation we know, in a 2D view of it
    known = [layer.metadata.get(KEY, {}).get("affine_lps") is not None and layer.ndim == 3 for layer in viewer.layers]
    on = bool(known) and all(known) and viewer.dims.ndisplay == 2 and viewer.dims.ndim == 3
    letters = edge_letters(viewer.dims.displayed) if on else dict.fromkeys(_LETTER_PLACES, "")
    for edge, text in letters.items():
        overlay = viewer.canvas.overlays[_PREFIX + edge]
        overlay.text = text
        overlay.visible = on


def set_plane(viewer: Any, plane: str) -> None:
    """Show the "axial", "coronal" or "sagittal" plane through the current point, fitted to the canvas."""
    if viewer.dims.ndim != 3:
        return
    viewer.dims.ndisplay = 2
    viewer.dims.order = PLANES[plane]
    viewer.reset_view()


def go_to_largest(viewer: Any, result: PanopticResult) -> None:
    """Move the slider to the middle of the largest thing, so that a finding is seen at once. 2D: nothing to do."""
    if result.ndim != 3 or not result.things:
        return
    largest = max(result.things, key=lambda s: result.sizes[s.id])
    order = display_order(result.affine, 3)
    scale, translate = display_placement(result.affine, result.ids.shape, order)
    centre = np.argwhere(order.to_display(result.ids) == largest.id).mean(axis=0).round()
    viewer.dims.set_point((0, 1, 2), tuple(float(c * s + t) for c, s, t in zip(centre, scale, translate, strict=True)))
