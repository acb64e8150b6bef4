"""The command line: one command is one function of the API, with the same names and defaults.

Results go to stdout, progress and messages to stderr. Heavy imports stand inside the commands, so that ``--help``
does not wait for torch. Exit status: 0 done, 1 nothing done, 2 command line not understood, 3 some cases failed,
4 a batch ended early.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from medpanoptic import __version__
from medpanoptic.cli.batch import batch
from medpanoptic.cli.convert import convert
from medpanoptic.cli.demo import demo
from medpanoptic.cli.evaluate import evaluate
from medpanoptic.cli.fetch import fetch
from medpanoptic.cli.fuse import fuse
from medpanoptic.cli.inspect import inspect
from medpanoptic.cli.models import models
from medpanoptic.cli.options import NOTICE
from medpanoptic.cli.receive import receive
from medpanoptic.cli.review import review
from medpanoptic.cli.segment import segment
from medpanoptic.cli.send import send
from medpanoptic.cli.status import status
from medpanoptic.cli.train import train
from medpanoptic.console import say_error

app = typer.Typer(
    name="medpanoptic",
    help=f"Panoptic segmentation of medical images in 2D and 3D. {NOTICE}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# one file per command; help lists them in this order
for command in (
    models,
    segment,
    review,
    receive,
    fetch,
    batch,
    status,
    send,
    fuse,
    evaluate,
    train,
    convert,
    inspect,
    demo,
):
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error becomes one line on stderr and exit status 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=words, prog_name="medpanoptic")
    except Exception as error:  # the last border: a person gets a line, not a traceback
        if "--debug" in words:
            raise
        say_error(error)
        sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medpanoptic {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; they may hold values of the input.")] = False,
) -> None:
    pass  # both options act elsewhere: in _show_version, in main and in segment
