"""``medpanoptic receive``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medpanoptic.console import say

# what fetch and send share
Key = Annotated[Path | None, typer.Option(help="File with the key of the handles; default FOLDER/receive.key.")]
Certificate = Annotated[Path | None, typer.Option("--tls-cert", help="Our certificate for DICOM over TLS, PEM.")]
CertificateKey = Annotated[Path | None, typer.Option("--tls-key", help="Its key, PEM, without a password.")]
Log = Annotated[Path | None, typer.Option(help="Log of JSON lines; default FOLDER/receive.log.")]


def receive(
    folder: Annotated[Path, typer.Argument(help="Folder for the studies; give it to batch.")],
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 11112,
    host: Annotated[str, typer.Option(help="Address to listen on; the default is this machine only.")] = "127.0.0.1",
    ae_title: Annotated[str, typer.Option(help="Our AE title.")] = "MEDPANOPTIC",
    allow: Annotated[list[str] | None, typer.Option(help="AE title that may send; repeat it. None: nobody.")] = None,
    tls_cert: Certificate = None,
    tls_key: CertificateKey = None,
    tls_ca: Annotated[Path | None, typer.Option(help="PEM: take only clients with a certificate of it.")] = None,
    quiet: Annotated[float, typer.Option(help="A study is complete after so many seconds without an object.")] = 60,
    expect: Annotated[int | None, typer.Option(help="Or with so many objects, if all studies have the same.")] = None,
    max_object_mb: Annotated[float, typer.Option(help="Largest object, MiB.")] = 2048,
    max_study_gb: Annotated[float, typer.Option(help="Largest study, GiB.")] = 20,
    min_free_mb: Annotated[float, typer.Option(help="Room to leave on the disk, MiB.")] = 1000,
    key: Key = None,
    log: Log = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO or WARNING.")] = "INFO",
) -> None:
    """Take studies from a PACS (C-STORE) until SIGTERM or Ctrl-C; batch takes the complete ones. See docs/pacs.md."""
    from medpanoptic.pacs import receive as take
    from medpanoptic.pacs.inbox import InboxLimits
    from medpanoptic.pacs.tls import Tls

    tls = Tls(tls_cert, tls_key, tls_ca)
    over = "" if tls == Tls() else " over TLS"
    if not allow:
        say("nobody may send: name AE titles with --allow")
    done = take(
        folder,
        port=port,
        host=host,
        ae_title=ae_title,
        allow=allow or (),
        tls=tls if over else None,
        quiet_s=quiet,
        expect=expect,
        limits=InboxLimits(max_object_mb, max_study_gb, min_free_mb),
        key_file=key,
        log=log,
        log_level=log_level.upper(),
        listening=lambda opened: say(
            f"listening on {host}:{opened} as {ae_title}{' over TLS' if tls != Tls() else ''}"
        ),
    )
    typer.echo(
        f"{done.new} objects, {done.duplicates} duplicates, {done.aside} kept aside, {done.refused} refused; "
        f"{done.completed} studies complete, {done.held} held"
    )
