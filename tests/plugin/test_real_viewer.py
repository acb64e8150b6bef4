"""In the real viewer on a (virtual) screen."""

from __future__ import annotations

import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from napari_medpanoptic.layers import result_layers, volume_layers
from napari_medpanoptic.view import arrange, go_to_largest, set_plane
from scipy import ndimage

from medpanoptic.errors import ModelError
from medpanoptic.geometry import to_index
from medpanoptic.io import read_result, read_volume, write_result
from medpanoptic.result import PanopticResult, Provenance, Segment
from medpanoptic.samples import PHANTOM_CLASSES, phantom
from medpanoptic.volume import Channel, Volume
from tests.builders import axial_affine, write_series
from tests.builders import phantom as voxels

# (rows, columns) of the screen in LPS, and the viewer's mm along them, for the planes of a volume
SCREEN = {"axial": (1, 2), "coronal": (0, 2), "sagittal": (0, 1)}
DISPLAY_TO_LPS = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], float)


def lesion_case(axes=(1, 2, 0), signs=(-1, 1, -1), spacing=(2.0, 1.0, 1.5)):
    """One lesion off centre in a volume of odd orientation: native axis i runs along patient axis ``axes[i]``."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for i, axis in enumerate(axes):
        affine[axis, i] = signs[i] * spacing[i]
    affine[:3, 3] = (40, -25, 60)
    shape = (20, 30, 26)
    index = np.indices(shape)
    radius = np.linalg.norm((index - np.reshape((6, 20, 8), (3, 1, 1, 1))) * np.reshape(spacing, (3, 1, 1, 1)), axis=0)
    ids = np.where(radius < 8, 7, 0).astype(np.int32)
    ids[ids == 0] = 1
    result = PanopticResult(ids, (Segment(1, 2), Segment(7, 1)), PHANTOM_CLASSES, affine)
    image = np.where(radius < 8, 200, 60).astype(np.float32)[None]
    return Volume(image, affine, (Channel("ct", "CT", "HU"),)), result


def world_of_pixels(viewer, shape):
    """Return (H, W, 3) mm on the display axes of each canvas pixel, from the camera alone."""
    rows, columns = viewer.dims.displayed
    canvas = np.stack(np.meshgrid(np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5, indexing="ij"), axis=-1)
    world = np.empty((*shape, 3))
    world[:] = viewer.dims.point
    middle = np.array(shape) / 2
    world[..., [rows, columns]] = (canvas - middle) / viewer.camera.zoom + np.array(viewer.camera.center)[-2:]
    return world


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_overlay_colours_lie_over_the_lesion(real_viewer, plane):
    volume, truth = lesion_case()
    arrange(real_viewer)
    for data, look, kind in [*volume_layers(volume, "case"), *result_layers(truth, "case")]:
        getattr(real_viewer, f"add_{kind}")(data, **look)
    real_viewer.layers["case things"].contour = 0  # filled, so that every pixel of the lesion counts
    real_viewer.layers["case stuff"].visible = False
    go_to_largest(real_viewer, truth)
    set_plane(real_viewer, plane)
    picture = real_viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    color = truth.segment_color(truth.segments[1])
    drawn = np.abs(picture - color).max(axis=-1) <= 2

    # the place of each pixel in the patient, by the affine and not by the plugin's reordering
    place = world_of_pixels(real_viewer, picture.shape[:2]) @ DISPLAY_TO_LPS.T
    index = to_index(place.reshape(-1, 3), truth.affine).round().astype(int)
    inside = np.all((index >= 0) & (index < truth.ids.shape), axis=1)
    expected = np.zeros(len(index), bool)
    expected[inside] = truth.ids[tuple(index[inside].T)] == 7
    expected = expected.reshape(drawn.shape)
    assert expected.sum() > 1000
    assert (drawn & expected).sum() / (drawn | expected).sum() > 0.95
    assert real_viewer.canvas.overlays["scale_bar"].visible


def test_the_outline_is_drawn_and_the_lesion_stays_visible(real_viewer):
    volume, truth = lesion_case()
    arrange(real_viewer)
    for data, look, kind in [*volume_layers(volume, "case"), *result_layers(truth, "case")]:
        getattr(real_viewer, f"add_{kind}")(data, **look)
    go_to_largest(real_viewer, truth)
    real_viewer.layers["case stuff"].visible = False
    picture = real_viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    drawn = np.abs(picture - truth.segment_color(truth.segments[1])).max(axis=-1) <= 2
    inner = ndimage.binary_fill_holes(drawn) & ~drawn
    assert drawn.sum() > 300
    assert inner.sum() > 1000  # a ring with the image inside
    gray = picture[inner]
    assert np.ptp(gray, axis=1).max() <= 40  # not coloured


@pytest.fixture
def fake_model(monkeypatch):
    """In place of a trained model: things are what is brighter than 150. ``mode`` picks what happens."""
    control = SimpleNamespace(mode="ok", started=threading.Event(), go=threading.Event(), device=None, image=None)

    class Segmenter:
        @classmethod
        def load(cls, name, device="auto"):
            control.device = device
            return cls()

        def __call__(self, image, progress=None, series=None):
            control.image, control.series = image, series
            if series is not None:
                image = read_volume(image, series=series[0])
            control.started.set()
            if control.mode == "error":
                raise ModelError("MODEL-HASH", "the weights are not those of the bundle")
            progress(0.5)
            if control.mode == "wait":
                assert control.go.wait(20)
            progress(1.0)
            ids = np.where(image.array[0] > 150, 2, 1).astype(np.int32)
            segments = tuple(s for s in (Segment(1, 2), Segment(2, 1)) if (ids == s.id).any())
            doubts = [{"code": "INPUT-SPACING", "text": "coarser than the training images"}] * (control.mode == "doubt")
            provenance = Provenance(parameters={"warnings": doubts})
            return PanopticResult(ids, segments, PHANTOM_CLASSES, image.affine, provenance=provenance)

    segmenter, bundle = ModuleType("medpanoptic.segmenter"), ModuleType("medpanoptic.bundle")
    segmenter.Segmenter = Segmenter
    bundle.list_bundles = lambda: (SimpleNamespace(name="bright"), SimpleNamespace(name="dark"))
    monkeypatch.setitem(sys.modules, "medpanoptic.segmenter", segmenter)
    monkeypatch.setitem(sys.modules, "medpanoptic.bundle", bundle)
    yield control
    control.go.set()


@pytest.fixture
def dock(real_viewer, fake_model):
    return real_viewer.window.add_plugin_dock_widget("medpanoptic", "Segment")[1]


def add_phantom(viewer):
    volume, truth = phantom(3, shape=(20, 24, 28))
    data, look, _ = volume_layers(volume, "phantom")[0]
    viewer.add_image(data, **look)
    return volume, truth


def test_run_adds_the_result(real_viewer, dock, fake_model, qtbot):
    assert not dock.run_button.isEnabled()  # nothing to run on yet
    volume, truth = add_phantom(real_viewer)
    assert [dock.model_box.itemText(i) for i in range(dock.model_box.count())] == ["bright", "dark"]
    dock.device_box.setCurrentText("cpu")
    dock.run_button.click()
    assert not dock.run_button.isEnabled()
    assert dock.cancel_button.isEnabled()
    qtbot.waitUntil(lambda: dock.worker is None, timeout=20000)
    assert fake_model.device == "cpu"
    assert fake_model.image is volume
    things = real_viewer.layers["phantom things"]
    assert np.array_equal(things.data > 0, (truth.ids > 1)[::-1])
    assert "1 thing found" in dock.status.text()
    assert dock.run_button.isEnabled()


def test_a_person_chooses_between_two_series(real_viewer, dock, fake_model, qtbot, tmp_path):
    for name in ("one", "two"):
        write_series(tmp_path / name, voxels(), axial_affine(), series=name)
    real_viewer.open(str(tmp_path), plugin="medpanoptic")
    (box,) = dock.series_form.boxes
    assert box.isVisible()
    box.setCurrentIndex(1)
    dock.run_button.click()
    qtbot.waitUntil(lambda: dock.worker is None, timeout=20000)
    assert fake_model.image == tmp_path
    assert fake_model.series == [box.itemData(1)]
    assert "things found" in dock.status.text() or "thing found" in dock.status.text()


def test_cancel_stops_and_adds_nothing(real_viewer, dock, fake_model, qtbot):
    fake_model.mode = "wait"
    add_phantom(real_viewer)
    dock.run_button.click()
    qtbot.waitUntil(lambda: dock.bar.value() == 50, timeout=20000)
    dock.cancel_button.click()
    fake_model.go.set()
    qtbot.waitUntil(lambda: dock.worker is None, timeout=20000)
    assert dock.status.text() == "Cancelled"
    assert len(real_viewer.layers) == 1
    assert dock.run_button.isEnabled()


def test_an_error_is_shown_with_its_code(real_viewer, dock, fake_model, qtbot):
    from napari.utils.notifications import notification_manager

    fake_model.mode = "error"
    add_phantom(real_viewer)
    dock.run_button.click()
    qtbot.waitUntil(lambda: dock.worker is None, timeout=20000)
    assert "[MODEL-HASH]" in notification_manager.records[-1].message
    assert dock.status.text() == "Failed"


def test_what_the_model_doubts_is_shown(real_viewer, dock, fake_model, qtbot):
    from napari.utils.notifications import notification_manager

    fake_model.mode = "doubt"
    add_phantom(real_viewer)
    dock.run_button.click()
    qtbot.waitUntil(lambda: dock.worker is None, timeout=20000)
    assert notification_manager.records[-1].message == "[INPUT-SPACING] coarser than the training images"


def test_nothing_found_is_a_result(real_viewer, dock, fake_model, qtbot):
    real_viewer.add_image(np.zeros((20, 24), np.float32), name="empty")
    dock.run_button.click()
    qtbot.waitUntil(lambda: dock.worker is None, timeout=20000)
    assert dock.status.text().startswith("0 things")
    assert not real_viewer.layers["empty things"].data.any()
    assert "Research use only" in " ".join(label.text() for label in dock.findChildren(type(dock.status)))


def test_saving_from_the_viewer_writes_a_result_folder(real_viewer, tmp_path):
    volume, truth = phantom(3, shape=(20, 24, 28))
    for data, look, kind in [*volume_layers(volume, "p"), *result_layers(truth, "p")]:
        getattr(real_viewer, f"add_{kind}")(data, **look)
    real_viewer.layers["p things"].fill((0, 0, 0), 0)
    real_viewer.layers.save(str(tmp_path / "all"), plugin="medpanoptic")
    assert np.array_equal(read_result(tmp_path / "all").ids, truth.ids)
    real_viewer.layers.selection = {real_viewer.layers["p things"]}
    real_viewer.layers.save(str(tmp_path / "one.segments.json"), selected=True)  # found by its ending
    assert np.array_equal(read_result(tmp_path / "one").ids, truth.ids)


def test_a_result_folder_opens_in_the_viewer_ready_to_read(real_viewer, tmp_path, qtbot):
    _, truth = phantom(3, shape=(20, 24, 28))
    write_result(truth, tmp_path / "case")
    real_viewer.open(str(tmp_path / "case"), plugin="medpanoptic")
    qtbot.waitUntil(lambda: "case model" in real_viewer.layers, timeout=60000)  # the review has begun
    assert [layer.name for layer in real_viewer.layers] == ["case stuff", "case things", "case model"]
    assert real_viewer.layers["case things"].contour == 1
    assert real_viewer.canvas.overlays["scale_bar"].visible


def test_closing_the_window_cancels_what_was_about_to_begin(real_viewer, qtbot):
    from napari_medpanoptic.soon import Soon

    begun = []
    Soon(real_viewer, lambda: begun.append(1))
    real_viewer.close()
    qtbot.wait(50)
    assert not begun
