"""The list of lesions as a file, when a person asks for it."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from medpanoptic.errors import MedpanopticError
from medpanoptic.review import save_lesions
from napari_medpanoptic.reading import Reading


def save_list(reading: Reading, path: Path) -> None:
    """Write the list to ``path``, with .csv behind a name without an ending, and say so, or why not."""
    target = path if path.suffix else path.with_name(f"{path.name}.csv")
    QApplication.setOverrideCursor(Qt.CursorShape.WaitCursor)  # the diameters of many nuclei take a while
    try:
        save_lesions(reading.session, target)
    except MedpanopticError as error:
        reading.tell(str(error))
    else:
        reading.tell(f"Saved {target.name}")
    finally:
        QApplication.restoreOverrideCursor()
