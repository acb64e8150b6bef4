"""What the display keys and the Display dock do: our layers by role, PET over CT. napari models only, no Qt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from napari_medpanoptic.keys import DISPLAY_KEYS, bind
from napari_medpanoptic.layers import FUSION_LOOK, KEY, PET_ALONE_LOOK
from napari_medpanoptic.windowing import use_preset


def role_layers(viewer: Any, role: str) -> list[Any]:
    """Return our layers of a role: "things", "stuff" or "image"."""
    return [layer for layer in viewer.layers if layer.metadata.get(KEY, {}).get("role") == role]


def toggle_role(viewer: Any, role: str) -> None:
    """Hide all layers of a role if one is seen, else show them all."""
    layers = role_layers(viewer, role)
    seen = any(layer.visible for layer in layers)
    for layer in layers:
        layer.visible = not seen


def pet_layers(viewer: Any) -> list[Any]:
    """Return the image layers that show SUV."""
    return [layer for layer in role_layers(viewer, "image") if channel_unit(layer) == "SUV"]


def channel_unit(layer: Any) -> str:
    """Return the unit of the channel that an image layer of ours shows, or ""."""
    meta = layer.metadata.get(KEY, {})
    volume = meta.get("volume")
    channels = volume.channels if volume is not None else ()
    return next((c.unit for c in channels if c.name == meta.get("channel")), "")


def anatomy_layers(viewer: Any) -> list[Any]:
    """Return the image layers that PET can lie over, the one on which it is read first: CT before MR."""
    others = [layer for layer in role_layers(viewer, "image") if channel_unit(layer) != "SUV" and not layer.rgb]
    return sorted(others, key=lambda layer: channel_unit(layer) != "HU")


FUSION_STATES = ("fused", "anatomy", "PET")


def show_fusion(viewer: Any, state: str) -> None:
    """Show "fused" (PET in colour over anatomy), "anatomy" or "PET" (alone, dark on white). No PET: nothing to do."""
    pets, anatomy = pet_layers(viewer), anatomy_layers(viewer)
    if not pets or not anatomy:
        return
    for layer in pets:
        layer.visible = state != "anatomy"
        for name, value in (PET_ALONE_LOOK if state == "PET" else FUSION_LOOK).items():
            setattr(layer, name, value)
    if state == "PET":
        for layer in anatomy:
            layer.visible = False
    elif not any(layer.visible for layer in anatomy):
        anatomy[0].visible = True


def fusion_state(viewer: Any) -> str:
    """Return which of ``FUSION_STATES`` is shown, or "" where there is no PET with anatomy."""
    pets, anatomy = pet_layers(viewer), anatomy_layers(viewer)
    if not pets or not anatomy:
        return ""
    if not any(layer.visible for layer in pets):
        return "anatomy"
    return "fused" if any(layer.visible for layer in anatomy) else "PET"


def next_fusion(viewer: Any) -> None:
    """Go round: fused, anatomy alone, PET alone."""
    now = fusion_state(viewer)
    if now:
        show_fusion(viewer, FUSION_STATES[(FUSION_STATES.index(now) + 1) % len(FUSION_STATES)])


def toggle_crosshair(viewer: Any) -> None:
    """Switch the crosshair of the Planes dock or, in 2D, that of the review."""
    from napari_medpanoptic.view import planes_dock

    dock = planes_dock(viewer)
    if dock is not None:
        dock.show_crosshair(not dock.cross_box.isChecked())
    elif getattr(viewer, "window", None) is not None:
        from napari_medpanoptic.docks import review_if_open

        review = review_if_open(viewer)
        if review is not None:
            review.toggle_crosshair()


def toggle_help(viewer: Any) -> None:
    """Show the list of keys over the canvas, or take it away. Without a window there is nothing to show it on."""
    if getattr(viewer, "window", None) is not None:
        from napari_medpanoptic.help_overlay import toggle

        toggle(viewer)


def display_actions(viewer: Any) -> dict[str, Callable[[], Any]]:
    """Return {action: function} of the display keys."""
    return {
        **{f"preset {i}": partial(use_preset, viewer, i - 1) for i in range(1, 10)},
        "pet": partial(next_fusion, viewer),
        "things": partial(toggle_role, viewer, "things"),
        "stuff": partial(toggle_role, viewer, "stuff"),
        "crosshair": partial(toggle_crosshair, viewer),
        "help": partial(toggle_help, viewer),
    }


def bind_display_keys(viewer: Any) -> None:
    """Bind the display keys on a viewer."""
    bind(viewer, DISPLAY_KEYS, display_actions(viewer))
