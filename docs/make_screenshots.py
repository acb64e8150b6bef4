"""Make docs/images/napari_*.png again: each sample, segmented by its model through the Segment widget.

python docs/make_screenshots.py [FOLDER]      needs the viewer extra and a screen (xvfb-run -a is enough)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import napari
from napari.qt import get_qapp
from napari_medpanoptic.orientation import PLANES
from napari_medpanoptic.view import set_plane
from PIL import Image

from medpanoptic.samples import SAMPLES, Sample

SIZE = (1400, 900)
PATIENCE_S = 600


def main(folder: Path) -> None:
    """Write one picture per sample, and for a volume one per plane."""
    folder.mkdir(parents=True, exist_ok=True)
    for sample in SAMPLES.values():
        viewer = napari.Viewer(show=True)
        viewer.window.resize(*SIZE)
        _, widget = viewer.window.add_plugin_dock_widget("medpanoptic", "Segment")
        viewer.open_sample("medpanoptic", sample.name)
        segment(widget, sample)
        planes = list(PLANES) if viewer.dims.ndim == 3 else [""]
        for plane in planes:
            if plane:
                set_plane(viewer, plane)
            take(viewer, folder / f"napari_{'_'.join(filter(None, (sample.name, plane)))}.png")
        viewer.close()


def segment(widget: Any, sample: Sample) -> None:
    """Press Run with the sample's model and wait for the result."""
    widget.model_box.setCurrentText(sample.model)
    if widget.model_box.currentText() != sample.model:
        sys.exit(f"no model {sample.model!r} in workflows/")
    widget.device_box.setCurrentText("cpu")
    widget.run_button.click()
    settle(lambda: widget.worker is None)
    if widget.status.text() == "Failed":
        sys.exit(f"{sample.name}: segmentation failed")


def take(viewer: Any, path: Path) -> None:
    """Save the whole window, with notifications gone and the layout at rest."""
    for notice in viewer.window._qt_window.findChildren(object):
        if type(notice).__name__ == "NapariQtNotification":
            notice.close()
    settle(lambda: False, seconds=0.5)
    viewer.reset_view()
    settle(lambda: False, seconds=0.2)
    picture = Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)).convert("RGB")
    # a palette keeps the pictures small in the repository; only with a given palette does Pillow dither
    picture.quantize(256, palette=picture.quantize(256), dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def settle(done: Any, seconds: float = PATIENCE_S) -> None:
    """Let Qt work until ``done()`` or the time is over."""
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        get_qapp().processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
