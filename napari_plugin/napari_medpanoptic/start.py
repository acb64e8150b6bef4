"""Begin a review in a viewer: the case, its image, the docks; what was left unsigned is asked about."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any, Literal

from qtpy.QtWidgets import QMessageBox

from medpanoptic.errors import ReviewError
from medpanoptic.review import ReviewSession, Unsaved, find_unsaved
from medpanoptic.review.follow_up import latest_result
from medpanoptic.volume import Volume
from napari_medpanoptic.docks import add_docks, review_of
from napari_medpanoptic.edited import volume_from_layers
from napari_medpanoptic.layers import KEY
from napari_medpanoptic.reader import read, read_path, show_code
from napari_medpanoptic.reading import Reading
from napari_medpanoptic.review_widget import ReviewWidget
from napari_medpanoptic.view import arrange

Answer = Literal["resume", "discard"]


def start_review(
    viewer: Any,
    case: Path,
    image: Path | None = None,
    *,
    reader: str = "",
    prior: Path | None = None,
    prior_image: Path | None = None,
    unsaved: Answer | None = None,
) -> ReviewWidget:
    """Open a case for reading, with its image under it and the docks beside it; return the Review dock.

    image : study or file on the grid of the case; None takes an image that the viewer holds, if one lies on it.
    reader : "" takes the login name; it can be changed in the dock until the review is signed.
    prior : an earlier case; its lesions are matched in the Follow-up dock. prior_image : its study, so that both can
    be registered; None takes both results to lie in one space.
    unsaved : what to do with edits of a review that was not signed; None asks.
    Raises ReadError; ReviewError as ``ReviewSession.open``, REVIEW-IMAGE if the image is on another grid.
    """
    arrange(viewer)
    with show_code():
        result = latest_result(case)
        if image is not None:
            _show_image(viewer, image)
        volume = volume_from_layers([layer.as_layer_data_tuple() for layer in viewer.layers], result)
        if image is not None and volume is None:
            raise ReviewError(
                "REVIEW-IMAGE", f"{image.name} does not lie on the grid of {case.name}: it is another image"
            )
        waiting = find_unsaved(case)
        answer = unsaved or (ask(waiting) if waiting is not None else "resume")
        widget = review_of(viewer)
        widget.end()
        _drop_layers(viewer, case)
        name = reader.strip() or getpass.getuser()
        session = ReviewSession.open(case, volume, reader=name, unsaved=answer)
    reading = Reading(viewer, session, case.name)
    follow_up = add_docks(viewer, widget, reading)
    widget.begin(reading, case, image or _path_of(viewer, volume))
    if prior is not None:
        follow_up.open(prior, prior_image)
    reading.step(1, unread=True)
    return widget


def ask(waiting: Unsaved) -> Answer:
    """Ask about a review that was left or killed before it was signed."""
    box = QMessageBox()
    box.setWindowTitle("Unsigned review found")
    box.setText(
        f"{waiting.edits} edits by {waiting.reader} for version {waiting.version} were not signed "
        f"(last edit {waiting.last}). Go on with them?"
    )
    go_on = box.addButton("Go on", QMessageBox.ButtonRole.AcceptRole)
    box.addButton("Set them aside", QMessageBox.ButtonRole.DestructiveRole)
    box.exec()
    return "resume" if box.clickedButton() is go_on else "discard"


def _show_image(viewer: Any, image: Path) -> None:
    known = {layer.metadata.get(KEY, {}).get("path") for layer in viewer.layers}
    if image not in known:
        layers = read(str(image)) if viewer.window is not None else read_path(image)
        for data, look, kind in layers:
            look["metadata"][KEY]["path"] = image
            getattr(viewer, f"add_{kind}")(data, **look)


def _path_of(viewer: Any, volume: Volume | None) -> Path | None:
    metas = (layer.metadata.get(KEY, {}) for layer in viewer.layers)
    return next((m.get("path") for m in metas if volume is not None and m.get("volume") is volume), None)


def _drop_layers(viewer: Any, case: Path) -> None:
    """Take away layers of this case that were opened to be looked at: the review brings its own."""
    for layer in [layer for layer in viewer.layers if layer.metadata.get(KEY, {}).get("case") == case]:
        viewer.layers.remove(layer)
