"""What the command line says, and where: results on stdout, progress and messages on stderr."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from medpanoptic.errors import MedpanopticError


def new_table(*columns: str) -> Table:
    """Return an empty table of plain columns."""
    return Table(*columns, box=None, header_style="bold", pad_edge=False)


def print_table(table: Table) -> None:
    """Print a result on stdout: what fits on a screen; whole lines into a pipe or file."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1000)
    console.print(table)


def say(text: str) -> None:
    """Print one message on stderr."""
    _stderr().print(escape(text))


def say_error(error: Exception, case: str = "") -> None:
    """Print ``error [CODE] text`` on stderr.

    The text of an exception that is not ours stays out: it may quote the input, and inputs hold patient data.
    """
    where = f"{case}: " if case else ""
    if isinstance(error, MedpanopticError):
        # many texts begin with the name of the file, which is the case's
        where = "" if error.message.startswith(where) else where
        text = f"[{error.code}] {where}{error.message}"
    elif isinstance(error, OSError):
        text = f"[OS] {where}{error.filename or ''}: {error.strerror or type(error).__name__}"
    else:
        text = f"[INTERNAL] {where}unexpected {type(error).__name__}; medpanoptic --debug ... shows where"
    _stderr().print(f"[bold red]error[/bold red] {escape(text)}")


def say_traceback() -> None:
    """Print the traceback of the exception being handled on stderr."""
    _stderr().print_exception()


def progress_bar() -> Progress:
    """Return a progress bar on stderr that vanishes when it is done; stdout stays untouched."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)


def _stderr() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)
