"""The shipped samples, and phantoms made by code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.errors import SelectionError
from medpanoptic.geometry import spatial_affine
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.volume import Channel, Volume


@dataclass(frozen=True)
class Sample:
    """One shipped input. ``file`` and ``reference`` are relative to the sample folder; ``model`` is a bundle's name.

    pixel_size_um : for images whose file carries no pixel size; None where it does or where nobody knows it.
    """

    name: str
    title: str
    file: str
    reference: str
    model: str
    pixel_size_um: float | None = None


SAMPLES: Mapping[str, Sample] = MappingProxyType(
    {
        s.name: s
        for s in (
            Sample(
                "nuclei_fluorescence",
                "nuclei, fluorescence",
                "nuclei_fluorescence.png",
                "reference/nuclei_fluorescence.png",
                "nuclei",
            ),
            Sample("he_colon", "colon, H&E, 40x", "he_colon.png", "reference/he_colon.png", "nuclei_he", 0.25),
            Sample(
                "sarcoma_petct",
                "soft-tissue sarcoma, PET/CT/MR",
                "sarcoma_petct",
                "reference/sarcoma_petct.nii.gz",
                "sarcoma_petct",
            ),
        )
    }
)

_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_TISSUE = Code("85756007", "SCT", "Tissue")
PHANTOM_CLASSES = ClassTable(
    (
        ClassInfo(1, "lesion", True, (220, 60, 40), _ABNORMAL, Code("52988006", "SCT", "Lesion")),
        ClassInfo(2, "soft tissue", False, (150, 180, 210), _TISSUE, Code("87784001", "SCT", "Soft tissue")),
    )
)


def sample_folder() -> Path:
    """Return the folder of samples: inside an installed package, or ``sample_data/`` of the checkout."""
    here = Path(__file__).resolve().parent
    folders = (here / "sample_data", here.parent / "sample_data")
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def get_sample(name: str) -> Sample:
    """Return the sample called ``name``. Raises SelectionError (SAMPLE-NAME), which lists the names."""
    if name not in SAMPLES:
        raise SelectionError("SAMPLE-NAME", f"no sample {name!r}; there are {', '.join(SAMPLES)}")
    return SAMPLES[name]


def sample_path(name: str) -> Path:
    """Return the file or DICOM folder of a sample. Raises SelectionError (SAMPLE-NAME)."""
    return sample_folder() / get_sample(name).file


def reference_path(name: str) -> Path:
    """Return the annotators' instance map of a sample (0 = none, 1..n). Raises SelectionError (SAMPLE-NAME).

    A 16-bit PNG on the image's own grid, or a NIfTI with its own affine.
    """
    return sample_folder() / get_sample(name).reference


def phantom(
    spatial_dims: int = 3,
    *,
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    lesions: int = 3,
    seed: int = 0,
) -> tuple[Volume, PanopticResult]:
    """Make an image of an elliptic body with round lesions in it, and its truth.

    spatial_dims : 2 or 3.
    shape : S, default 96 per axis in 2D and 48 in 3D; spacing : mm per axis, default 1.
    lesions : how many are wanted; where the body is full there are fewer, see the truth's table.
    seed : the same arguments give the same bytes.
    Returns a Volume of one float32 channel "image" (air 0, body about 100, lesions about 200) and the truth on the
    same grid: class 1 "lesion" (things), class 2 "soft tissue" (stuff), void outside the body.
    """
    size = tuple(shape) if shape is not None else ((96,) * 2 if spatial_dims == 2 else (48,) * spatial_dims)
    affine = spatial_affine(spacing if spacing is not None else (1.0,) * spatial_dims)
    random = np.random.default_rng(seed)
    middle = (np.array(size) - 1) / 2
    body = _distance(size, middle, np.array(size) * 0.45) <= 1
    ids = np.where(body, 1, 0).astype(np.int32)
    count = _add_lesions(ids, lesions, random)
    image = np.select([ids > 1, ids == 1], [200.0, 100.0], 0.0) + random.normal(0, 5, size) * body
    table = [Segment(1, 2), *(Segment(i, 1) for i in range(2, count + 2))]
    truth = PanopticResult(ids, tuple(table), PHANTOM_CLASSES, affine, stuff=np.where(body, 2, 0).astype(np.uint8))
    return Volume(image[None].astype(np.float32), affine, (Channel("image"),)), truth


def _distance(size: tuple[int, ...], centre: NDArray, radii: NDArray | float) -> NDArray[np.float64]:
    """Distance of every voxel from a centre, in units of the radius along each axis."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), axis=-1)
    return np.linalg.norm((index - centre) / radii, axis=-1)


def _add_lesions(ids: NDArray[np.int32], wanted: int, random: np.random.Generator) -> int:
    """Write up to ``wanted`` round lesions with ids 2, 3, ... where only body (1) is; return how many fitted."""
    added = 0
    for _ in range(50 * wanted):
        if added == wanted:
            break
        radius = random.uniform(0.05, 0.1) * min(ids.shape) + 1
        distance = _distance(ids.shape, random.uniform(0, np.array(ids.shape)), 1.0)
        # one voxel of body stays between neighbours
        if np.all(ids[distance <= radius + 1.5] == 1):
            ids[distance <= radius] = added + 2
            added += 1
    return added
