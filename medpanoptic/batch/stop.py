"""SIGTERM and SIGINT: the first asks for a clean end, the second for an end."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any


class StopSignal:
    """While entered, signals are noted here and nothing else happens. Outside the main thread it notes nothing."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s, self._first, self._count = grace_s, 0.0, 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._first = self._first or time.monotonic()
        self._count += 1

    @property
    def wanted(self) -> bool:
        """Tell whether no further study is to be started."""
        return self._count > 0

    @property
    def at_once(self) -> bool:
        """Tell whether running studies are to be given up: a second signal came, or the grace is over."""
        return self._count > 1 or (self.wanted and time.monotonic() - self._first > self._grace_s)
