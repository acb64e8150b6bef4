"""A dask cluster to work on: one inside this process, or one that exists already."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from medpanoptic.batch.settings import ChildSettings, Limits, Study
from medpanoptic.errors import BatchError

# a task whose worker dies is tried on so many others; it is no measure of poison, which never reaches a worker
_ALLOWED_FAILURES = 3
_LOOPBACK = "127.0.0.1:0"


class SessionLostError(Exception):
    """The scheduler does not answer any more: what it was working on has to be handed out anew."""


class Session:
    """A connection to workers that hold slots. Ends with ``close``."""

    def __init__(
        self,
        scheduler: str | None,
        workers: int,
        settings: ChildSettings,
        limits: Limits,
        gpu: bool = False,
    ) -> None:
        """Start a cluster in this process (``scheduler`` None), or connect to one.

        Raises BatchError: NO-GPU, SCHEDULER-LOST (nobody answers at the address).
        """
        from distributed import Client

        self._gpu = gpu
        self._cluster = None if scheduler else _local_cluster(workers, gpu)
        try:
            self._client = Client(scheduler or self._cluster, timeout=limits.worker_timeout_s, set_as_default=False)
        except OSError as error:
            raise BatchError("SCHEDULER-LOST", f"no dask scheduler answers at {scheduler}") from error
        self._plugin = f"medpanoptic-{uuid.uuid4().hex[:8]}"
        try:
            self._register(settings, limits, 0 if scheduler or not gpu else _gpus())
        except OSError as error:
            self.close()
            raise BatchError("SCHEDULER-LOST", f"the dask scheduler at {scheduler} went away") from error

    def _register(self, settings: ChildSettings, limits: Limits, gpus: int) -> None:
        from medpanoptic.batch.worker import Slots

        # also set up on workers that join later
        self._client.register_plugin(Slots(self._plugin, settings, limits, gpus), name=self._plugin)

    def slots(self) -> int:
        """Return how many studies can be worked on at once. Raises SessionLostError."""
        with self._alive():
            if not self._gpu:
                return sum(self._client.nthreads().values())
            workers = self._client.scheduler_info()["workers"].values()
            return sum(int(w["nthreads"]) for w in workers if w["resources"].get("GPU", 0) >= 1)

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Raise SessionLostError if the scheduler is gone, or goes while it is asked."""
        from distributed.client import ClosedClientError

        if self._client.status != "running":
            raise SessionLostError
        try:
            yield
        except (OSError, ClosedClientError) as error:  # dask's CommClosedError is an OSError
            raise SessionLostError from error

    def submit(self, study: Study, divisor: int, known_digest: str, done: Callable[[Any], None]) -> Any:
        """Hand a study to a worker; ``done(future)`` is called, from another thread, when there is a result.

        Raises SessionLostError.
        """
        from medpanoptic.batch.worker import run_study

        with self._alive():
            future = self._client.submit(
                run_study,
                self._plugin,
                study,
                divisor,
                known_digest,
                key=f"study-{study.handle}-{uuid.uuid4().hex[:8]}",
                pure=False,
                retries=0,
                resources={"GPU": 1} if self._gpu else None,
            )
        future.add_done_callback(done)
        return future

    def close(self) -> None:
        """End the children, then the connection, and the cluster if it is ours."""
        quiet = logging.getLogger("distributed")
        level = quiet.level
        quiet.setLevel(logging.CRITICAL)
        try:
            if self._client.status == "running":
                with suppress(Exception):  # whatever a cluster says that is going down itself
                    self._client.unregister_worker_plugin(self._plugin)
            self._client.close(timeout=10)
            if self._cluster is not None:
                self._cluster.close(timeout=10)
        finally:
            quiet.setLevel(level)


def _local_cluster(workers: int, gpu: bool) -> Any:
    """Start scheduler and workers as threads: they only wait for the children. Nothing listens beyond loopback."""
    import dask
    from distributed import LocalCluster

    if gpu and not _gpus():
        raise BatchError("NO-GPU", "this machine has no GPU that can be used; leave --gpu out or name a --scheduler")
    # read when a scheduler is made
    with dask.config.set({"distributed.scheduler.allowed-failures": _ALLOWED_FAILURES}):
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,
            protocol="inproc://",
            # without an address of its own each of them listens on all interfaces
            dashboard_address=_LOOPBACK,
            worker_dashboard_address=_LOOPBACK,
            resources={"GPU": 1} if gpu else None,
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        )


def _gpus() -> int:
    import torch

    return int(torch.cuda.device_count())
