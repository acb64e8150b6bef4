"""``medpanoptic fetch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medpanoptic.cli.options import pairs
from medpanoptic.cli.receive import Key, Log
from medpanoptic.console import say, say_error
from medpanoptic.errors import BatchError


def fetch(
    url: Annotated[str, typer.Argument(help="Root of a DICOMweb service.")],
    folder: Annotated[Path, typer.Argument(help="Folder for the studies; give it to batch.")],
    where: Annotated[list[str] | None, typer.Option(help="KEYWORD=VALUE to match; repeat it.")] = None,
    studies: Annotated[typer.FileText | None, typer.Option(help="File of StudyInstanceUIDs, one a line.")] = None,
    max_object_mb: Annotated[float, typer.Option(help="Largest object, MiB.")] = 2048,
    max_study_gb: Annotated[float, typer.Option(help="Largest study, GiB.")] = 20,
    min_free_mb: Annotated[float, typer.Option(help="Room to leave on the disk, MiB.")] = 1000,
    attempts: Annotated[int, typer.Option(help="Tries of a request before it is given up.")] = 10,
    timeout: Annotated[float, typer.Option(help="Seconds for connecting, and for silence.")] = 30,
    key: Key = None,
    log: Log = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO or WARNING.")] = "INFO",
) -> None:
    """Bring studies from a DICOMweb service (QIDO-RS, WADO-RS) for a batch. See docs/pacs.md.

    A login comes from the environment or .netrc, never from the command line.
    """
    from medpanoptic.pacs import fetch as bring
    from medpanoptic.pacs.inbox import InboxLimits
    from medpanoptic.pacs.parcels import Backoff

    done = bring(
        url,
        folder,
        studies=[line.strip() for line in studies or () if line.strip()],
        where=pairs(where or (), "--where"),
        limits=InboxLimits(max_object_mb, max_study_gb, min_free_mb),
        backoff=Backoff(attempts=attempts),
        timeout_s=timeout,
        key_file=key,
        log=log,
        log_level=log_level.upper(),
    )
    typer.echo(f"{done.complete} studies complete ({done.new} new objects), {done.unchanged} were here")
    for handle, code, status in done.failed:
        say(f"{handle}: [{code}] the server said: {status}")
    if done.stopped:
        say_error(BatchError(done.stopped, "fetching ended early; run it again to go on"))
    raise typer.Exit(done.status)
