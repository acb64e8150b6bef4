"""Libraries that read files quote them in warnings and log lines, and files hold patient data."""

from __future__ import annotations

import logging
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Warnings and loggers are the process's own. Several threads may read at once: the first one in makes a library
# quiet, the last one out gives it its voice back.
_lock = threading.Lock()
_users: Counter[str] = Counter()
_restore: dict[str, Callable[[], None]] = {}
_WARNINGS = ""


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Keep the warnings and log lines of libraries, given by their loggers' names, away from the user's log.

    Threads may overlap. What other threads warn of meanwhile is lost too.
    """
    names = (_WARNINGS, *libraries)
    with _lock:
        for name in names:
            _users[name] += 1
            if _users[name] == 1:
                _restore[name] = _hush_warnings() if name == _WARNINGS else _hush_loggers(name)
    try:
        yield
    finally:
        with _lock:
            for name in names:
                _users[name] -= 1
                if not _users[name]:
                    _restore.pop(name)()


def _hush_warnings() -> Callable[[], None]:
    context = warnings.catch_warnings()
    context.__enter__()
    warnings.simplefilter("ignore")
    return lambda: context.__exit__(None, None, None)


def _hush_loggers(library: str) -> Callable[[], None]:
    known = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == library]
    # a child's lines do not pass through its parent, only through the parent's handlers
    loggers = [logger for name in {*known, library} if not (logger := logging.getLogger(name)).disabled]
    parent = logging.getLogger(library)
    level = parent.level
    for logger in loggers:
        logger.disabled = True
    # loggers that are made meanwhile, by a late import, take their parent's level
    parent.setLevel(logging.CRITICAL + 1)

    def restore() -> None:
        parent.setLevel(level)
        for logger in loggers:
            logger.disabled = False

    return restore
