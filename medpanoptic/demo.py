"""The demo: every shipped model on its sample, with a score against the annotators."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medpanoptic.geometry import Affine, to_index, to_world
from medpanoptic.io import read_study, read_volume, write_result
from medpanoptic.metrics import binary_quality, dice
from medpanoptic.result import PanopticResult
from medpanoptic.samples import SAMPLES, Sample, reference_path, sample_path
from medpanoptic.volume import Volume


@dataclass(frozen=True)
class DemoRow:
    """What one model found on one sample.

    found, annotated : numbers of things by the model and by the annotators.
    measure : "PQ" of things whatever their class, for nuclei; "Dice" of all things together, for a single tumour.
    """

    sample: Sample
    folder: Path
    found: int
    annotated: int
    measure: str
    value: float
    seconds: float


def run_demo(
    output: Path,
    *,
    device: str = "auto",
    samples: Iterable[Sample] = tuple(SAMPLES.values()),
    progress: Callable[[float], None] | None = None,
) -> Iterator[DemoRow]:
    """Segment each sample with its model into ``output/SAMPLE/`` and yield its row when it is done.

    device : as for ``Segmenter.load``. progress : called with the part of the current sample that is done, (0, 1].
    Raises ModelError, ReadError, WriteError.
    """
    from medpanoptic.segmenter import Segmenter

    for sample in samples:
        started = time.monotonic()
        segmenter = Segmenter.load(sample.model, device=device)
        volume = read_study(sample_path(sample.name), segmenter.bundle.channels, pixel_size_um=sample.pixel_size_um)
        result = segmenter(volume, progress=progress)
        seconds = time.monotonic() - started
        formats = ["nifti", "csv", "png", "coco", *(["dicom-seg"] if volume.source.sop_uids else [])]
        write_result(result, output / sample.name, formats=formats, volume=volume)
        measure, value, annotated = compare(result, sample)
        yield DemoRow(sample, output / sample.name, len(result.things), annotated, measure, value, seconds)


def compare(result: PanopticResult, sample: Sample) -> tuple[str, float, int]:
    """Return the measure, its value and the number of annotated things of a sample."""
    reference = read_volume(reference_path(sample.name))
    truth = reference.array[0].astype(np.int32)
    annotated = len(np.unique(truth[truth > 0]))
    things = {s.id for s in result.things}
    ids = np.where(np.isin(result.ids, list(things)), result.ids, 0)
    if result.ndim == 2:
        true_segments = {int(i): 1 for i in np.unique(truth[truth > 0])}
        quality = binary_quality(ids, dict.fromkeys(things, 1), truth, true_segments, [1], void=None)
        return "PQ", quality.pq, annotated
    return "Dice", dice(sample_at(ids, result.affine, reference) > 0, truth > 0), annotated


def sample_at(ids: NDArray[np.int32], affine: Affine, grid: Volume) -> NDArray[np.int32]:
    """Take the ids (*S) at the voxel centres of another grid, nearest neighbour; 0 outside.

    affine : of ``ids``, index -> LPS mm. Returns the shape of ``grid``.
    """
    centres = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1).reshape(-1, grid.ndim)
    index = np.rint(to_index(to_world(centres, grid.affine), affine, ids.ndim)).astype(int)
    inside = np.all((index >= 0) & (index < ids.shape), axis=1)
    taken = np.zeros(len(index), ids.dtype)
    taken[inside] = ids[tuple(index[inside].T)]
    return taken.reshape(grid.shape)


def open_in_napari(output: Path, samples: Iterable[Sample] = tuple(SAMPLES.values())) -> None:
    """Open one napari window per sample, image and result, and wait until they are closed. Needs the viewer extra."""
    import napari

    for sample in samples:
        viewer = napari.Viewer(title=f"medpanoptic: {sample.title}")
        viewer.open_sample("medpanoptic", sample.name)
        viewer.open(str(output / sample.name), plugin="medpanoptic")
    napari.run()
