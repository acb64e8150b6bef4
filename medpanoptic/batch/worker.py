"""What runs inside a dask worker: it holds the slots and hands studies to them. Dask never dies with a study."""

from __future__ import annotations

import queue
from dataclasses import replace
from typing import Any

from distributed import WorkerPlugin, get_worker

from medpanoptic.batch.settings import ChildSettings, Limits, Outcome, Study
from medpanoptic.batch.slot import Slot


class Slots(WorkerPlugin):
    """One slot per thread of a worker; they end with it."""

    def __init__(self, name: str, settings: ChildSettings, limits: Limits, gpus: int = 0) -> None:
        self.name, self._settings, self._limits, self._gpus = name, settings, limits, gpus

    def setup(self, worker: Any) -> None:
        """Make the slots; children start with their first study."""
        settings = self._settings
        if self._gpus and isinstance(worker.name, int):  # workers of our own are numbered
            settings = replace(settings, device=f"cuda:{worker.name % self._gpus}")
        self._all = [Slot(settings, self._limits) for _ in range(worker.state.nthreads)]
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for slot in self._all:
            self._free.put(slot)

    def teardown(self, worker: Any) -> None:
        """End the children, at once."""
        for slot in self._all:
            slot.close()

    def run(self, study: Study, divisor: int, known_digest: str) -> Outcome:
        """Work on a study in a free slot."""
        slot = self._free.get()
        try:
            return slot.run(study, divisor, known_digest)
        finally:
            self._free.put(slot)


def run_study(plugin: str, study: Study, divisor: int, known_digest: str) -> Outcome:
    """Work on a study in this dask worker. What goes wrong with it is in the outcome, not raised."""
    worker = get_worker()
    slots: Slots | None = worker.plugins.get(plugin)
    if slots is None:  # of a scheduler that was restarted and knows nothing of this batch
        return Outcome(kind="transient", code="SCHEDULER-LOST")
    return replace(slots.run(study, divisor, known_digest), worker=str(worker.name))
