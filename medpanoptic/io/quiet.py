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
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in loggers:
            logger.disabled = False
