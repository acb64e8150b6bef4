"""DICOM whole slide images: the levels of a folder, and one of them as a 2D volume.

Array (C, row, column), rows and columns as stored; the affine leads to the **slide** coordinate system in mm, which has
nothing to do with a patient's. Source: DICOM PS3.3 A.32.8, C.8.12.4 (image), C.8.12.2.1 (slide coordinates).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import iter_pixels

from medpanoptic.errors import ReadError, SelectionError
from medpanoptic.geometry import Affine, voxel_spacing
from medpanoptic.io.dicom_files import has_decoder, looks_like_dicom, quiet_pydicom, read_dataset, walk_files
from medpanoptic.io.dicom_header import series_handle
from medpanoptic.io.dicom_tiles import slide_affine, tile_corners
from medpanoptic.io.limits import check_size
from medpanoptic.volume import Channel, Source, Volume

SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
_CHANNELS = {1: ("gray",), 3: ("red", "green", "blue")}
# JPEG and JPEG-LS: their decoders fill what is cut off with made-up values; an intact stream ends with EOI
_ENDS_WITH_EOI = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81)}
_TAGS = [
    "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "PixelRepresentation", "TotalPixelMatrixRows", "TotalPixelMatrixColumns", "TotalPixelMatrixFocalPlanes",
    "NumberOfOpticalPaths", "OpticalPathSequence", "TotalPixelMatrixOriginSequence", "ImageOrientationSlide",
    "DimensionOrganizationType", "ConcatenationUID",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class SlideLevel:
    """One resolution of a slide, as its header tells.

    name : of the file, inside the folder. shape : (row, column) of the whole level. samples : 1 gray, 3 RGB.
    corners : (F, 2) first (row, column) of each tile. affine : index -> slide mm. error : why it cannot be read, or
    None; corners and affine count only without one.
    """

    path: Path
    name: str
    source: Source
    shape: tuple[int, int]
    samples: int
    dtype: np.dtype
    corners: NDArray[np.int64]
    affine: Affine
    notes: tuple[str, ...] = ()
    error: ReadError | None = None

    @property
    def handle(self) -> str:
        """8 hex digits that ``series=`` and ``--series`` take."""
        return series_handle(self.source.sop_uids[0])

    @property
    def spacing(self) -> tuple[float, ...]:
        """(row, column) mm; () where the level cannot be read."""
        return () if self.error else tuple(float(v) for v in voxel_spacing(self.affine, 2))


def find_levels(root: Path) -> tuple[SlideLevel, ...]:
    """Return the levels of the slides below a folder, or of one file, the largest first. Labels and overviews are none.

    Headers only. A level that cannot be read is listed with its error.
    """
    files = walk_files(root) if root.is_dir() else iter([(root, root.name, "")])
    found = [level for path, name, reason in files if not reason and (level := _level(path, name)) is not None]
    finest: dict[str, float] = {}
    for level in found:
        if level.spacing:
            series = level.source.series_uid
            finest[series] = min(finest.get(series, np.inf), level.spacing[0])
    found.sort(key=lambda level: (-level.shape[0] * level.shape[1], level.name))
    return tuple(_with_downsample(level, finest) for level in found)


def _with_downsample(level: SlideLevel, finest: dict[str, float]) -> SlideLevel:
    if not level.spacing:
        return level
    ratio = level.spacing[0] / finest[level.source.series_uid]
    return replace(level, source=replace(level.source, downsample=round(ratio, 6)))


def read_slide(path: Path, wanted: str | None = None) -> Volume | None:
    """Read one level of a slide as (C, row, column), RGB or gray as stored; None if the folder holds no slide.

    wanted : handle of a level (``find_series`` lists them) or of a series, or one of their UIDs; default the finest
    level of the one slide. Tiles that TILED_SPARSE leaves out are white (black in gray slides), with a note.
    Raises ReadError: SLIDE-TILES, SLIDE-LAYERS, SLIDE-PARTS, IMAGE-COLOR, READ-TOO-LARGE, TRANSFER-SYNTAX,
    PIXELS-MISSING, PIXELS-UNREADABLE; GeometryError: GEO-PIXEL-SPACING, GEO-ORIENTATION; SelectionError: NO-SERIES,
    SERIES-AMBIGUOUS.
    """
    levels = find_levels(path)
    if not levels:
        return None
    level = _choose(levels, wanted, path.name)
    if level.error is not None:
        raise level.error
    _check_size(level, levels)
    array, absent = _read_pixels(level)
    notes = [f"read level {level.handle}, one of {len(levels)}"] if len(levels) > 1 else []
    if absent:
        notes.append(f"{absent:.1%} of the slide has no tiles and is {'white' if level.samples == 3 else 'black'}")
    channels = tuple(Channel(name, "SM") for name in _CHANNELS[level.samples])
    return Volume(array, level.affine, channels, level.source, notes=(*notes, *level.notes))


def list_levels(levels: Sequence[SlideLevel]) -> str:
    """Return one line per level: handle, size, pixel size, or why it cannot be read."""
    return "\n".join(
        f"  {v.handle}  {v.shape[0]} x {v.shape[1]}  "
        + (f"[{v.error.code}]" if v.error else f"{v.spacing[0] * 1e3:.4g} um")
        for v in levels
    )


def _choose(levels: Sequence[SlideLevel], wanted: str | None, name: str) -> SlideLevel:
    if wanted is not None:
        chosen = [v for v in levels if wanted in (v.handle, v.source.sop_uids[0])]
        levels = chosen or [v for v in levels if wanted in (v.source.series_uid, series_handle(v.source.series_uid))]
        if not levels:
            raise SelectionError("NO-SERIES", f"{name}: no slide level has this handle; medpanoptic inspect lists them")
    if len({v.source.series_uid for v in levels}) > 1:
        raise SelectionError("SERIES-AMBIGUOUS", f"{name}: several slides, choose a level:\n{list_levels(levels)}")
    if len(levels) > 1 and levels[0].shape == levels[1].shape:
        raise SelectionError(
            "SERIES-AMBIGUOUS", f"{name}: several images of the finest level, choose one:\n{list_levels(levels)}"
        )
    return levels[0]


def _check_size(level: SlideLevel, levels: Sequence[SlideLevel]) -> None:
    try:
        check_size((level.samples, *level.shape), level.dtype.itemsize, level.name)
    except ReadError as error:
        smaller = [v for v in levels if v.source.series_uid == level.source.series_uid and v.shape != level.shape]
        advice = f" Or choose a coarser level:\n{list_levels(smaller)}" if smaller else ""
        raise ReadError(error.code, error.message + advice) from None


# ---- one file


def _level(path: Path, name: str) -> SlideLevel | None:
    """Return the slide level in a file, or None if it holds none (another object, a label, an overview)."""
    if not looks_like_dicom(path):
        return None
    try:
        dataset = read_dataset(path, name, _TAGS)
    except ReadError:
        return None
    with quiet_pydicom():
        try:
            return _from_header(dataset, path, name)
        except Exception:  # a garbled element fails when pydicom converts it, with any type
            return None  # no slide to speak of: the folder scan lists the file as skipped


def _from_header(dataset: Dataset, path: Path, name: str) -> SlideLevel | None:
    kind = [str(v).upper() for v in dataset.get("ImageType") or ()]
    if str(dataset.get("SOPClassUID")) != SLIDE_CLASS or {"LABEL", "OVERVIEW", "THUMBNAIL"} & set(kind):
        return None
    uids = [str(dataset.get(f"{what}UID") or "") for what in ("StudyInstance", "SeriesInstance", "FrameOfReference")]
    source = Source(uids[0], uids[1], uids[2], (str(dataset.SOPInstanceUID),), (path,))
    shape = int(dataset.TotalPixelMatrixRows), int(dataset.TotalPixelMatrixColumns)
    samples, bits = int(dataset.get("SamplesPerPixel") or 1), int(dataset.get("BitsAllocated") or 8)
    dtype = np.dtype(np.uint16 if bits == 16 else np.uint8)
    corners, affine = np.zeros((0, 2), np.int64), np.eye(4)
    notes: tuple[str, ...] = ()
    error: ReadError | None = None
    try:
        _check_header(dataset, samples, bits, name)
        corners = tile_corners(dataset, name)
        affine, notes = slide_affine(dataset, name)
    except ReadError as found:
        error = found
    if "RESAMPLED" in kind:
        notes = (*notes, "a resampled level")
    return SlideLevel(path, name, source, shape, samples, dtype, corners, affine, notes, error)


def _check_header(dataset: Dataset, samples: int, bits: int, name: str) -> None:
    if dataset.get("ConcatenationUID"):
        raise ReadError("SLIDE-PARTS", f"{name}: one part of a level cut into several files; join them first")
    color = str(dataset.get("PhotometricInterpretation") or "")
    in_color = samples == 3 and bits == 8 and color.startswith(("RGB", "YBR"))
    in_gray = samples == 1 and bits in (8, 16) and color == "MONOCHROME2" and not int(dataset.PixelRepresentation)
    if not (in_color or in_gray):
        raise ReadError("IMAGE-COLOR", f"{name}: not 8-bit RGB and not 8- or 16-bit gray")
    if not has_decoder(dataset.file_meta.TransferSyntaxUID):
        raise ReadError("TRANSFER-SYNTAX", f"{name}: its transfer syntax is unknown; convert it")


def _read_pixels(level: SlideLevel) -> tuple[NDArray, float]:
    """Return (C, row, column), and the part of the level (0 to 1) that no tile covers."""
    dataset = read_dataset(level.path, level.name)
    if not dataset.get("PixelData"):
        raise ReadError("PIXELS-MISSING", f"{level.name}: pixel data is missing or truncated")
    array = np.full((level.samples, *level.shape), 255 if level.samples == 3 else 0, level.dtype)
    covered = np.zeros(level.shape, bool)
    kind = ""
    try:
        with quiet_pydicom():
            for (row, column), tile in zip(level.corners, iter_pixels(dataset), strict=True):
                pixels = tile if tile.ndim == 3 else tile[..., None]
                here = array[:, row : row + pixels.shape[0], column : column + pixels.shape[1]]
                here[:] = np.moveaxis(pixels, -1, 0)[:, : here.shape[1], : here.shape[2]]
                covered[row : row + pixels.shape[0], column : column + pixels.shape[1]] = True
            whole = _streams_end(dataset, len(level.corners))
    except Exception as error:  # codecs raise anything, and their texts may quote tag values
        kind = type(error).__name__
    if kind or not whole:
        raise ReadError("PIXELS-UNREADABLE", f"{level.name}: pixel data is truncated or damaged ({kind or 'no end'})")
    return array, 1 - float(covered.mean())


def _streams_end(dataset: Dataset, count: int) -> bool:
    if dataset.file_meta.TransferSyntaxUID not in _ENDS_WITH_EOI:
        return True
    frames = generate_frames(dataset.PixelData, number_of_frames=count)
    return all(frame.rstrip(b"\0").endswith(b"\xff\xd9") for frame in frames)
