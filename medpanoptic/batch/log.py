"""What a batch says while it runs: a log of JSON lines, figures for a progress bar, a file for Prometheus.

Handles, codes, counts and durations; never a UID, a path or a text that an exception brought along.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpanoptic.batch.settings import RUNNING, STATES

_LOGGER = logging.getLogger("medpanoptic.batch")


def log_event(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log one event with its fields, by the logger ``medpanoptic.batch``."""
    _LOGGER.log(level, event, extra={"fields": fields})


class _JsonLines(logging.Formatter):
    """{"time": ISO 8601 in UTC, "level": ..., "event": ..., fields}."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        entry = {"time": when, "level": record.levelname, "event": record.getMessage()}
        return json.dumps({**entry, **getattr(record, "fields", {})})


@contextmanager
def log_file(path: Path, level: str = "INFO") -> Iterator[None]:
    """Append the events of a batch to a file, one JSON object a line."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(_JsonLines())
    before = _LOGGER.level, _LOGGER.propagate
    _LOGGER.setLevel(level)
    _LOGGER.propagate = False
    _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        handler.close()
        _LOGGER.setLevel(before[0])
        _LOGGER.propagate = before[1]


@dataclass(frozen=True)
class Progress:
    """How far a batch is. ``ended`` : studies of this run that came to an end; ``total`` : all it has to do."""

    ended: int
    total: int
    running: int
    seconds: float

    @property
    def per_hour(self) -> float:
        """Studies per hour so far."""
        return 3600 * self.ended / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds that the rest will take at this rate, None before the first study ended."""
        return (self.total - self.ended) * self.seconds / self.ended if self.ended else None


def write_metrics(path: Path, counts: Mapping[str, int], totals: Mapping[str, Any], progress: Progress) -> None:
    """Write figures for the textfile collector of Prometheus' node exporter, whole or not at all."""
    states = "".join(f'medpanoptic_batch_studies{{state="{state}"}} {counts.get(state, 0)}\n' for state in STATES)
    rows = {
        "attempts_total": ("counter", totals["attempts"] or 0),
        "failed_attempts_total": ("counter", totals["failed_attempts"] or 0),
        "fallbacks": ("gauge", totals["fallbacks"] or 0),
        "study_seconds_mean": ("gauge", round(totals["mean_s"] or 0, 3)),
        "child_memory_peak_bytes": ("gauge", int((totals["peak_mb"] or 0) * 2**20)),
        "studies_per_hour": ("gauge", round(progress.per_hour, 1)),
        "workers_busy": ("gauge", counts.get(RUNNING, 0)),
        "last_update_timestamp_seconds": ("gauge", int(time.time())),
    }
    text = "".join(f"# TYPE medpanoptic_batch_{n} {kind}\nmedpanoptic_batch_{n} {v}\n" for n, (kind, v) in rows.items())
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(f"# TYPE medpanoptic_batch_studies gauge\n{states}{text}", encoding="utf-8", newline="\n")
    draft.replace(path)
