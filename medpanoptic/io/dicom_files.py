"""DICOM headers: walk a folder, read what geometry needs, say what was skipped and why.

Nothing here decodes pixels. Exceptions of pydicom quote tag values, which are patient data: they are caught at
this border and replaced by texts without values.
"""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medpanoptic.errors import ReadError
from medpanoptic.io.dicom_pet import PetTags, read_pet_tags

# SOP class -> modality of the images that make volumes. Source: DICOM PS3.4 B.5
VOLUME_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
}
ENHANCED_CLASSES = {uid for uid in VOLUME_CLASSES if uid not in {f"1.2.840.10008.5.1.4.1.1.{n}" for n in (2, 4, 128)}}
DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_SMALLEST_IMAGE_BYTES = 512

_TAGS = [
    "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "Units", "SUVType", "PatientWeight", "DecayCorrection", "CorrectedImage", "SeriesDate", "SeriesTime",
    "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "RadiopharmaceuticalInformationSequence",
    "DecayCorrected", "AttenuationCorrected", "DecayCorrectionDateTime",
]  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """Geometry and rescale of one slice; None where the file lacks or garbles the attribute.

    position : LPS mm of the first pixel's centre; orientation : row then column cosines; spacing : (row, column) mm.
    """

    index: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    slope: float | None
    intercept: float | None


@dataclass(frozen=True)
class Instance:
    """What one image file says in its header. ``name`` is its path inside the folder that was given."""

    path: Path
    name: str
    modality: str
    sop_uid: str
    series_uid: str
    study_uid: str
    frame_uid: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str
    syntax: str
    file_bytes: int
    padding: tuple[int, int] | None
    frame_count: int
    frames: tuple[Frame, ...]
    pet: PetTags | None = None


@dataclass(frozen=True)
class SkippedFile:
    """A file that was left out. ``damaged``: it is an image of some series, so that series is not whole."""

    name: str
    reason: str
    damaged: bool = False
    series_uid: str = field(default="", repr=False)


def series_handle(series_uid: str) -> str:
    """Return the short name of a series: 8 hex digits of SHA-256 of its UID, safe to print."""
    return hashlib.sha256(series_uid.encode()).hexdigest()[:8]


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom's warnings and log lines, which quote tag values, away from the user's log."""
    logger = logging.getLogger("pydicom")
    was_disabled = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled


def walk_files(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield (path, name inside root, reason to skip or "") for each file, sorted, never following a link out."""
    inside = root.resolve()
    for folder, folders, files in os.walk(root, followlinks=False):
        folders.sort()
        for name in sorted(files) + [d for d in folders if (Path(folder) / d).is_symlink()]:
            path = Path(folder) / name
            label = path.relative_to(root).as_posix()
            if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(inside)):
                yield path, label, "link that leads out of the folder or to a folder"
            else:
                yield path, label, "" if path.is_file() else "not a regular file"


def looks_like_dicom(path: Path) -> bool:
    """Tell by the first bytes: ``DICM`` at 128, or a group 0002 or 0008 element first (old files, no preamble)."""
    with path.open("rb") as file:
        start = file.read(132)
    old = len(start) > 8 and start[:2] in (b"\x08\x00", b"\x02\x00") and start[3:4] in (b"\x00", b"\x01")
    return start[128:132] == b"DICM" or old


def read_dataset(path: Path, name: str, header_only: bool) -> Dataset:
    """Read one file with pydicom. Raises ReadError (DICOM-UNREADABLE) without any tag value in its text."""
    try:
        with quiet_pydicom():
            # not `specific_tags` for pixels: decoders ask for tags of their own
            tags = [*_TAGS] if header_only else None
            dataset = pydicom.dcmread(path, stop_before_pixels=header_only, force=True, specific_tags=tags)
            _complete_syntax(dataset)
            return dataset
    except Exception as error:  # pydicom raises nearly any type on a damaged file, and its texts quote values
        kind = type(error).__name__
    raise ReadError("DICOM-UNREADABLE", f"{name}: unreadable DICOM file, damaged or truncated ({kind})")


def _complete_syntax(dataset: Dataset) -> None:
    """Name the transfer syntax of files without a meta header: pydicom has found out how they are encoded."""
    if getattr(dataset, "file_meta", None) is None:
        dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


def read_header(path: Path, name: str) -> Instance | SkippedFile:
    """Read one file's header: an image that can be part of a volume, or the reason why not."""
    if path.name.upper() == "DICOMDIR":
        return SkippedFile(name, "DICOMDIR (the files themselves are read)")
    try:
        if not looks_like_dicom(path):
            return SkippedFile(name, "not DICOM")
        dataset = read_dataset(path, name, header_only=True)
    except (ReadError, OSError):
        # a file of a few bytes is no slice of anything; a larger one may be, and its series is then not whole
        large = path.stat().st_size > _SMALLEST_IMAGE_BYTES
        return SkippedFile(name, "unreadable DICOM file, damaged or truncated", damaged=large)
    with quiet_pydicom():
        try:
            return _classify(dataset, path, name)
        except Exception as error:  # a garbled element fails when pydicom converts it, with any type and its value
            kind = type(error).__name__
    return SkippedFile(name, f"DICOM header with an unreadable element ({kind})", damaged=True)


def _classify(dataset: Dataset, path: Path, name: str) -> Instance | SkippedFile:
    """Tell an image of a volume from everything else that lies in DICOM folders."""
    sop_class = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    modality = VOLUME_CLASSES.get(sop_class) or (_text(dataset, "Modality") if not sop_class else "")
    if sop_class == DICOMDIR_CLASS:
        return SkippedFile(name, "DICOMDIR (the files themselves are read)")
    if len(dataset) == 0 and not sop_class:
        return SkippedFile(name, "not DICOM (marked as DICOM, but empty)")
    if modality not in {"CT", "MR", "PT"}:
        return SkippedFile(name, _other_object(sop_class, _text(dataset, "Modality")))
    if "LOCALIZER" in [str(v).strip().upper() for v in _values(dataset, "ImageType")]:
        return SkippedFile(name, f"{modality} localizer (scout)")
    photometric = _text(dataset, "PhotometricInterpretation")
    if photometric and not photometric.startswith("MONOCHROME"):
        return SkippedFile(name, f"{modality} image in colour (a screen capture)")
    if "Rows" not in dataset or "Columns" not in dataset:
        series_uid = _text(dataset, "SeriesInstanceUID")
        return SkippedFile(name, f"{modality} image with a truncated header", damaged=True, series_uid=series_uid)
    return _instance(dataset, path, name, modality)


def _other_object(sop_class: str, modality: str) -> str:
    """Describe an object that is not a CT, MR or PET image by its SOP class, which is no patient data."""
    kind = UID(sop_class).name if sop_class else "no SOP class"
    known = kind if kind != sop_class else "private SOP class"
    plain = modality if modality.isalnum() and len(modality) <= 16 else "not given"
    return f"{known} (modality {plain}), not a CT, MR or PET image"


def _instance(dataset: Dataset, path: Path, name: str, modality: str) -> Instance:
    bits = int(dataset.get("BitsAllocated") or 16)
    return Instance(
        path=path,
        name=name,
        modality=modality,
        sop_uid=_text(dataset, "SOPInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID") or f"no UID, folder {Path(name).parent.as_posix()}",
        study_uid=_text(dataset, "StudyInstanceUID"),
        frame_uid=_text(dataset, "FrameOfReferenceUID"),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        bits_allocated=bits,
        bits_stored=int(dataset.get("BitsStored") or bits),
        signed=int(dataset.get("PixelRepresentation") or 0) == 1,
        photometric=_text(dataset, "PhotometricInterpretation"),
        syntax=str(dataset.file_meta.TransferSyntaxUID),
        file_bytes=path.stat().st_size,
        padding=_padding(dataset),
        frame_count=int(dataset.get("NumberOfFrames") or 1),
        frames=_frames(dataset),
        pet=read_pet_tags(dataset) if modality == "PT" else None,
    )


def _frames(dataset: Dataset) -> tuple[Frame, ...]:
    """Read the geometry of each frame. Source: DICOM PS3.3 C.7.6.2 (single frame), C.7.6.16 (functional groups)."""
    count = int(dataset.get("NumberOfFrames") or 1)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])
    if len(per_frame) == 0:
        # A header may claim any number of frames; without functional groups there is no geometry to keep for them
        return tuple(_frame(i, [dataset]) for i in range(min(count, 2)))
    return tuple(_frame(i, [group, *shared]) for i, group in enumerate(per_frame))


_MACROS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}


def _frame(index: int, places: list[Dataset]) -> Frame:
    def numbers(keyword: str, count: int) -> tuple[float, ...] | None:
        for place in places:
            for dataset in [place, *(place.get(_MACROS[keyword]) or [])]:
                if keyword in dataset:
                    return _numbers(dataset, keyword, count)
        return None

    def number(keyword: str) -> float | None:
        found = numbers(keyword, 1)
        return None if found is None else found[0]

    return Frame(
        index,
        numbers("ImagePositionPatient", 3),
        numbers("ImageOrientationPatient", 6),
        numbers("PixelSpacing", 2),
        number("SliceThickness"),
        number("RescaleSlope"),
        number("RescaleIntercept"),
    )


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    """Return the stored values (first, last) that mark padding. Source: DICOM PS3.3 C.7.5.1.1.2"""
    first = _stored_integer(dataset.get("PixelPaddingValue"))
    last = _stored_integer(dataset.get("PixelPaddingRangeLimit"))
    if first is None:
        return None
    return (first, first) if last is None else (min(first, last), max(first, last))


def _stored_integer(value: Any) -> int | None:
    # implicit VR leaves "US or SS" as bytes
    if isinstance(value, bytes):
        return int.from_bytes(value[:2], "little") if len(value) >= 2 else None
    return None if value is None or value == "" else int(value)


def _text(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip()


def _values(dataset: Dataset, keyword: str) -> list[Any]:
    value = dataset.get(keyword)
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    value = dataset.get(keyword)
    items = [value] if count == 1 else list(value) if value is not None and not isinstance(value, str) else []
    try:
        numbers = tuple(float(item) for item in items)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count else None
