"""``medpanoptic train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medpanoptic.cli.options import Device, Output


def train(
    bundle: Annotated[str, typer.Argument(help="A shipped model's name or a bundle folder.")],
    data: Annotated[Path, typer.Argument(help="Training data in a known layout; see docs.")],
    output: Output,
    device: Device = "cpu",
    steps: Annotated[int | None, typer.Option(help="Replaces that of the bundle's train.json.")] = None,
    seed: Annotated[int | None, typer.Option(help="Replaces that of the bundle's train.json.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch.")] = None,
    fine_tune: Annotated[bool, typer.Option("--fine-tune", help="Start from the bundle's own weights.")] = False,
) -> None:
    """Train a bundle's network; a run found in the output folder goes on where it stopped."""
    from medpanoptic.training.loop import train as run

    typer.echo(run(bundle, data, output, device=device, steps=steps, seed=seed, threads=threads, fine_tune=fine_tune))
