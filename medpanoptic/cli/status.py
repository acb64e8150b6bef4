"""``medpanoptic status``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live

from medpanoptic.console import new_table, print_table

if TYPE_CHECKING:
    from medpanoptic.batch.report import Status


def status(
    output: Annotated[Path, typer.Argument(help="Output folder of a batch.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until the batch ends.")] = False,
    study: Annotated[str | None, typer.Option(help="One study: a handle, a StudyInstanceUID or a file.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write all rows of the ledger as JSON lines.")] = None,
    report: Annotated[bool, typer.Option("--report", help="Write OUT/report.html anew.")] = False,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="With --report: show patient images.")] = False,
    key: Annotated[Path | None, typer.Option(help="File with the key of the handles, as for batch.")] = None,
    ledger: Annotated[Path | None, typer.Option(help="Folder of the ledger, as for batch.")] = None,
) -> None:
    """Tell how a batch is doing: studies by state, reasons, rate."""
    from medpanoptic.batch.report import find_study, read_status, write_report

    if study is not None:
        typer.echo(json.dumps(find_study(output, study, ledger_folder=ledger, key_file=key), indent=2, sort_keys=True))
        return
    if report:
        write_report(output, ledger_folder=ledger, thumbnails=thumbnails)
    found = read_status(output, ledger_folder=ledger, export=export)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2, sort_keys=True))
    elif watch:
        with Live() as live:
            while True:
                live.update(Group(*_tables(found)))
                if not found.working:
                    break
                time.sleep(1)
                found = read_status(output, ledger_folder=ledger)
    else:
        for table in _tables(found):
            print_table(table)


def _tables(found: Status) -> list[Any]:
    states = new_table("state", "studies")
    for state, number in found.counts.items():
        states.add_row(state, str(number))
    codes = new_table("state", "code", "stage", "studies")
    for row in found.codes:
        codes.add_row(*(str(row[name]) for name in ("state", "code", "stage", "number")))
    figures = new_table("figure", "value")
    for name, value in found.figures().items():
        figures.add_row(name, value)
    return [states, *([codes] if found.codes else []), figures]
