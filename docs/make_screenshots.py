"""Make docs/images/napari_*.png again: each sample, segmented by its model through the Segment widget.

python docs/make_screenshots.py [FOLDER]             needs the viewer extra and a screen (xvfb-run -a is enough)
python docs/make_screenshots.py --review [FOLDER]    the tutorial's pictures: a reading by keys, without a model
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.qt import get_qapp
from napari_medpanoptic.orientation import PLANES
from napari_medpanoptic.sample_data import sarcoma_petct
from napari_medpanoptic.view import set_plane
from PIL import Image
from scipy import ndimage

from medpanoptic.io import write_result
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.samples import PHANTOM_CLASSES, SAMPLES, Sample, sample_path

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


def review(folder: Path) -> None:
    """Write the pictures of docs/tutorial_review.md: every step of a reading."""
    from napari_medpanoptic.start import start_review
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest

    folder.mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1560, 960)
    with tempfile.TemporaryDirectory() as place:
        case = threshold_case(Path(place) / "sarcoma_petct")
        widget = start_review(viewer, case, sample_path("sarcoma_petct"), reader="A. Reader")
        canvas = viewer.window._qt_viewer.canvas.native
        settle(lambda: False, seconds=2)
        widget.reading.go(widget.reading.current)
        take(viewer, folder / "review_1_open.png", fit=False)
        for key in (Qt.Key.Key_W, Qt.Key.Key_W, Qt.Key.Key_F1):
            QTest.keyClick(canvas, key)
        take(viewer, folder / "review_2_keys.png", fit=False)
        for key in (Qt.Key.Key_F1, Qt.Key.Key_W, Qt.Key.Key_P):
            QTest.keyClick(canvas, key)
        middle = QPoint(canvas.width() // 2, canvas.height() // 2)
        QTest.mousePress(canvas, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, middle)
        for step in range(1, 12):
            QTest.mouseMove(canvas, middle + QPoint(-12 * step, 0))
            settle(lambda: False, seconds=0.05)
        end = middle - QPoint(132, 0)
        QTest.mouseRelease(canvas, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, end)
        take(viewer, folder / "review_3_correct.png", fit=False)
        for key in (Qt.Key.Key_Z, Qt.Key.Key_Q):
            QTest.keyClick(canvas, key)
        take(viewer, folder / "review_4_diameters.png", fit=False)
        QTest.keyClick(canvas, Qt.Key.Key_Q)
        for _ in widget.reading.session.things:
            QTest.keyClick(canvas, Qt.Key.Key_A)
        widget.sign_box.button.click()
        settle(lambda: widget.sign_box.worker is None)
        take(viewer, folder / "review_5_signed.png", fit=False)
        viewer.close()


def threshold_case(folder: Path) -> Path:
    """Write a result of the PET/CT sample that needs no model: the hot spots of the PET, the largest cut in two."""
    volume = sarcoma_petct()[0][1]["metadata"]["medpanoptic"]["volume"]
    suv = volume.array[[c.unit for c in volume.channels].index("SUV")]
    labels, count = ndimage.label(suv > 4)
    sizes = ndimage.sum_labels(suv > 4, labels, range(1, count + 1))
    hot = labels == int(np.argmax(sizes)) + 1
    slices = np.nonzero(hot)[0]
    ids = np.ones(hot.shape, np.int32)
    ids[hot] = 2
    ids[hot & (np.arange(len(hot))[:, None, None] > np.median(slices))] = 3
    segments = (Segment(1, 2), Segment(2, 1, score=0.93), Segment(3, 1, score=0.71))
    write_result(PanopticResult(ids, segments, PHANTOM_CLASSES, volume.affine), folder)
    return folder


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


def take(viewer: Any, path: Path, fit: bool = True) -> None:
    """Save the whole window, with notifications gone and the layout at rest. fit : show the whole image."""
    for notice in viewer.window._qt_window.findChildren(object):
        if type(notice).__name__ == "NapariQtNotification":
            notice.close()
    settle(lambda: False, seconds=0.5)
    if fit:
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
    words = [word for word in sys.argv[1:] if word != "--review"]
    target = Path(words[0]) if words else Path(__file__).parent / "images"
    if "--review" in sys.argv:
        review(target)
    else:
        main(target)
