from __future__ import annotations

import gc
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


def _missing_for_viewer() -> str:
    if find_spec("napari") is None or find_spec("PySide6") is None:
        return "needs napari and Qt: pip install medpanoptic[viewer]"
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        return "needs a screen: run under xvfb-run -a"
    return ""


def _register() -> None:
    """Make the plugin known where the package is on the path but not installed."""
    import napari_medpanoptic
    import npe2

    manager = npe2.PluginManager.instance()
    manager.discover()
    if "medpanoptic" not in manager:
        manager.register(npe2.PluginManifest.from_file(Path(napari_medpanoptic.__file__).parent / "napari.yaml"))


@pytest.fixture
def short_collections():
    """napari collects garbage at each layer it removes: leave out what 2,000 tests before this one have imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def real_viewer(request, short_collections):
    """A napari viewer on a real (virtual) screen, with our plugin; skips where there is none."""
    reason = _missing_for_viewer()
    if reason:
        pytest.skip(reason)
    _register()
    make = request.getfixturevalue("make_napari_viewer")
    return make(show=True)


@pytest.fixture
def small_review(real_viewer, tmp_path):
    """The Review dock on a small phantom with four lesions, its image under them: quick to open and to draw."""
    from dataclasses import replace

    from napari_medpanoptic.layers import volume_layers
    from napari_medpanoptic.start import start_review

    from medpanoptic.io import write_result
    from medpanoptic.samples import phantom

    volume, truth = phantom(3, shape=(24, 40, 44), spacing=(3, 2, 2), lesions=4)
    things = {s.id for s in truth.things}
    segments = tuple(replace(s, score=1 - s.id / 20) if s.id in things else s for s in truth.segments)
    write_result(replace(truth, segments=segments), tmp_path / "small")
    for data, look, _ in volume_layers(volume, "small"):
        real_viewer.add_image(data, **look)
    return start_review(real_viewer, tmp_path / "small", reader="A. Reader")


@pytest.fixture
def model_viewer():
    """The viewer's model alone: no Qt, no screen."""
    components = pytest.importorskip("napari.components", reason="needs napari: pip install medpanoptic[viewer]")
    return components.ViewerModel()
