"""Do something once the window has had a moment; never after it began to close."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QEvent, QObject, QTimer


class Soon(QObject):
    """One call of ``action`` from the event loop of a viewer's window; closing the window cancels it."""

    def __init__(self, viewer: Any, action: Callable[[], None]) -> None:
        canvas = viewer.window._qt_viewer
        super().__init__(canvas)
        self.action: Callable[[], None] | None = action
        self.timer = QTimer(self)
        self.timer.setSingleShot(True)
        self.timer.timeout.connect(self._fire)
        # napari closes its canvas first, and runs the event loop while it does
        canvas.installEventFilter(self)
        self.timer.start(0)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802  (Qt's name)
        """Cancel with the window."""
        if event.type() == QEvent.Type.Close:
            self.cancel()
        return False

    def cancel(self) -> None:
        """Let go of the action and, with it, of the viewer."""
        self.action = None
        self.timer.stop()
        self.deleteLater()

    def _fire(self) -> None:
        action = self.action
        self.cancel()
        if action is not None:
            action()
