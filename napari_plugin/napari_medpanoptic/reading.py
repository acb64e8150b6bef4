"""A review in the viewer: the session's map as a Labels layer, the lesion that is read, verdicts and corrections.

napari models only, no Qt. The session is the one truth: what napari's brush paints is handed to it, and the layer is
then drawn from the session's map, so that undo, neighbours and measures cannot go apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpanoptic.errors import MedpanopticError
from medpanoptic.result import Box, Verdict
from medpanoptic.review import (
    Change,
    LesionChange,
    ReviewSession,
    compare,
    filter_rows,
    next_row,
    sort_rows,
    update_rows,
    worklist,
)
from medpanoptic.review.regions import slices
from medpanoptic.review.worklist import MEASURE_AT_ONCE, SORT_KEYS
from napari_medpanoptic.features import show_features
from napari_medpanoptic.grid import Grid, strokes
from napari_medpanoptic.layers import KEY, result_layers
from napari_medpanoptic.redraw import redraw
from napari_medpanoptic.view import arrange, box_in_viewer, planes_dock, show_point

MODEL_COLOR = (0.34, 0.71, 0.91, 1.0)  # sky blue: told apart from every class colour, also by the colour blind


class Reading:
    """Binds a ReviewSession to a viewer. ``current`` is the lesion that is read; ``watchers`` hear of every change."""

    def __init__(self, viewer: Any, session: ReviewSession, name: str) -> None:
        self.viewer, self.session, self.name = viewer, session, name
        self.grid = Grid(session.affine, session.ids.shape)
        self.table = worklist(session)
        self.order, self.descending, self.filter = "score", True, ""
        self.current: int | None = None
        self.go_on = True
        self.signing = False  # files are being written in a worker: nothing may change meanwhile
        self.new_class = session.live.base.classes.things[0].id
        self.watchers: list[Callable[[], None]] = []
        self.tell: Callable[[str], None] = self._status
        self.later: Callable[[Callable[[], None]], Any] = lambda action: None  # the dock gives a timer
        self._stale: list[Box] = []
        self._held, self._owed = False, False  # whether watchers wait, and whether there is news for them
        self.in_picture = np.zeros(session.live.next_id, np.int32)  # id -> id of a lesion that is shown, else 0
        self._follow_picture(session.things)
        # worked out once per change: each key press asks for both several times
        self._seen: tuple[tuple[str, str, bool], pd.DataFrame] | None = None
        self._changes: list[LesionChange] | None = None
        arrange(viewer)
        self.stuff, self.things, self.model = self._add_layers()
        show_features(self.things, self.table)
        session.listeners.append(self._on_change)
        self.things.events.paint.connect(self._on_paint)
        self.things.events.labels_update.connect(self.draw_stale)

    def _add_layers(self) -> tuple[Any, Any, Any]:
        now = result_layers(self.session.freeze(), self.name, self.session.volume)
        stuff, things = (self.viewer.add_labels(data, **look) for data, look, _ in now)
        data, look, _ = result_layers(self.session.model, self.name)[1]
        look["colormap"] = {None: MODEL_COLOR, 0: (0.0,) * 4}
        look |= {"name": f"{self.name} model", "visible": False}
        model = self.viewer.add_labels(data, **look)
        model.metadata[KEY]["role"] = "model"
        for layer in (stuff, model):  # tissue is not edited in a review
            layer.mode = "pan_zoom"
            layer.editable = False
        self.viewer.layers.selection.active = things
        return stuff, things, model

    def close(self) -> None:
        """Bring the journal to the disk and let go of the layers."""
        self.session.listeners.remove(self._on_change)
        self.things.events.paint.disconnect(self._on_paint)
        self.things.events.labels_update.disconnect(self.draw_stale)
        if not self.session.signed:
            self.session.close()
        for layer in (self.stuff, self.things, self.model):
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)

    # ---- the list

    def view(self) -> pd.DataFrame:
        """Return the rows that pass the filter, in the chosen order."""
        asked = (self.filter, self.order, self.descending)
        if self._seen is None or self._seen[0] != asked:
            self._seen = asked, sort_rows(filter_rows(self.table, self.filter), self.order, self.descending)
        return self._seen[1]

    def sort(self, key: str) -> None:
        """Order the list by a key of ``SORT_KEYS``; once more turns it round."""
        usual = SORT_KEYS[key][1]
        self.descending = not self.descending if key == self.order else usual
        self.order = key

    def changes(self) -> list[LesionChange]:
        """Return what the review changed against the model; empty for very many lesions, where it takes too long."""
        if self._changes is None:
            few = len(self.table) <= MEASURE_AT_ONCE
            self._changes = compare(self.session.model, self.session.live) if few else []
        return self._changes

    def go(self, segment_id: int | None, jump: bool = True) -> None:
        """Read this lesion now: focus, brush and, with ``jump``, all planes on it."""
        if segment_id is None or segment_id not in self.session.live.rows:
            return
        self.current = segment_id
        self.session.focus(segment_id)
        self.things.selected_label = segment_id
        if jump:
            box = self.session.live.box(segment_id)
            show_point(self.viewer, *box_in_viewer(box, self.session.affine, self.session.ids.shape))
        self._notify()

    def step(self, by: int, unread: bool = False) -> None:
        """Go to the next row (1) or the one before (-1)."""
        self.go(next_row(self.view(), self.current, by, unread))

    def verdict(self, verdict: Verdict, ids: Sequence[int] = ()) -> None:
        """Give the current lesion, or two and more ``ids`` at once, a verdict; if ``go_on``, go to the next unread."""
        chosen = list(ids) if len(ids) > 1 else [i for i in (self.current,) if i is not None]
        if not chosen:
            return
        others = self.view()
        if len(chosen) > 1:
            others = others.drop(index=[i for i in chosen if i != self.current], errors="ignore")
        following = next_row(others, self.current, 1, unread=True)
        self._held = True  # verdict and step are told of once
        try:
            done = self.attempt(lambda: self.session.set_verdicts(chosen, verdict))
            if done and self.go_on and following != self.current:
                self.go(following)
        finally:
            self._held = False
        if self._owed:
            self._notify()

    # ---- corrections

    def attempt(self, action: Callable[[], Any]) -> bool:
        """Do an edit; say why where it is refused. True if it was done."""
        if self.signing:
            self.tell("The review is being signed; nothing can be changed now")
            return False
        try:
            action()
        except MedpanopticError as error:
            self.tell(str(error))
            return False
        return True

    @property
    def locked(self) -> bool:
        """No edit is taken: the review is signed, or being signed."""
        return self.signing or self.session.signed

    def show_lock(self) -> None:
        """Take napari's brush away while no edit is taken, and give it back."""
        drawing = str(self.things.mode) != "pan_zoom"
        self.things.editable = not self.locked
        if self.locked and drawing:  # napari forgets a stroke that is under way, and leaves it in the array
            self._draw(tuple((0, size) for size in self.session.ids.shape))
        self._notify()

    def under_crosshair(self) -> int | None:
        """Return the lesion at the crosshair, or None."""
        return self.lesion_at(self.viewer.dims.point)

    def lesion_at(self, point: Sequence[float]) -> int | None:
        """Return the lesion at viewer coordinates, or None; one that was rejected is not in the picture."""
        at = self.grid.nearest(point)
        found = int(self.session.ids[at]) if at is not None else 0
        return found if self.is_shown(found) else None

    def is_shown(self, segment_id: int) -> bool:
        """Tell whether an id is that of a lesion that is in the picture."""
        live = self.session.live
        known = segment_id in live.rows and live.is_thing(segment_id)
        return known and live.rows[segment_id].segment.verdict != "rejected"

    def undo(self) -> None:
        """Take back the last edit, whatever it was."""
        self.attempt(self.session.undo)

    def redo(self) -> None:
        """Do again what was taken back."""
        self.attempt(self.session.redo)

    def delete(self) -> None:
        """Take the current lesion out of map and list, and go on."""
        gone, following = self.current, next_row(self.view(), self.current)
        if gone is not None and self.attempt(lambda: self.session.delete(gone)):
            self.go(following if following != gone else None)

    def merge(self, ids: list[int] | None = None) -> None:
        """Join the lesions chosen in the list, else the current one with the one under the crosshair."""
        other = self.under_crosshair()
        chosen = ids if ids and len(ids) > 1 else [i for i in (self.current, other) if i is not None]
        if len(set(chosen)) < 2:
            self.tell("Merge: choose two rows, or put the crosshair on the second lesion")
        elif self.attempt(lambda: self.session.merge(chosen)):
            self.go(chosen[0], jump=False)

    def split(self) -> None:
        """Split the current lesion by the plane through the crosshair, across its long axis."""
        if self.current is None:
            return
        axis = self.session.measures(self.current).long_axis
        normal = np.subtract(axis.stop_mm, axis.start_mm)
        index = np.array([*self.grid.native_index(self.viewer.dims.point), 1.0])
        columns = [*range(len(self.grid.shape)), 3]
        point = self.grid.affine[:3, columns] @ index
        self.attempt(lambda: self.session.split_by_plane(self.current or 0, point, normal))

    def split_by_points(self, viewer_points: NDArray[np.float64]) -> None:
        """Split the current lesion around two or more seeds, given in viewer coordinates."""
        seeds = [self.grid.native_index(point) for point in viewer_points]
        self.attempt(lambda: self.session.split_by_seeds(self.current or 0, seeds))

    def add(self) -> None:
        """Grow a new lesion of ``new_class`` at the crosshair."""
        at = self.grid.nearest(self.viewer.dims.point)
        if at is not None:
            self.attempt(lambda: self._select(self.session.add_at(at, self.new_class)))

    def take_in(self, number: int) -> None:
        """Make a dropped candidate a lesion."""
        self.attempt(lambda: self._select(self.session.take_in(number)))

    def interpolate(self) -> None:
        """Fill the current lesion between the slices of the plane in the large canvas."""
        axis = self.grid.order.axes[self.viewer.dims.order[0]] if self.viewer.dims.ndim == 3 else 0
        self.attempt(lambda: self.session.interpolate(self.current or 0, axis))

    def relabel(self, class_id: int | None = None) -> None:
        """Give the current lesion another class; None takes the next one."""
        if self.current is None:
            return
        ids = [c.id for c in self.session.live.base.classes.things]
        now = self.session.row(self.current).segment.class_id
        chosen = class_id or ids[(ids.index(now) + 1) % len(ids)]
        if len(ids) < 2:
            self.tell("There is one class of lesions only")
        elif chosen != now:
            self.attempt(lambda: self.session.relabel(self.current or 0, chosen))

    def note(self, text: str) -> None:
        """Replace the note on the current lesion."""
        if self.current is not None and text != self.session.row(self.current).note:
            self.attempt(lambda: self.session.set_note(self.current or 0, text))

    def recist(self, segment_id: int | None = None, **changed: Any) -> None:
        """Change ``organ``, ``is_node`` or ``is_target`` of a lesion, None: the current one; the rest stays."""
        chosen = self.current if segment_id is None else segment_id
        if chosen is None:
            return
        row = self.session.row(chosen)
        now = {"organ": row.organ, "is_node": row.is_node, "is_target": row.is_target}
        if {**now, **changed} != now:
            self.attempt(lambda: self.session.set_recist(chosen, **{**now, **changed}))

    def turn(self, name: str) -> None:
        """Turn ``is_node`` or ``is_target`` of the current lesion over."""
        if self.current is not None:
            self.recist(**{name: not getattr(self.session.row(self.current), name)})

    def toggle_model(self) -> None:
        """Show or hide what the model said."""
        self.model.visible = not self.model.visible

    def _select(self, edit: Any) -> None:
        if edit is not None:
            self.go(edit.segment, jump=False)

    def _on_paint(self, event: Any) -> None:
        """Hand a stroke of napari's brush, eraser, polygon or bucket to the session."""
        for label, before, corner, mask in strokes(event.value):
            region = self.grid.native_region(corner, mask)
            self.attempt(partial(self._apply, label, before, region))
            self._stale.append(region.box)  # what was refused, because it belongs to a neighbour, goes back
        self.later(self.draw_stale)
        for box in self._stale:
            self._draw(box)

    def draw_stale(self, event: Any = None) -> None:
        """Draw what was painted as the session has it.

        Once at once and once more later: napari tells of a filled or directly painted region before it writes it into
        the layer, of a stroke of the mouse after.
        """
        if getattr(event, "redrawn", False):
            return
        stale, self._stale = self._stale, []
        for box in stale:
            self._draw(box)

    def _apply(self, label: int, before: int, region: Any) -> None:
        if label == 0:
            self.session.erase(before, region)
        elif label in self.session.things:
            self.session.paint(label, region)
        else:
            self._select(self.session.add(region, self.new_class))

    def _on_change(self, change: Change) -> None:
        self.table = update_rows(self.table, self.session, change.ids)
        self._seen = self._changes = None
        live, turned = self.session.live, self._follow_picture(change.ids)
        # a rejected lesion leaves the picture, not the list
        boxes = [live.box(i) for i in turned if i in live.rows]
        for box in boxes if change.box is None else (*boxes, change.box):
            self._draw(box)
        self._color(change.ids)
        show_features(self.things, self.table, change.ids)
        if self.current not in self.session.live.rows:
            self.current = None
        self._notify()

    def _follow_picture(self, ids: Sequence[int]) -> list[int]:
        """Note which of these lesions are in the picture; return those that came into it or left it."""
        missing = self.session.live.next_id - len(self.in_picture)
        if missing > 0:  # with room, so that not each new lesion copies the list
            self.in_picture = np.pad(self.in_picture, (0, missing + 64))
        turned = [i for i in ids if bool(self.in_picture[i]) != self.is_shown(i)]
        for segment_id in turned:
            self.in_picture[segment_id] = 0 if self.in_picture[segment_id] else segment_id
        return turned

    def _draw(self, box: Box) -> None:
        """Write a part of the session's map into the layer, lesions that are shown, and draw it where it differs."""
        part = self.grid.order.to_display(self.in_picture[self.session.live.ids[slices(box)]])
        where = self.grid.display_slices(box)
        if np.array_equal(self.things.data[where], part):
            return
        self.things.data[where] = part
        redraw(self.things, where)
        self.refresh_side(self.things, where)

    def _color(self, ids: tuple[int, ...]) -> None:
        """Give new and relabelled lesions their colour; recolouring takes 0.2 s in a large volume, so only then."""
        from napari.utils.colormaps import DirectLabelColormap

        known, live = self.things.colormap.color_dict, self.session.live
        things = [i for i in ids if i in live.rows and live.is_thing(i)]
        wanted = {i: live.base.segment_color(live.rows[i].segment) for i in things}
        colors = {i: np.array([*color, 255.0], np.float32) / 255 for i, color in wanted.items()}
        new = {i: c for i, c in colors.items() if i not in known or not np.allclose(known[i], c)}
        if new:
            self.things.colormap = DirectLabelColormap(color_dict={**known, **new})

    def beside(self, role: str) -> dict[str, Any]:
        """Return what a layer needs to lie over the lesions, and the viewer to know its orientation."""
        things = self.things
        known = {name: things.metadata[KEY][name] for name in ("affine_lps", "order")}
        return {
            "name": f"{self.name} {role}",
            "scale": things.scale,
            "translate": things.translate,
            "units": things.units,
            "metadata": {KEY: {**known, "role": role}},
        }

    def refresh_side(self, layer: Any, where: tuple[slice, ...] | None = None) -> None:
        """Draw a layer again in the other planes, after its array was changed in place; of Labels, at ``where``."""
        dock = planes_dock(self.viewer)
        if dock is not None:
            dock.refresh(layer, where)

    def _notify(self) -> None:
        self._owed = self._held
        for watcher in () if self._held else tuple(self.watchers):
            watcher()

    def _status(self, text: str) -> None:
        self.viewer.status = text
