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

from medpanoptic.classes import ClassInfo, ClassTable
from medpanoptic.io import write_result
from medpanoptic.result import Dropped, PanopticResult, Provenance, Segment
from medpanoptic.review import ReviewSession, sign
from medpanoptic.samples import PHANTOM_CLASSES, SAMPLES, Sample, sample_path

SIZE = (1400, 900)
PATIENCE_S = 600
# black is not drawn
AIR = ClassInfo(3, "air", False, (0, 0, 0), PHANTOM_CLASSES[2].category, PHANTOM_CLASSES[2].type)
CLASSES = ClassTable((PHANTOM_CLASSES[1], PHANTOM_CLASSES[2], AIR))


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

    folder.mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1560, 960)
    with tempfile.TemporaryDirectory() as place:
        case, prior = threshold_cases(Path(place))
        widget = start_review(viewer, case, sample_path("sarcoma_petct"), reader="A. Reader", prior=prior)
        settle(lambda: False, seconds=1)
        widget.reading.go(widget.reading.current)
        take(viewer, folder / "review_1_open.png", fit=False)
        look_and_correct(viewer, widget, folder)
        compare_and_follow_up(viewer, widget, folder)
        for _ in widget.reading.session.things:
            press(viewer, "A")
        widget.sign_box.button.click()
        settle(lambda: widget.sign_box.worker is None)
        take(viewer, folder / "review_8_signed.png", fit=False)
        viewer.close()


def look_and_correct(viewer: Any, widget: Any, folder: Path) -> None:
    """PET alone with the Display dock, the list of keys, a brush stroke, the diameters."""
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest

    press(viewer, "W", "W")
    front(viewer, "Display")
    take(viewer, folder / "review_2_display.png", fit=False)
    press(viewer, "W")
    front(viewer, "Review")
    press(viewer, "F1")
    take(viewer, folder / "review_3_keys.png", fit=False)
    press(viewer, "F1", "P")
    canvas = viewer.window._qt_viewer.canvas.native
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)
    held = Qt.KeyboardModifier.NoModifier
    QTest.mousePress(canvas, Qt.MouseButton.LeftButton, held, middle)
    for step in range(1, 12):
        QTest.mouseMove(canvas, middle + QPoint(-4 * step, 4 * step))
        settle(lambda: False, seconds=0.05)
    QTest.mouseRelease(canvas, Qt.MouseButton.LeftButton, held, middle + QPoint(-44, 44))
    take(viewer, folder / "review_4_correct.png", fit=False)
    press(viewer, "Z", "Q")
    take(viewer, folder / "review_5_diameters.png", fit=False)
    press(viewer, "Q")


def compare_and_follow_up(viewer: Any, widget: Any, folder: Path) -> None:
    """What was changed and dropped; the prior case with its marks, RECIST sum and response."""
    front(viewer, "Compare")
    compare = dock_of(viewer, "CompareWidget")
    click_row(compare.dropped, 0)
    take(viewer, folder / "review_6_compare.png", fit=False)
    compare.end()
    front(viewer, "Follow-up")
    follow_up = dock_of(viewer, "FollowUpWidget")
    for name in ("all", "carry"):
        follow_up.buttons[name].click()
    follow_up.recist.take_over.click()
    follow_up.mark_box.setChecked(True)
    click_row(follow_up.table, 0)
    press(viewer, "Q", "Q")  # to the slice of the diameters
    take(viewer, folder / "review_7_follow_up.png", fit=False)
    follow_up.mark_box.setChecked(False)
    front(viewer, "Review")


def click_row(table: Any, row: int) -> None:
    """Click on the first cell of a row."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    spot = table.visualItemRect(table.item(row, 0)).center()
    QTest.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, spot)


def press(viewer: Any, *names: str) -> None:
    """Press keys over the large canvas."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    for name in names:
        QTest.keyClick(viewer.window._qt_viewer.canvas.native, getattr(Qt.Key, f"Key_{name}"))


def dock_of(viewer: Any, kind: str) -> Any:
    """Return the dock widget of a class by its name."""
    return next(dock for dock in viewer.window.dock_widgets.values() if type(dock).__name__ == kind)


def front(viewer: Any, title: str) -> None:
    """Bring the tab of a dock to the front, as a click on it does."""
    from qtpy.QtWidgets import QTabBar

    for bar in viewer.window._qt_window.findChildren(QTabBar):
        texts = [bar.tabText(i) for i in range(bar.count())]
        if title in texts:
            bar.setCurrentIndex(texts.index(title))
    settle(lambda: False, seconds=0.3)


def threshold_cases(folder: Path) -> tuple[Path, Path]:
    """Write a result of the PET/CT sample that needs no model, and a signed prior one in which the tumour was smaller.

    The hottest spot of the PET is cut in two; the next one stands for a candidate that the fusion dropped.
    """
    volume = sarcoma_petct()[0][1]["metadata"]["medpanoptic"]["volume"]
    suv = volume.array[[c.unit for c in volume.channels].index("SUV")]
    air = volume.array[[c.unit for c in volume.channels].index("HU")] < -300
    labels, count = ndimage.label(suv > 4)
    order = np.argsort(ndimage.sum_labels(suv > 4, labels, range(1, count + 1)))[::-1] + 1
    hot = labels == int(order[0])
    upper = np.arange(len(hot))[:, None, None] > np.median(np.nonzero(hot)[0])
    rest = ndimage.label((suv > 2) & ~ndimage.binary_dilation(hot, iterations=6))
    sizes = ndimage.sum_labels(rest[0] > 0, rest[0], range(1, rest[1] + 1))
    found = rest[0] == int(np.argmax(sizes)) + 1
    box = tuple((int(i.min()), int(i.max()) + 1) for i in np.nonzero(found))
    mask = found[tuple(slice(*axis) for axis in box)]
    provenance = Provenance(parameters={"fusion": {"score_threshold": 0.5}})

    def write(name: str, tumour: Any, dropped: tuple[Dropped, ...] = ()) -> Path:
        ids = np.where(air, 4, 1).astype(np.int32)
        ids[tumour], ids[tumour & upper] = 2, 3
        segments = (Segment(1, 2), Segment(2, 1, score=0.93), Segment(3, 1, score=0.71), Segment(4, 3))
        made = PanopticResult(ids, segments, CLASSES, volume.affine, provenance=provenance, dropped=dropped)
        write_result(made, folder / name)
        return folder / name

    prior = write("prior", ndimage.binary_erosion(hot, iterations=3))
    session = ReviewSession.open(prior, volume, reader="A. Reader")
    for lesion in session.things:
        session.accept(lesion)
        session.set_recist(lesion, organ="soft tissue", is_target=True)
    sign(session, formats=["csv"])
    return write("sarcoma_petct", hot, (Dropped(1, 0.31, "score", box, mask),)), prior


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
