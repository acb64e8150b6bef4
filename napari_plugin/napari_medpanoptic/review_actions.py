"""What the review's keys and buttons do. napari models only, no Qt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from napari_medpanoptic.display import toggle_help
from napari_medpanoptic.keys import REVIEW_KEYS, Key, bind
from napari_medpanoptic.reading import Reading


def review_actions(
    reading: Reading, chosen: Callable[[], list[int]], more: dict[str, Callable[[], Any]]
) -> dict[str, Callable[[], Any]]:
    """Return {action: function}.

    chosen : the rows selected in the list; a verdict goes to all of them. more : axes, points, changed (shown or
    hidden) and note (start to write).
    """
    return {
        "next": partial(reading.step, 1),
        "previous": partial(reading.step, -1),
        "accept": lambda: reading.verdict("accepted", chosen()),
        "reject": lambda: reading.verdict("rejected", chosen()),
        "unsure": lambda: reading.verdict("unsure", chosen()),
        "delete": reading.delete,
        "merge": lambda: reading.merge(chosen()),
        "split": reading.split,
        "new": reading.add,
        "interpolate": reading.interpolate,
        "model": reading.toggle_model,
        "class": reading.relabel,
        "target": partial(reading.turn, "is_target"),
        "node": partial(reading.turn, "is_node"),
        "help": partial(toggle_help, reading.viewer),
        **more,
        "undo": reading.undo,
        "redo": reading.redo,
    }


def bind_review_keys(reading: Reading, actions: dict[str, Callable[[], Any]]) -> None:
    """Bind the review keys on the viewer; undo and redo also on our layers, before napari's own label history."""
    bind(reading.viewer, REVIEW_KEYS, actions)
    history: tuple[Key, ...] = tuple(key for key in REVIEW_KEYS if key.action in ("undo", "redo"))
    for layer in (reading.things, reading.stuff, reading.model):
        bind(layer, history, actions)


def unbind_review_keys(viewer: Any) -> None:
    """Give the keys back."""
    for key in REVIEW_KEYS:
        viewer.bind_key(key.key, None)
