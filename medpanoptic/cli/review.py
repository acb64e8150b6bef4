"""``medpanoptic review``."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from medpanoptic.cli.options import NOTICE
from medpanoptic.console import say


def review(
    case: Annotated[Path, typer.Argument(help="A result folder: the one that segment wrote.", metavar="CASE")],
    image: Annotated[
        Path | None, typer.Option("--image", help="The study or file that was segmented, shown under the result.")
    ] = None,
    prior: Annotated[Path | None, typer.Option("--prior", help="An earlier case of the same patient.")] = None,
    prior_image: Annotated[
        Path | None, typer.Option("--prior-image", help="The study of the earlier case, to register both.")
    ] = None,
    reader: Annotated[str, typer.Option("--reader", help="Your name, for journal and report. [default: login]")] = "",
) -> None:
    """Open a result in napari, ready to read: list, corrections, measures, signing."""
    if find_spec("napari") is None or find_spec("PySide6") is None:
        say("review needs the viewer: pip install 'medpanoptic[viewer]'")
        sys.exit(1)
    import napari

    from medpanoptic.io import read_result

    for folder in filter(None, (case, prior)):
        read_result(folder)  # a wrong folder is said here, before a window opens
    if prior_image is not None and prior is None:
        say("--prior-image is the study of --prior: name that case too")
        sys.exit(2)
    say(NOTICE)
    viewer = napari.Viewer(title=f"medpanoptic: {case.name}")
    # the plugin is reached through napari, so that the library does not import it
    _, dock = viewer.window.add_plugin_dock_widget("medpanoptic", "Review")
    dock.start(case, image, reader=reader, prior=prior, prior_image=prior_image)
    napari.run()
