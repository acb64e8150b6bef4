"""The demo's comparison with the annotators, on results whose answer is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medpanoptic.demo import compare, run_demo, sample_at
from medpanoptic.geometry import spatial_affine
from medpanoptic.io import read_study, read_volume
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.samples import PHANTOM_CLASSES, SAMPLES, reference_path, sample_path
from medpanoptic.volume import ChannelSpec, Volume


def result_of(ids: np.ndarray, affine: np.ndarray) -> PanopticResult:
    segments = tuple(Segment(int(i), 1) for i in np.unique(ids) if i)
    return PanopticResult(ids.astype(np.int32), segments, PHANTOM_CLASSES, affine)


@pytest.mark.parametrize("name", ["nuclei_fluorescence", "he_colon"])
def test_the_annotation_itself_has_pq_one_and_half_of_it_less(name: str) -> None:
    reference = read_volume(reference_path(name))
    ids = reference.array[0].astype(np.int32)
    measure, value, annotated = compare(result_of(ids, reference.affine), SAMPLES[name])
    assert (measure, value) == ("PQ", 1.0)
    assert annotated == len(np.unique(ids)) - 1
    odd = np.where(ids % 2 == 1, ids, 0)
    assert 0.5 < compare(result_of(odd, reference.affine), SAMPLES[name])[1] < 0.8


def test_nothing_found_scores_nothing() -> None:
    reference = read_volume(reference_path("nuclei_fluorescence"))
    empty = np.zeros(reference.shape, np.int32)
    assert compare(result_of(empty, reference.affine), SAMPLES["nuclei_fluorescence"])[1] == 0


def test_the_tumour_is_compared_where_it_lies_whatever_the_grid() -> None:
    """The reference brought to the CT's own grid, which is finer, lies over the reference."""
    sample = SAMPLES["sarcoma_petct"]
    reference = read_volume(reference_path(sample.name))
    ct = read_study(sample_path(sample.name), [ChannelSpec("ct", "CT", "HU")])
    ids = sample_at(reference.array[0].astype(np.int32), reference.affine, ct)
    measure, value, annotated = compare(result_of(ids, ct.affine), sample)
    assert (measure, annotated) == ("Dice", 1)
    assert value > 0.97


def test_sampling_takes_the_nearest_voxel_and_nothing_outside() -> None:
    ids = np.array([[1, 2], [3, 4]], np.int32)
    grid = Volume.from_array(np.zeros((1, 2, 3), np.uint8), spatial_affine((1.0, 1.0), origin=(0.6, 0.0, 0.0)))
    np.testing.assert_array_equal(sample_at(ids, spatial_affine((1.0, 1.0)), grid), [[2, 0, 0], [4, 0, 0]])


def test_each_sample_is_written_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the annotators in place of the model, so that no weights are needed."""
    sample = SAMPLES["nuclei_fluorescence"]
    reference = read_volume(reference_path(sample.name))

    def oracle(volume: Volume, progress: object = None) -> PanopticResult:
        return result_of(reference.array[0].astype(np.int32), volume.affine)

    oracle.bundle = SimpleNamespace(channels=[ChannelSpec("image")])  # type: ignore[attr-defined]
    monkeypatch.setattr("medpanoptic.segmenter.Segmenter.load", lambda name, device: oracle)
    (row,) = run_demo(tmp_path, samples=[sample])
    assert (row.found, row.annotated, row.measure, row.value) == (43, 43, "PQ", 1.0)
    made = {p.name for p in (tmp_path / sample.name).iterdir()}
    assert {"overlay.png", "segments.json", "segments.csv", "coco_panoptic.json"} <= made
