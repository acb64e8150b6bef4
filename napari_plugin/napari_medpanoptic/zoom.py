"""napari's own zooming by mouse, about the right point in every plane. napari models only, no Qt.

napari 0.9 takes the last two coordinates of a click for row and column, which is true of the axial plane alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from napari.components._viewer_mouse_bindings import double_click_to_zoom, drag_to_zoom


class _Event:
    """A mouse event whose ``position`` ends with the two axes that are seen."""

    def __init__(self, event: Any) -> None:
        self.__dict__["event"] = event

    def __getattr__(self, name: str) -> Any:
        value, shown = getattr(self.event, name), self.event.dims_displayed
        return tuple(value[axis] for axis in shown) if name == "position" and len(shown) == 2 else value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.event, name, value)


def double_click(model: Any, event: Any) -> None:
    """Zoom in, with Alt out."""
    double_click_to_zoom(model, _Event(event))


def drag(model: Any, event: Any) -> Iterator[None]:
    """Zoom to the box that is drawn with Alt held."""
    yield from drag_to_zoom(model, _Event(event))


def mend_zoom(model: Any) -> None:
    """Put ours in the place of napari's functions; where they are not, nothing changes."""
    for callbacks, theirs, ours in (
        (model.mouse_double_click_callbacks, double_click_to_zoom, double_click),
        (model.mouse_drag_callbacks, drag_to_zoom, drag),
    ):
        if theirs in callbacks:
            callbacks[callbacks.index(theirs)] = ours
