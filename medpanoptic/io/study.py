"""Several series as the channels of one volume: choice by modality, one frame of reference, one grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from medpanoptic.errors import GeometryError, SelectionError
from medpanoptic.io.archive import is_archive, read_unpacked
from medpanoptic.io.dicom import AIR, load_series
from medpanoptic.io.dicom_series import DicomSeries, Scan, list_series, scan_folder, select_series
from medpanoptic.io.dicom_slide import read_slide
from medpanoptic.io.files import is_dicom, note_constant, read_file
from medpanoptic.io.resample import resample_to
from medpanoptic.volume import Channel, ChannelSpec, Volume

Wanted = str | Mapping[str, str] | Sequence[str] | None
PixelSize = float | Sequence[float] | None
# each channel with its volume, None where an optional one is absent
Parts = list[tuple[ChannelSpec, Volume | None]]


def read_folder(folder: Path, channels: Sequence[ChannelSpec] | None, series: Wanted, reference: str | None) -> Volume:
    """Read the series of a DICOM folder that the channels, or ``series``, ask for. See ``read_study``."""
    scan = scan_folder(folder)
    if not scan.series:
        slide = read_slide(folder, _one_handle(series))
        if slide is not None:
            return read_single(slide, channels, folder.name)
        select_series(scan, None)
    if channels is None:
        chosen = _name_series(scan, series)
    else:
        _check_names(series, channels)
        _check_handles(scan, series)
        chosen = [(spec, _pick(scan, spec, series)) for spec in channels]
    if len({i.patient for _, found in chosen if found is not None for i in found.instances}) > 1:
        raise GeometryError("MIX-STUDY", f"{scan.name}: the series chosen belong to different patients")
    parts: Parts = [(spec, None if found is None else _load(found, spec)) for spec, found in chosen]
    return combine(parts, reference, scan.notes)


def _one_handle(series: Wanted) -> str | None:
    """Return the handle that a slide can be chosen by: it has one level, whatever the channel."""
    if series is None or isinstance(series, str):
        return series
    handles = list(series.values() if isinstance(series, Mapping) else series)
    return handles[0] if handles else None


def read_mapping(
    paths: Mapping[str, Path],
    channels: Sequence[ChannelSpec] | None,
    series: Wanted,
    reference: str | None,
    pixel_size_um: PixelSize,
) -> Volume:
    """Read one file or DICOM folder per channel name. See ``read_study``."""
    specs = list(channels) if channels is not None else [ChannelSpec(name) for name in paths]
    unknown = sorted(set(paths) - {s.name for s in specs})
    if unknown:
        raise SelectionError("CHANNEL-UNKNOWN", f"no channel is called {unknown}; known: {[s.name for s in specs]}")
    parts: Parts = []
    for spec in specs:
        if spec.name in paths:
            parts.append((spec, _read_part(paths[spec.name], spec, series, pixel_size_um)))
        elif spec.required:
            raise SelectionError("NO-SERIES", f"no file is given for the channel {spec.name!r}, which is required")
        else:
            parts.append((spec, None))
    return combine(parts, reference, ())


def read_single(volume: Volume, channels: Sequence[ChannelSpec] | None, name: str) -> Volume:
    """Give the channels of one file the names that a model has for them. See ``read_study``."""
    if channels is None:
        return volume
    specs = list(channels)
    if volume.array.shape[0] == len(specs):
        return replace(volume, channels=tuple(_named(c, s) for c, s in zip(volume.channels, specs, strict=True)))
    required = [s for s in specs if s.required]
    if volume.array.shape[0] == 1 and len(required) == 1:
        return combine([(s, volume if s.required else None) for s in specs], None, ())
    if volume.ndim == 2:
        return volume
    raise SelectionError(
        "NO-SERIES",
        f"{name}: one file of {volume.array.shape[0]} channel(s), but the model takes {[s.name for s in required]}; "
        "give a folder or one file per channel",
    )


def combine(parts: Parts, reference: str | None, notes: tuple[str, ...]) -> Volume:
    """Stack single-channel volumes on the grid of the reference channel.

    parts : in channel order, at least one present. Returns a Volume whose source is that of the reference; the array
    keeps its dtype where all channels share grid and dtype, else float32.
    Raises GeometryError: MIX-FRAME, GEO-OVERLAP, GEO-GRID. SelectionError: CHANNEL-UNKNOWN, NO-SERIES.
    """
    base = _reference(parts, reference)
    present = [volume for _, volume in parts if volume is not None]
    _check_frame(present)
    moved = [None if v is None else resample_to(v, base, AIR.get(_modality(s, v), 0.0)) for s, v in parts]
    dtypes = {v.array.dtype for v in moved if v is not None}
    dtype: DTypeLike = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
    blank = np.zeros((1, *base.shape), dtype)
    arrays = [blank if v is None else v.array.astype(dtype, copy=False) for v in moved]
    return Volume(
        arrays[0] if len(arrays) == 1 else np.concatenate(arrays),
        base.affine,
        tuple(_channel(spec, volume) for spec, volume in parts),
        base.source,
        base.calibrated,
        (*notes, *_part_notes(parts, moved)),
    )


def _name_series(scan: Scan, series: Wanted) -> list[tuple[ChannelSpec, DicomSeries | None]]:
    """Name channels after modalities, where no model gives names."""
    if series is None or isinstance(series, str):
        found = select_series(scan, series)
        return [(ChannelSpec(found.modality, found.modality), found)]
    if isinstance(series, Mapping):
        return [(ChannelSpec(name), select_series(scan, handle)) for name, handle in series.items()]
    chosen = [select_series(scan, handle) for handle in series]
    names = [s.modality for s in chosen]
    unique = [name if names.count(name) == 1 else f"{name}{names[:i].count(name) + 1}" for i, name in enumerate(names)]
    return [(ChannelSpec(name, s.modality), s) for name, s in zip(unique, chosen, strict=True)]


def _pick(scan: Scan, spec: ChannelSpec, series: Wanted) -> DicomSeries | None:
    """Choose the one series for a channel, by name or modality."""
    if isinstance(series, Mapping) and spec.name in series:
        return select_series(scan, series[spec.name])
    pool = [s for s in scan.series if spec.modality in ("", s.modality)]
    if series is not None and not isinstance(series, Mapping):
        handles = {series} if isinstance(series, str) else set(series)
        pool = [s for s in pool if s.handle in handles or s.uid in handles] or pool
    if not pool and not spec.required:
        return None
    if not pool:
        raise SelectionError(
            "NO-SERIES",
            f"{scan.name}: no {spec.modality or 'CT, MR or PET'} series for the channel {spec.name!r}; found:\n"
            f"{list_series(scan.series)}",
        )
    if len(pool) > 1:
        raise SelectionError(
            "SERIES-AMBIGUOUS",
            f"{scan.name}: {len(pool)} series fit channel {spec.name!r}, choose by handle:\n{list_series(pool)}",
        )
    return pool[0]


def _check_names(series: Wanted, channels: Sequence[ChannelSpec]) -> None:
    unknown = sorted(set(series) - {s.name for s in channels}) if isinstance(series, Mapping) else []
    if unknown:
        names = [s.name for s in channels]
        raise SelectionError("CHANNEL-UNKNOWN", f"no channel is called {unknown}; the model takes {names}")


def _check_handles(scan: Scan, series: Wanted) -> None:
    """Refuse a handle that names nothing: a typing error must not fall back to another series."""
    handles = [] if series is None else [series] if isinstance(series, str) else list(series)
    for handle in series.values() if isinstance(series, Mapping) else handles:
        select_series(scan, handle)


def _load(series: DicomSeries, spec: ChannelSpec) -> Volume:
    return note_constant(load_series(series, need_suv=spec.unit == "SUV"))


def _read_part(path: Path, spec: ChannelSpec, series: Wanted, pixel_size_um: PixelSize) -> Volume:
    if is_archive(path):
        return read_unpacked(path, lambda inside: _read_plain_part(inside, spec, series, pixel_size_um))
    return _read_plain_part(path, spec, series, pixel_size_um)


def _read_plain_part(path: Path, spec: ChannelSpec, series: Wanted, pixel_size_um: PixelSize) -> Volume:
    if is_dicom(path):
        scan = scan_folder(path)
        if not scan.series:
            select_series(scan, None)
        found = _pick(scan, replace(spec, required=True), series)
        volume = _load(found, spec) if found is not None else None
        if volume is not None:
            return replace(volume, notes=(*scan.notes, *volume.notes))
    volume = read_file(path, pixel_size_um)
    if volume.array.shape[0] != 1:
        raise SelectionError(
            "CHANNEL-UNKNOWN",
            f"{path.name}: {volume.array.shape[0]} channels for the one channel {spec.name!r}",
        )
    return volume


def _reference(parts: Parts, name: str | None) -> Volume:
    names = [spec.name for spec, volume in parts if volume is not None]
    if name is not None and name not in names:
        raise SelectionError("CHANNEL-UNKNOWN", f"the reference {name!r} is not among the channels found: {names}")
    ranked = sorted(parts, key=lambda part: (part[0].name != name, not part[0].required))
    for _, volume in ranked:
        if volume is not None:
            return volume
    raise SelectionError("NO-SERIES", "none of the channels was found")


def _check_frame(volumes: Sequence[Volume]) -> None:
    """Only one patient coordinate system makes positions comparable. Source: DICOM PS3.3 C.7.4.1"""
    dicom = [v for v in volumes if v.source.sop_uids]
    frames = {v.source.frame_of_reference_uid for v in dicom}
    if len(dicom) > 1 and (len(frames) > 1 or "" in frames):
        raise GeometryError(
            "MIX-FRAME",
            "the series do not share a frame of reference (FrameOfReferenceUID) and cannot be laid over each other; "
            "register them first",
        )


def _modality(spec: ChannelSpec, volume: Volume) -> str:
    return volume.channels[0].modality or spec.modality


def _named(channel: Channel, spec: ChannelSpec) -> Channel:
    """Take the model's word for what a file does not say itself."""
    return Channel(spec.name, channel.modality or spec.modality, channel.unit or spec.unit)


def _channel(spec: ChannelSpec, volume: Volume | None) -> Channel:
    if volume is None:
        return Channel(spec.name, spec.modality, spec.unit, present=False)
    return _named(volume.channels[0], spec)


def _part_notes(parts: Parts, moved: Sequence[Volume | None]) -> list[str]:
    """Collect the notes of all channels, and say which were resampled, absent or taken on trust."""
    notes = []
    for (spec, volume), after in zip(parts, moved, strict=True):
        if volume is None:
            notes.append(f"{spec.name}: not in the study, zeros stand in")
            continue
        notes += [note if len(parts) == 1 else f"{spec.name}: {note}" for note in volume.notes]
        if after is not volume:
            notes.append(f"{spec.name}: resampled onto the reference grid")
        if spec.unit and not volume.channels[0].unit:
            notes.append(f"{spec.name}: the file gives no unit, values are taken as {spec.unit}")
    return notes
