"""``medpanoptic models``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from medpanoptic.console import new_table, print_table

if TYPE_CHECKING:
    from medpanoptic.bundle import Bundle


def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models that are there: what each takes and finds."""
    from medpanoptic.bundle import list_bundles

    rows = [_model_row(bundle) for bundle in list_bundles()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = new_table("model", "version", "dims", "takes", "things", "stuff")
    for row in rows:
        takes = ", ".join(c["name"] if c["required"] else f"({c['name']})" for c in row["channels"])
        cells = (
            row["name"],
            row["version"],
            f"{row['spatial_dims']}D",
            takes,
            *map(", ".join, (row["things"], row["stuff"])),
        )
        table.add_row(*map(escape, cells))
    print_table(table)


def _model_row(bundle: Bundle) -> dict[str, Any]:
    """What ``models --json`` prints for one bundle."""
    return {
        "name": bundle.name,
        "version": bundle.version,
        "description": bundle.description,
        "spatial_dims": bundle.spatial_dims,
        "channels": [vars(c) for c in bundle.channels],
        "things": [c.name for c in bundle.classes.things],
        "stuff": [c.name for c in bundle.classes.stuff],
        "weights_sha256": bundle.weights_sha256,
    }
