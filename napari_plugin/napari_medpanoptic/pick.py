"""A click on a lesion in any plane chooses its row; with Ctrl it is chosen beside the others. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from napari_medpanoptic.in_step import is_click, is_looking
from napari_medpanoptic.reading import Reading
from napari_medpanoptic.view import listen, stop_listening


class Pick:
    """Listens on every canvas of the viewer. ``add_row`` is told of a lesion that Ctrl and a click choose as well."""

    def __init__(self, reading: Reading, add_row: Callable[[int], None]) -> None:
        self.reading, self.add_row = reading, add_row
        reading.watchers.append(self.attach)
        self.attach()

    def attach(self) -> None:
        """Listen on canvases that were opened since."""
        listen(self.reading.viewer, self._on_press)

    def close(self) -> None:
        """Let go of the canvases and of the reading."""
        self.reading.watchers.remove(self.attach)
        stop_listening(self.reading.viewer, self._on_press)

    def _on_press(self, model: Any, event: Any) -> Iterator[None]:
        held = list(event.modifiers)
        if event.button != 1 or any(key != "Control" for key in held) or not is_looking(model):
            return
        if not (yield from is_click(event)):
            return
        lesion = self.reading.lesion_at(event.position)
        if lesion is None:
            return
        if held:
            self.add_row(lesion)
        elif lesion != self.reading.current:
            self.reading.go(lesion, jump=False)
