"""``medpanoptic send``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medpanoptic.cli.receive import Certificate, CertificateKey
from medpanoptic.console import say, say_error
from medpanoptic.errors import BatchError


def send(
    output: Annotated[Path, typer.Argument(help="Output folder of a batch.")],
    to: Annotated[str | None, typer.Option(help="Peer for C-STORE: HOST:PORT/AE-TITLE.")] = None,
    stow: Annotated[str | None, typer.Option(help="Root of a DICOMweb service for STOW-RS.")] = None,
    ae_title: Annotated[str, typer.Option(help="Our AE title.")] = "MEDPANOPTIC",
    tls: Annotated[bool, typer.Option("--tls", help="C-STORE over TLS.")] = False,
    tls_ca: Annotated[Path | None, typer.Option(help="PEM: who signs the peer's certificate.")] = None,
    tls_cert: Certificate = None,
    tls_key: CertificateKey = None,
    attempts: Annotated[int, typer.Option(help="Tries of an object before it is given up.")] = 10,
    timeout: Annotated[float, typer.Option(help="Seconds for connecting, and for each answer.")] = 30,
    again: Annotated[bool, typer.Option("--again", help="Also try what was refused or given up.")] = False,
    ledger: Annotated[Path | None, typer.Option(help="Folder of the ledger, as for batch.")] = None,
    log: Annotated[Path | None, typer.Option(help="Log of JSON lines; default OUT/send.log.")] = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO or WARNING.")] = "INFO",
) -> None:
    """Deliver the DICOM files of a batch to a PACS; what it cannot take now is tried again. See docs/pacs.md.

    A login for DICOMweb comes from the environment or .netrc, never from the command line.
    """
    from medpanoptic.pacs import send as deliver
    from medpanoptic.pacs.parcels import Backoff
    from medpanoptic.pacs.tls import Tls

    files = Tls(tls_cert, tls_key, tls_ca)
    sent = deliver(
        output,
        to=to,
        stow=stow,
        ae_title=ae_title,
        tls=files if tls or files != Tls() else None,
        backoff=Backoff(attempts=attempts),
        timeout_s=timeout,
        again=again,
        ledger_folder=ledger,
        log=log,
        log_level=log_level.upper(),
    )
    typer.echo(", ".join(f"{number} {state}" for state, number in sent.counts.items() if number) or "no objects")
    for row in sent.codes:
        say(f"{row['number']} {row['state']}: [{row['code']}] the peer said: {row['status']}")
    if sent.stopped:
        say_error(BatchError(sent.stopped, "delivery ended early; run it again to go on"))
    raise typer.Exit(sent.status)
