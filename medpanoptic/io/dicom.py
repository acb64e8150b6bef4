"""DICOM series to volumes: pixels decoded, rescaled and put in place.

Array (slice, row, column): slices run along the normal (row direction x column direction), rows and columns as
stored. CT in HU, PET in SUV by body weight, MR as its rescale says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import GeometryError, ReadError
from medpanoptic.geometry import Affine, voxel_spacing
from medpanoptic.io.archive import is_archive, unpacked
from medpanoptic.io.dicom_geometry import Plane, Stack, sort_planes, stack_affine
from medpanoptic.io.dicom_header import Frame, Instance, SkippedFile
from medpanoptic.io.dicom_pet import suv_factor
from medpanoptic.io.dicom_pixels import decode_frames, padding_mask, used_bits
from medpanoptic.io.dicom_series import DicomSeries, check_headers, scan_folder
from medpanoptic.io.dicom_slide import SlideLevel, find_levels
from medpanoptic.volume import Channel, Source, Volume

# What lies outside the image, in the units of the array
AIR = {"CT": -1024.0}


@dataclass(frozen=True)
class SeriesInfo:
    """One series of a folder and the verdict on its geometry, from headers alone.

    handle : 8 hex digits that ``series=`` and ``--series`` take; folder : inside the folder given.
    shape : (slice, row, column); spacing : mm in that order, () where the verdict is an error. A level of a slide
        (modality SM) is listed as one slice, its spacing is (row, column).
    code : "OK" or the code of the error that reading it would raise; reason : the text of that error, or "".
    """

    handle: str
    modality: str
    folder: str
    slices: int
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    code: str
    reason: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SeriesReport:
    """Series found in a folder, and every file that was left out, with the reason."""

    series: tuple[SeriesInfo, ...]
    skipped: tuple[SkippedFile, ...]


@dataclass(frozen=True, eq=False)
class _Plan:
    """Which frame goes to which slice, and how values are scaled."""

    frames: list[tuple[Instance, Frame]]
    affine: Affine
    factor: float
    unit: str
    notes: tuple[str, ...]


def find_series(folder: str | Path) -> SeriesReport:
    """List the DICOM series of a folder, file or archive, with a verdict on each, and the files that are none.

    Headers only, except where two slices share a position: then their pixels tell a duplicate from a conflict.
    Raises ReadError: NOT-FOUND, and for archives as ``archive.unpacked``.
    """
    place = Path(folder)
    if is_archive(place):
        with unpacked(place) as inside:
            return find_series(inside)
    scan = scan_folder(place)
    # their headers are read once more, so only where there are some
    levels = find_levels(place) if any("Whole Slide" in s.reason for s in scan.skipped) else ()
    skipped = tuple(s for s in scan.skipped if s.name not in {level.name for level in levels})
    return SeriesReport((*map(_verdict, scan.series), *map(_slide_verdict, levels)), skipped)


def load_series(series: DicomSeries, notes: tuple[str, ...] = (), need_suv: bool = False) -> Volume:
    """Read one series into a (1, slice, row, column) volume.

    notes : put first into those of the volume (what the folder scan skipped).
    need_suv : refuse a PET in Bq/ml whose header lacks what SUV needs; otherwise it is read in Bq/ml (unit
        ``BQML``) with a note, so that it can be looked at.
    Raises ReadError, GeometryError: every code in docs/conventions.md.
    """
    plan = _plan(series, need_suv)
    array, padded = _read_pixels(plan, series)
    if padded:
        notes = (*notes, f"{padded} voxels carry PixelPaddingValue and count as air")
    channel = Channel(series.modality, series.modality, plan.unit)
    return Volume(array[None], plan.affine, (channel,), _source(plan), notes=(*notes, *plan.notes))


def _verdict(series: DicomSeries) -> SeriesInfo:
    first = series.instances[0]
    slices = sum(i.frame_count for i in series.instances)
    spacing: tuple[float, ...] = ()
    code, reason = "OK", ""
    notes: tuple[str, ...] = ()
    try:
        plan = _plan(series)
        slices, notes = len(plan.frames), plan.notes
        spacing = tuple(float(s) for s in voxel_spacing(plan.affine, 3))
    except ReadError as error:
        code, reason = error.code, error.message
    shape = (slices, first.rows, first.columns)
    return SeriesInfo(series.handle, series.modality, series.folder, slices, shape, spacing, code, reason, notes)


def _slide_verdict(level: SlideLevel) -> SeriesInfo:
    code, reason = ("OK", "") if level.error is None else (level.error.code, level.error.message)
    folder = Path(level.name).parent.as_posix()
    return SeriesInfo(level.handle, "SM", folder, 1, (1, *level.shape), level.spacing, code, reason, level.notes)


def _plan(series: DicomSeries, need_suv: bool = False) -> _Plan:
    check_headers(series)
    frames = series.frames
    planes = [Plane(i.name, f.position, f.orientation, f.spacing, f.thickness) for i, f in frames]
    stack = sort_planes(planes, series.label)
    stack, notes = _drop_duplicates(stack, frames, series.label)
    _check_interleaved([_acquisition(*frames[i]) for i in stack.order], series.label)
    affine, more = stack_affine(stack, frames[stack.order[0]][1].thickness, series.label)
    factor, unit, said = _pet_scale(series, need_suv) if series.modality == "PT" else (1.0, _unit(series), ())
    return _Plan([frames[i] for i in stack.order], affine, factor, unit, (*notes, *more, *said))


def _unit(series: DicomSeries) -> str:
    return "HU" if series.modality == "CT" else ""


def _pet_scale(series: DicomSeries, need_suv: bool) -> tuple[float, str, tuple[str, ...]]:
    """Return the factor on rescaled values, the unit that it leads to, and notes."""
    try:
        return suv_factor([i.pet for i in series.instances if i.pet is not None], series.label), "SUV", ()
    except ReadError as error:
        if need_suv or error.code != "SUV-MISSING":
            raise
        return 1.0, "BQML", (f"values are activity in Bq/ml, not SUV: {error.message}",)


def _drop_duplicates(stack: Stack, frames: list[tuple[Instance, Frame]], label: str) -> tuple[Stack, list[str]]:
    """Leave out slices that are there twice; refuse two different ones at the same position (DUP-POSITION)."""
    twins: set[int] = set()
    decoded = lru_cache(maxsize=2)(decode_frames)
    for kept, other in stack.coincident():
        first, second = frames[stack.order[kept]], frames[stack.order[other]]
        if not np.array_equal(_rescaled(*first, decoded), _rescaled(*second, decoded)):
            raise GeometryError(
                "DUP-POSITION",
                f"{label}: {first[0].name} and {second[0].name} have the same position and different pixels "
                "(several acquisitions or phases in one series); put each into a folder of its own",
            )
        twins.add(other)
    return stack.without(twins), [f"removed {len(twins)} duplicate slice(s)"] if twins else []


def _acquisition(instance: Instance, frame: Frame) -> str:
    return instance.acquisition + frame.acquisition


def _check_interleaved(acquisitions: list[str], label: str) -> None:
    """Refuse the slices of one acquisition between those of another, which may even be evenly spaced."""
    changes = sum(a != b for a, b in pairwise(acquisitions))
    if changes >= len(set(acquisitions)):
        raise GeometryError(
            "MIX-ACQUISITION",
            f"{label}: slices of several acquisitions (phases, echoes, energies or kernels) lie between each other; "
            "put each into a folder of its own",
        )


def _rescaled(instance: Instance, frame: Frame, decoded: Callable[[Instance], NDArray]) -> NDArray[np.float64]:
    stored = decoded(instance)[frame.index].astype(np.float64)
    return stored * _or(frame.slope, 1.0) + _or(frame.intercept, 0.0)


def _read_pixels(plan: _Plan, series: DicomSeries) -> tuple[NDArray, int]:
    """Return (slice, row, column) values and the number of padding voxels."""
    slots: dict[Path, list[int]] = defaultdict(list)
    for slot, (instance, _) in enumerate(plan.frames):
        slots[instance.path].append(slot)
    array: NDArray | None = None
    padded = 0
    for members in slots.values():
        instance = plan.frames[members[0]][0]
        stored = decode_frames(instance)
        for slot in members:
            frame = plan.frames[slot][1]
            values, count = _to_values(stored[frame.index], instance, frame, plan.factor)
            if array is None:
                array = np.empty((len(plan.frames), *values.shape), _dtype(plan, stored.dtype, series.modality))
            array[slot] = values
            padded += count
    if array is None:
        raise ReadError("PIXELS-MISSING", f"{series.label}: no slices")
    return array, padded


def _dtype(plan: _Plan, stored: np.dtype, modality: str) -> np.dtype:
    """float32 wherever a rescale applies or files differ in depth or sign; stored integers otherwise."""
    if len({(i.signed, i.bits_allocated) for i, _ in plan.frames}) > 1:
        return np.dtype(np.float32)
    plain = modality == "MR" and all(_or(f.slope, 1.0) == 1 and _or(f.intercept, 0.0) == 0 for _, f in plan.frames)
    return stored if plain else np.dtype(np.float32)


def _to_values(stored: NDArray, instance: Instance, frame: Frame, factor: float) -> tuple[NDArray, int]:
    """Rescale one slice in float64; padding becomes air.

    MONOCHROME1 is a hint for display and inverts nothing. Source: DICOM PS3.3 C.7.6.3.1.2, C.11.1.1.2
    CT padding that is darker than air already (-2000 HU in many scanners) keeps its value: windows and clips take it
    for air, and it can still be told from measured air.
    """
    padding = padding_mask(stored, instance)
    # padding may use bits that values do not
    values = used_bits(stored if padding is None else np.where(padding, stored.dtype.type(0), stored), instance)
    values = values if padding is None else np.where(padding, stored, values)
    slope, intercept = _or(frame.slope, 1.0) * factor, _or(frame.intercept, 0.0) * factor
    if (slope, intercept) != (1.0, 0.0):
        values = values * slope + intercept
    air = AIR.get(instance.modality, 0.0)
    if padding is not None:
        visible = padding & (values > air) if instance.modality == "CT" else padding
        values = np.where(visible, np.asarray(air, values.dtype), values)
    return values, 0 if padding is None else int(padding.sum())


def _source(plan: _Plan) -> Source:
    """Point back at the files: one per slice, or each multi-frame object once."""
    first = plan.frames[0][0]
    files = list(dict.fromkeys(i.path for i, _ in plan.frames))
    uids = {i.path: i.sop_uid for i, _ in plan.frames}
    series_uid = "" if first.series_uid.startswith("no UID") else first.series_uid
    return Source(first.study_uid, series_uid, first.frame_uid, tuple(uids[f] for f in files), tuple(files))


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
