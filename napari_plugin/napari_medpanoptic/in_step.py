"""Several viewer models that show one point in space: same crosshair, panned and zoomed together. No Qt.

Click, or move with Shift held, and the crosshair follows in all of them; the wheel scrolls slices.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from napari_medpanoptic.step import (
    SMALLEST_VIEW_MM,
    SMALLEST_VIEW_PIXELS,
    Point,
    is_in_view,
    jump_zoom,
    moved,
    stepped,
)

_CLICK_PIXELS = 4  # a press that moves less is a click, not a drag


class InStep:
    """Links ViewerModels that hold the same layers in other planes; 2D images and the 3D view are left alone."""

    def __init__(self, models: Sequence[Any]) -> None:
        self.models = list(models)
        self.wheel_scrolls = True
        self._busy = False
        self._zooms = {id(model): model.scene.camera.zoom for model in self.models}
        self._links: list[tuple[Any, Callable]] = []
        for model in self.models:
            camera = model.scene.camera
            self._links += [
                (model.dims.events.point, partial(self._on_point, model)),
                (camera.events.center, partial(self._on_center, model)),
                (camera.events.zoom, partial(self._on_zoom, model)),
            ]
            model.mouse_drag_callbacks.append(self._on_drag)
            model.mouse_move_callbacks.append(self._on_move)
            model.mouse_wheel_callbacks.append(self._on_wheel)
        for emitter, callback in self._links:
            emitter.connect(callback, position="last")

    def close(self) -> None:
        """Undo every link."""
        for emitter, callback in self._links:
            emitter.disconnect(callback)
        self._links.clear()
        for model in self.models:
            for callbacks, own in (
                (model.mouse_drag_callbacks, self._on_drag),
                (model.mouse_move_callbacks, self._on_move),
                (model.mouse_wheel_callbacks, self._on_wheel),
            ):
                if own in callbacks:
                    callbacks.remove(own)

    def alone(self, action: Callable[[], Any]) -> None:
        """Do something to one model that the others shall not follow."""
        busy, self._busy = self._busy, True
        try:
            action()
        finally:
            self._busy = busy

    def show_point(self, point: Point, size_mm: Sequence[float]) -> None:
        """Put a point in the middle of every canvas, each zoomed to a box of ``size_mm`` (one per axis)."""
        for model in self.models:
            self.alone(partial(aim, model, point, size_mm))

    def _others(self, source: Any) -> list[Any]:
        return [m for m in self.models if m is not source and m.dims.ndim == 3 and m.dims.ndisplay == 2]

    def _on_point(self, source: Any, event: Any = None) -> None:
        if not self._busy and source.dims.ndim == 3:
            for model in self._others(source):
                self.alone(partial(self._follow, model, source.dims.point))

    def _follow(self, model: Any, point: Point) -> None:
        set_point(model, point)
        camera, shown = model.scene.camera, model.dims.displayed
        if not is_in_view(point, shown, camera.center[-2:], camera.zoom, model.canvas.size):
            camera.center = tuple(point[axis] for axis in shown)

    def _on_center(self, source: Any, event: Any = None) -> None:
        """Pan together: an axis that two canvases share has one centre."""
        if self._busy or source.dims.ndim != 3 or source.dims.ndisplay != 2:
            return
        center = dict(zip(source.dims.displayed, source.scene.camera.center[-2:], strict=True))
        for model in self._others(source):
            own = zip(model.dims.displayed, model.scene.camera.center[-2:], strict=True)
            new = tuple(center.get(axis, value) for axis, value in own)
            self.alone(partial(setattr, model.scene.camera, "center", new))

    def _on_zoom(self, source: Any, event: Any = None) -> None:
        """Zoom together by one factor: canvases differ in size, so not to one zoom."""
        before, now = self._zooms[id(source)], source.scene.camera.zoom
        self._zooms[id(source)] = now
        if self._busy or source.dims.ndim != 3 or source.dims.ndisplay != 2:
            return
        for model in self._others(source):
            camera = model.scene.camera
            self.alone(partial(setattr, camera, "zoom", camera.zoom * now / before))

    def _on_drag(self, model: Any, event: Any) -> Iterator[None]:
        """Take a left click without a drag as the new place of the crosshair."""
        if event.button != 1 or event.modifiers or model.dims.ndim != 3 or not is_looking(model):
            return
        if (yield from is_click(event)):
            point_at(model, event)

    def _on_move(self, model: Any, event: Any) -> None:
        if "Shift" in event.modifiers and not event.is_dragging and model.dims.ndim == 3:
            point_at(model, event)

    def _on_wheel(self, model: Any, event: Any) -> None:
        if not self.wheel_scrolls or event.modifiers or model.dims.ndim != 3 or model.dims.ndisplay != 2:
            return
        axis = model.dims.order[0]
        steps = -1 if event.delta[1] > 0 else 1
        set_point(model, stepped(model.dims.point, axis, steps, model.dims.range[axis]))
        event.handled = True  # else the camera zooms as well


def set_point(model: Any, point: Point) -> None:
    """Move a viewer model to a point; its layers are sliced once, and not at all where all axes are displayed.

    napari's viewer slices on two events of one move, and 2D images too, which takes long with 50,000 colours. It has no
    public switch for that: the name of its callback is held by ``test_redraw``.
    """
    events, sliced = model.dims.events, model._update_layers
    with ExitStack() as quiet:
        quiet.enter_context(events.current_step.blocker(sliced))
        if not model.dims.not_displayed:
            quiet.enter_context(events.point.blocker(sliced))
        model.dims.point = point


def aim(model: Any, point: Point, size_mm: Sequence[float]) -> None:
    """Move a viewer model's slices to a point, centre it there, and zoom to a box of ``size_mm`` (one per axis)."""
    shown = model.dims.displayed
    set_point(model, point)
    model.scene.camera.center = tuple(point[axis] for axis in shown)
    smallest = SMALLEST_VIEW_MM
    if model.dims.ndim == 2:
        smallest = min(smallest, SMALLEST_VIEW_PIXELS * float(model.dims.range[-1].step))
    model.scene.camera.zoom = jump_zoom([size_mm[axis] for axis in shown], model.canvas.size, smallest)


def point_at(model: Any, event: Any) -> None:
    """Put the point of a viewer model where a mouse event is, on the slices that are shown."""
    shown = event.dims_displayed
    if len(shown) == 2:
        set_point(model, moved(model.dims.point, shown, [event.position[axis] for axis in shown]))


def is_looking(model: Any) -> bool:
    """Tell whether a click is free: in napari's other modes it paints, picks or selects."""
    active = model.layers.selection.active
    return model.dims.ndisplay == 2 and (active is None or str(active.mode) == "pan_zoom")


def is_click(event: Any) -> Generator[None, None, bool]:
    """Follow a press until its release, as napari's mouse callbacks do; return whether it stayed in its place."""
    start = event.pos
    yield
    while event.type == "mouse_move":
        if max(abs(a - b) for a, b in zip(event.pos, start, strict=True)) > _CLICK_PIXELS:
            return False
        yield
    return True
