"""The viewer around our layers: scale bar, orientation letters, planes, going to a finding. Uses napari models only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpanoptic.geometry import Affine
from medpanoptic.result import Box, PanopticResult
from napari_medpanoptic.display import bind_display_keys
from napari_medpanoptic.in_step import aim
from napari_medpanoptic.layers import KEY
from napari_medpanoptic.orientation import PLANES, DisplayOrder, direction_letters, display_order, display_placement
from napari_medpanoptic.step import Point
from napari_medpanoptic.windowing import drag_window

_LETTER_PLACES = {"top": "top_center", "bottom": "bottom_center", "left": "middle_left", "right": "middle_right"}
_PREFIX = "medpanoptic_"


def arrange(viewer: Any) -> None:
    """Dress a viewer: scale bar, orientation letters, our layers as they come, our keys, the right-drag for windows.

    Calling it again changes nothing.
    """
    if not arrange_canvas(viewer):
        return
    bind_display_keys(viewer)

    def dress(event: Any) -> None:
        _dress_labels(event.value)
        if len(viewer.layers) == 1:
            _show_acquired_plane(viewer, event.value)

    # last: after the viewer itself has taken the layer into its dimensions
    viewer.layers.events.inserted.connect(dress, position="last")


def arrange_canvas(model: Any) -> bool:
    """Give one canvas its scale bar, orientation letters and the right-drag; tell whether it had none of them yet."""
    from napari.components.overlays import TextOverlay

    from napari_medpanoptic.zoom import mend_zoom

    overlays = model.canvas.overlays
    overlays["scale_bar"].visible = True
    if f"{_PREFIX}top" in overlays:
        return False
    for edge, position in _LETTER_PLACES.items():
        overlays[_PREFIX + edge] = TextOverlay(position=position, font_size=14, color="#ffd166")
    model.mouse_drag_callbacks.append(drag_window)
    mend_zoom(model)

    def update(event: object = None) -> None:
        _show_letters(model)

    def follow(event: Any) -> None:
        event.value.events.visible.connect(update)
        update()

    for emitter in (model.dims.events.order, model.dims.events.ndisplay, model.dims.events.ndim):
        emitter.connect(update)
    for layer in model.layers:
        layer.events.visible.connect(update)
    model.layers.events.inserted.connect(follow, position="last")
    model.layers.events.removed.connect(update)
    update()
    return True


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


def edge_letters(displayed: tuple[int, ...], directions: NDArray[np.float64]) -> dict[str, str]:
    """Return the letters at each canvas edge.

    displayed : the (row, column) axes. directions : (3, 3), column d is the LPS direction of display axis d.
    """
    down, right = (directions[:, axis] for axis in displayed)
    edges = {"top": -down, "bottom": down, "left": -right, "right": right}
    return {edge: direction_letters(direction) for edge, direction in edges.items()}


def _show_letters(viewer: Any) -> None:
    letters = _letters_now(viewer)
    for edge, text in letters.items():
        overlay = viewer.canvas.overlays[_PREFIX + edge]
        overlay.text = text
        overlay.visible = bool(text)


def _letters_now(viewer: Any) -> dict[str, str]:
    """Return the letters of the 2D view of volumes, empty where an orientation is unknown or layers disagree."""
    blank = dict.fromkeys(_LETTER_PLACES, "")
    metas = [layer.metadata.get(KEY, {}) for layer in viewer.layers]
    known = all("affine_lps" in meta and layer.ndim == 3 for meta, layer in zip(metas, viewer.layers, strict=True))
    if not metas or not known or viewer.dims.ndisplay != 2 or viewer.dims.ndim != 3:
        return blank
    shown = [m for m, layer in zip(metas, viewer.layers, strict=True) if layer.visible] or metas[:1]
    letters = [edge_letters(viewer.dims.displayed, m["order"].directions(m["affine_lps"])) for m in shown]
    return letters[0] if all(each == letters[0] for each in letters) else blank


def set_plane(viewer: Any, plane: str) -> None:
    """Show the "axial", "coronal" or "sagittal" plane through the current point, fitted to the canvas."""
    if viewer.dims.ndim != 3:
        return
    viewer.dims.ndisplay = 2
    viewer.dims.order = PLANES[plane]
    viewer.reset_view()


def show_point(viewer: Any, point: Point, size_mm: Sequence[float] | None = None) -> None:
    """Jump: show a point in the middle of every canvas, with a box of ``size_mm`` filling a fifth of each.

    point, size_mm : one value per axis of the viewer (mm, or pixels where the size is unknown); see ``box_in_viewer``.
    """
    if viewer.dims.ndim != len(point) or viewer.dims.ndisplay != 2:
        return
    sizes = (0.0,) * len(point) if size_mm is None else size_mm
    dock = planes_dock(viewer)
    if dock is None:
        aim(viewer, point, sizes)
    else:
        dock.in_step.show_point(point, sizes)


def planes_dock(viewer: Any) -> Any:
    """Return the open Planes dock of a viewer, or None."""
    if getattr(viewer, "window", None) is None:
        return None
    from napari_medpanoptic.planes import planes_of  # Qt: only where there is a window

    return planes_of(viewer)


def canvases(viewer: Any) -> list[Any]:
    """Return the models of all canvases: the viewer and, with the Planes dock, the other two planes."""
    dock = planes_dock(viewer)
    return [viewer, *(side.model for side in dock.sides)] if dock is not None else [viewer]


def listen(viewer: Any, on_press: Callable[..., Any]) -> None:
    """Let ``on_press`` hear of presses on every canvas, also on those opened since it was last asked for."""
    for model in canvases(viewer):
        if on_press not in model.mouse_drag_callbacks:
            model.mouse_drag_callbacks.append(on_press)


def stop_listening(viewer: Any, on_press: Callable[..., Any]) -> None:
    """Let ``on_press`` hear of presses no more."""
    for model in canvases(viewer):
        if on_press in model.mouse_drag_callbacks:
            model.mouse_drag_callbacks.remove(on_press)


def box_in_viewer(box: Box, affine: Affine, shape: tuple[int, ...]) -> tuple[Point, tuple[float, ...]]:
    """Return centre and lengths, in viewer coordinates, of a box of native voxels ((start, stop) per axis)."""
    order = display_order(affine, len(shape))
    scale, translate = display_placement(affine, shape, order)
    centre, size = [], []
    for axis, flip, step, first in zip(order.axes, order.flips, scale, translate, strict=True):
        start, stop = box[axis]
        if flip:
            start, stop = shape[axis] - stop, shape[axis] - start
        centre.append(float((start + stop - 1) / 2 * step + first))
        size.append(float((stop - start) * step))
    return tuple(centre), tuple(size)


def go_to_largest(viewer: Any, result: PanopticResult) -> None:
    """Move the slider to the middle of the largest thing, so that a finding is seen at once. 2D: nothing to do."""
    if result.ndim != 3 or not result.things:
        return
    largest = max(result.things, key=lambda s: result.sizes[s.id])
    order = display_order(result.affine, 3)
    scale, translate = display_placement(result.affine, result.ids.shape, order)
    centre = np.argwhere(order.to_display(result.ids) == largest.id).mean(axis=0).round()
    viewer.dims.set_point((0, 1, 2), tuple(float(c * s + t) for c, s, t in zip(centre, scale, translate, strict=True)))
