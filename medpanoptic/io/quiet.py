"""Libraries that read files quote them in warnings and log lines, and files hold patient data."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Keep the warnings and log lines of libraries, given by their loggers' names, away from the user's log."""
    known = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in libraries]
    # a child's lines do not pass through its parent, only through the parent's handlers
    loggers = [logger for name in {*known, *libraries} if not (logger := logging.getLogger(name)).disabled]
    # loggers that are made meanwhile, by a late import, take their parent's level
    parents = [(logging.getLogger(name), logging.getLogger(name).level) for name in libraries]
    for logger in loggers:
        logger.disabled = True
    for parent, _ in parents:
        parent.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for parent, level in parents:
            parent.setLevel(level)
        for logger in loggers:
            logger.disabled = False
