"""Small DICOM whole slide images made by code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from builders import PATIENT_NAME
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid

Edit = Callable[[Dataset], None]


def pattern(rows: int = 23, columns: int = 31) -> NDArray[np.uint8]:
    """Return (row, column, 3) in which nearly every pixel has another colour, so that no swap goes unseen."""
    grid = np.indices((rows, columns))
    return np.stack([grid[0] * 7, grid[1] * 5, grid[0] + grid[1]], axis=-1).astype(np.uint8)


def write_slide(
    path: Path,
    pixels: NDArray[np.uint8],
    *,
    tile: tuple[int, int] = (10, 8),
    spacing: float = 0.0005,
    sparse: list[tuple[int, int]] | None = None,
    edit: Edit | None = None,
    series: str = "slide",
) -> Path:
    """Write (row, column, 3) or (row, column) as one level.

    sparse : (row, column) of the tiles that are there, zero-based in tiles, in that order (TILED_SPARSE); None is
    TILED_FULL.
    """
    rows, columns = pixels.shape[:2]
    grid = [(r, c) for r in range(0, rows, tile[0]) for c in range(0, columns, tile[1])]
    places = grid if sparse is None else [(r * tile[0], c * tile[1]) for r, c in sparse]
    dataset = _header(pixels, tile, spacing, series, len(places))
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["slide", series, str(pixels.shape), path.name])
    dataset.DimensionOrganizationType = "TILED_FULL" if sparse is None else "TILED_SPARSE"
    if sparse is not None:
        dataset.PerFrameFunctionalGroupsSequence = [_place(r, c) for r, c in places]
    padded = np.pad(pixels, [(0, 2 * tile[0]), (0, 2 * tile[1]), *[(0, 0)] * (pixels.ndim - 2)])
    frames = [padded[r : r + tile[0], c : c + tile[1]] for r, c in places]
    data = np.stack(frames).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    if edit is not None:
        edit(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    dataset.save_as(path, enforce_file_format=True)
    return path


def _header(pixels: NDArray[np.uint8], tile: tuple[int, int], spacing: float, series: str, frames: int) -> Dataset:
    gray = pixels.ndim == 2
    dataset = item(
        SOPClassUID=VLWholeSlideMicroscopyImageStorage, Modality="SM",
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        PatientName=PATIENT_NAME, PatientID="ID-4711", StudyInstanceUID=generate_uid(entropy_srcs=["slide study"]),
        SeriesInstanceUID=generate_uid(entropy_srcs=["slides", series]), StudyDate="20200101", StudyTime="120000",
        FrameOfReferenceUID=generate_uid(entropy_srcs=["slide frame", series]),
        TotalPixelMatrixRows=pixels.shape[0], TotalPixelMatrixColumns=pixels.shape[1], Rows=tile[0], Columns=tile[1],
        NumberOfFrames=frames, SamplesPerPixel=1 if gray else 3,
        PhotometricInterpretation="MONOCHROME2" if gray else "RGB",
        BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0, ImageOrientationSlide=[0, -1, 0, -1, 0, 0],
        TotalPixelMatrixOriginSequence=[item(XOffsetInSlideCoordinateSystem=20.0, YOffsetInSlideCoordinateSystem=40.0)],
        SharedFunctionalGroupsSequence=[item(PixelMeasuresSequence=[item(PixelSpacing=[spacing, spacing])])],
    )  # fmt: skip
    if not gray:
        dataset.PlanarConfiguration = 0
    return dataset


def _place(row: int, column: int) -> Dataset:
    position = item(RowPositionInTotalImagePixelMatrix=row + 1, ColumnPositionInTotalImagePixelMatrix=column + 1)
    return item(PlanePositionSlideSequence=[position])


def item(**elements: Any) -> Dataset:
    """Return a data set of these elements."""
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset
