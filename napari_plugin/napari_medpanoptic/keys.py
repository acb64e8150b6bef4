"""Our keys: what each does, and how it is bound. No Qt.

napari ignores keys in a manifest, so they are bound on the viewer in code. A layer's own keys come before the
viewer's: with a Shapes or Points layer active, napari's drawing keys keep their meaning. None of ours is a key of
napari's viewer, Image or Labels (a test compares); that is why the presets need Ctrl: the bare digits are brushes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Key:
    """A key in napari's notation, the name of its action, and what it does in a few words."""

    key: str
    action: str
    text: str

    @property
    def shown(self) -> str:
        """The key as a person reads it."""
        return self.key.replace("Control", "Ctrl").replace("-", "+")


DISPLAY_KEYS = (
    *(Key(f"Control-{i}", f"preset {i}", f"window preset {i}") for i in range(1, 10)),
    Key("W", "pet", "PET over CT, or not"),
    Key("T", "things", "things shown or hidden"),
    Key("G", "stuff", "stuff (tissue) shown or hidden"),
    Key("K", "crosshair", "crosshair on or off"),
    Key("F1", "help", "this list"),
)


REVIEW_KEYS = (
    Key("N", "next", "next lesion"),
    Key("Shift-N", "previous", "the lesion before"),
    Key("A", "accept", "accept, and on to the next unread"),
    Key("R", "reject", "reject"),
    Key("U", "unsure", "unsure"),
    Key("Delete", "delete", "delete the lesion"),
    Key("J", "merge", "join: chosen rows, or with the lesion under the crosshair"),
    Key("S", "split", "split at the crosshair, across the long axis"),
    Key("Shift-S", "points", "split around points: once to set them, once more to split"),
    Key("Shift-C", "class", "the next class"),
    Key("Shift-T", "target", "target lesion, or not"),
    Key("Shift-L", "node", "lymph node, or not"),
    Key("Shift-W", "note", "write a note; Return goes back"),
    Key("I", "new", "new lesion, grown at the crosshair"),
    Key("Shift-I", "interpolate", "fill between slices"),
    Key("D", "model", "what the model said, shown or hidden"),
    Key("Shift-D", "changed", "what was changed, shown or hidden"),
    Key("Q", "axes", "diameters, shown and draggable, or hidden"),
    Key("Control-Z", "undo", "undo, whatever it was"),
    Key("Control-Shift-Z", "redo", "redo"),
)


def bind(viewer: Any, keys: tuple[Key, ...], actions: dict[str, Callable[[], Any]]) -> None:
    """Bind each key to its action on a viewer. Binding again replaces what was there."""
    for key in keys:
        viewer.bind_key(key.key, _ignoring_viewer(actions[key.action]), overwrite=True)


def _ignoring_viewer(action: Callable[[], Any]) -> Callable[[Any], None]:
    # napari binds the function to the canvas's model as a method; ours know their viewer
    def pressed(viewer: Any) -> None:
        action()

    return pressed
