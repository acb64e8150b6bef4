from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path

import pytest

npe2 = pytest.importorskip("npe2", reason="needs npe2: pip install medpanoptic[viewer]")

import napari_medpanoptic  # noqa: E402

MANIFEST = Path(napari_medpanoptic.__file__).parent / "napari.yaml"


@pytest.fixture(scope="module")
def manifest():
    return npe2.PluginManifest.from_file(MANIFEST)


def test_every_command_can_be_imported(manifest):
    pytest.importorskip("qtpy")
    if not os.environ.get("DISPLAY") and os.name == "posix":
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    manifest.validate_imports()


def test_its_name_is_the_distribution_that_registers_it(manifest):
    assert manifest.name == "medpanoptic"
    found = [e for e in entry_points(group="napari.manifest") if e.name == "medpanoptic"]
    if not found:
        pytest.skip("medpanoptic is on the path but not installed, so it has no entry point")
    assert found[0].value == "napari_medpanoptic:napari.yaml"


def test_pictures_stay_with_naparis_own_reader(manifest):
    patterns = {p for r in manifest.contributions.readers for p in r.filename_patterns}
    assert not patterns & {"*", "*.png", "*.tif", "*.tiff", "*.jpg"}


def test_every_sample_is_offered(manifest):
    from medpanoptic.samples import SAMPLES

    assert {s.key for s in manifest.contributions.sample_data} == set(SAMPLES)
