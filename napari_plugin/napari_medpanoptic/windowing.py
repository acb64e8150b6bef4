"""Window and level in the viewer: which layer, its presets, the right-drag. napari models only, no Qt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from napari_medpanoptic.layers import KEY
from napari_medpanoptic.windows import Preset, dragged, presets


def window_layer(viewer: Any) -> Any:
    """Return the image whose window is meant: the active one if it is seen, else the lowest gray image; or None."""
    active = viewer.layers.selection.active
    if _is_gray(active) and active.visible:
        return active
    return next((layer for layer in viewer.layers if _is_gray(layer) and layer.visible), None)


def _is_gray(layer: Any) -> bool:
    return type(layer).__name__ == "Image" and not layer.rgb


def layer_presets(layer: Any) -> tuple[Preset, ...]:
    """Return the presets of an image layer."""
    meta = layer.metadata.get(KEY, {})
    volume = meta.get("volume")
    channels = volume.channels if volume is not None else ()
    channel = next((c for c in channels if c.name == meta.get("channel")), None)
    return presets(channel, layer.data, meta.get("windows", ()))


def use_preset(viewer: Any, index: int) -> None:
    """Apply a preset (0-based) to the layer that is meant, and say so in the status bar; too high a number is none."""
    layer = window_layer(viewer)
    if layer is None:
        return
    choice = layer_presets(layer)
    if index < len(choice):
        set_window(layer, *choice[index].window(layer.data))
        viewer.status = f"{layer.name}: {choice[index].name}, {window_text(layer)}"


def set_window(layer: Any, low: float, high: float) -> None:
    """Set the contrast limits; the slider's range grows where it must."""
    first, last = layer.contrast_limits_range
    layer.contrast_limits_range = (min(first, low), max(last, high))
    layer.contrast_limits = (low, high)


def window_text(layer: Any) -> str:
    """Return "level 40, width 400" of a layer, with as many digits as the width needs."""
    low, high = layer.contrast_limits
    digits = 0 if high - low >= 20 else 2
    return f"level {(low + high) / 2:.{digits}f}, width {high - low:.{digits}f}"


def drag_window(viewer: Any, event: Any) -> Iterator[None]:
    """Mouse drag callback: the right button changes level (up, down) and width (left, right).

    napari's own use of the right button comes first: encircling in the Labels paint mode, and every other mode than
    pan and zoom.
    """
    active = viewer.layers.selection.active
    layer = window_layer(viewer)
    busy = active is not None and str(active.mode) != "pan_zoom"
    if event.button != 2 or event.modifiers or busy or layer is None or viewer.dims.ndisplay != 2:
        return
    start, (x, y) = layer.contrast_limits, event.pos
    event.handled = True
    yield
    while event.type == "mouse_move":
        set_window(layer, *dragged(start, event.pos[0] - x, event.pos[1] - y))
        viewer.status = f"{layer.name}: {window_text(layer)}"
        event.handled = True  # else the camera zooms as well
        yield
