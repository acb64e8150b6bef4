"""Where the tiles of a whole slide image lie, and where the slide lies. Source: DICOM PS3.3 C.8.12.14, C.8.12.4.1.1."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medpanoptic.errors import GeometryError, ReadError
from medpanoptic.geometry import Affine, check_affine

_NOISE = 1e-4


def tile_corners(dataset: Dataset, name: str) -> NDArray[np.int64]:
    """Return the (F, 2) zero-based (row, column) of the first pixel of each frame in the whole level.

    TILED_FULL goes row by row; otherwise every frame must say where it lies. Nothing is guessed: a slide without
    either could be in any order. Raises ReadError: SLIDE-TILES (unknown, wrong or doubled places), SLIDE-LAYERS
    (several focal planes or optical paths).
    """
    paths = max(int(dataset.get("NumberOfOpticalPaths") or 1), len(dataset.get("OpticalPathSequence") or ()))
    planes = int(dataset.get("TotalPixelMatrixFocalPlanes") or 1)
    if max(paths, planes) > 1:
        raise ReadError("SLIDE-LAYERS", f"{name}: a slide of several focal planes or optical paths; export one of them")
    count = int(dataset.get("NumberOfFrames") or 1)
    shape = int(dataset.TotalPixelMatrixRows), int(dataset.TotalPixelMatrixColumns)
    tile = int(dataset.Rows), int(dataset.Columns)
    if min(*shape, *tile, count) < 1:
        raise ReadError("SLIDE-TILES", f"{name}: the slide or its tiles have no size")
    if "PerFrameFunctionalGroupsSequence" in dataset and dataset.get("DimensionOrganizationType") != "TILED_FULL":
        return _given_corners(dataset, count, shape, name)
    down, across = ceil(shape[0] / tile[0]), ceil(shape[1] / tile[1])
    if dataset.get("DimensionOrganizationType") != "TILED_FULL" and count > 1:
        raise ReadError(
            "SLIDE-TILES",
            f"{name}: {count} tiles without positions, and not said to be TILED_FULL: their order is unknown; "
            "convert the slide again from its original",
        )
    if count != down * across:
        raise ReadError("SLIDE-TILES", f"{name}: {count} tiles, but {down} x {across} cover the slide (TILED_FULL)")
    grid = np.indices((down, across)).reshape(2, -1).T
    return grid * np.array(tile)


def _given_corners(dataset: Dataset, count: int, shape: tuple[int, int], name: str) -> NDArray[np.int64]:
    places = []
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        item = (frame.get("PlanePositionSlideSequence") or [None])[0]
        if item is None or "RowPositionInTotalImagePixelMatrix" not in item:
            raise ReadError("SLIDE-TILES", f"{name}: a tile without a position in the slide")
        places.append((item.RowPositionInTotalImagePixelMatrix, item.ColumnPositionInTotalImagePixelMatrix))
    corners = np.array(places, np.int64).reshape(-1, 2) - 1
    if len(corners) != count:
        raise ReadError("SLIDE-TILES", f"{name}: {len(corners)} positions for {count} tiles")
    if len(np.unique(corners, axis=0)) != count:
        raise ReadError("SLIDE-LAYERS", f"{name}: several tiles at one place (focal planes or optical paths?)")
    if corners.min() < 0 or np.any(corners >= np.array(shape)):
        raise ReadError("SLIDE-TILES", f"{name}: a tile lies outside the slide")
    return corners


def slide_affine(dataset: Dataset, name: str) -> tuple[Affine, tuple[str, ...]]:
    """Return the affine, (row, column) index -> mm in the slide coordinate system, and notes.

    Raises GeometryError: GEO-PIXEL-SPACING, GEO-ORIENTATION (missing, garbled or impossible).
    """
    spacing = _pixel_spacing(dataset, name)
    cosines = np.array([float(v) for v in dataset.get("ImageOrientationSlide") or ()])
    across, down = cosines[:3], cosines[3:]
    if cosines.shape != (6,) or np.abs([across @ across - 1, down @ down - 1, across @ down]).max() > _NOISE:
        raise GeometryError("GEO-ORIENTATION", f"{name}: no usable ImageOrientationSlide")
    affine = np.eye(4)
    steps = down * spacing[0], across * spacing[1], np.cross(across, down)
    affine[:3, :3] = np.stack(steps, axis=1) + 0.0  # no -0.0
    origin = (dataset.get("TotalPixelMatrixOriginSequence") or [None])[0]
    if origin is None:
        return check_affine(affine), ("the slide says no origin: mm are counted from its first pixel",)
    affine[:2, 3] = float(origin.XOffsetInSlideCoordinateSystem), float(origin.YOffsetInSlideCoordinateSystem)
    return check_affine(affine), ()


def _pixel_spacing(dataset: Dataset, name: str) -> tuple[float, float]:
    """(row, column) mm: shared by all tiles, or equal in each."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    groups = [*shared, *(dataset.get("PerFrameFunctionalGroupsSequence") or [])]
    items = [group.PixelMeasuresSequence[0] for group in groups if group.get("PixelMeasuresSequence")]
    found = {tuple(float(v) for v in item.get("PixelSpacing") or ()) for item in items}
    good = [s for s in found if len(s) == 2 and all(0 < v < 1e3 for v in s)]
    if len(found) != 1 or not good:
        raise GeometryError("GEO-PIXEL-SPACING", f"{name}: PixelSpacing is missing, garbled or not the same everywhere")
    return good[0][0], good[0][1]
