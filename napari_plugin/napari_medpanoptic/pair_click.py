"""A click on a lesion, or on the outline of a prior one, chooses it for a pair. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from napari_medpanoptic.in_step import is_click, is_looking
from napari_medpanoptic.prior_marks import PriorMarks
from napari_medpanoptic.reading import Reading
from napari_medpanoptic.view import listen, stop_listening

Ids = tuple[int, ...]


class PairClick:
    """Listens on every canvas. ``choose`` is called with the prior and the current ids that were hit, () for none.

    A lesion that is chosen in the list counts as well as one that was clicked.
    """

    def __init__(self, reading: Reading, marks: PriorMarks, choose: Callable[[Ids, Ids], None]) -> None:
        self.reading, self.marks, self.choose = reading, marks, choose
        self._current = reading.current
        reading.watchers.append(self.follow)
        self.follow()

    def follow(self) -> None:
        """Choose the lesion that is read, when it is another; listen on canvases that were opened since."""
        listen(self.reading.viewer, self._on_press)
        if self.reading.current != self._current:
            self._current = self.reading.current
            self.choose((), () if self._current is None else (self._current,))

    def close(self) -> None:
        """Let go of the canvases and of the reading."""
        if self.follow in self.reading.watchers:
            self.reading.watchers.remove(self.follow)
        stop_listening(self.reading.viewer, self._on_press)

    def _on_press(self, model: Any, event: Any) -> Iterator[None]:
        if event.button != 1 or event.modifiers or not is_looking(model):
            return
        if not (yield from is_click(event)):
            return
        found = self.marks.lesion_at(event.position), self.reading.lesion_at(event.position)
        prior_ids, current_ids = (() if hit is None else (hit,) for hit in found)
        self.choose(prior_ids, current_ids)
