"""DICOM headers: what geometry and scale need of each file, and why a file is no slice of a volume."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from medpanoptic.errors import ReadError
from medpanoptic.io.dicom_files import looks_like_dicom, quiet_pydicom, read_dataset
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
DICOMDIR_CLASS = "1.2.840.10008.1.3.10"

_SMALLEST_IMAGE_BYTES = 512
_TAGS = [
    "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID", "PatientID",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "HighBit", "AcquisitionNumber", "KVP", "ConvolutionKernel", "EchoTime", "TemporalPositionIdentifier",
    "DiffusionBValue", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "PatientName",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "Units", "SUVType", "PatientWeight", "DecayCorrection", "CorrectedImage", "SeriesDate", "SeriesTime",
    "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "RadiopharmaceuticalInformationSequence",
    "DecayCorrected", "AttenuationCorrected", "DecayCorrectionDateTime",
]  # fmt: skip

# What differs between images of one place. MR writes odd and even slices as two acquisitions of one stack.
_PHASES = {
    "CT": ("AcquisitionNumber", "KVP", "ConvolutionKernel"),
    "MR": ("EchoTime", "TemporalPositionIdentifier", "DiffusionBValue"),
    "PT": ("TemporalPositionIdentifier",),
}
# ... and between frames of one place. Source: DICOM PS3.3 C.7.6.16.2.2, C.8.13.5, C.8.15.3
_FRAME_PHASES = (
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("CTImageFrameTypeSequence", "FrameType"),
    ("PETFrameTypeSequence", "FrameType"),
)
# values of ImageType that say "a view through the whole stack". Source: DICOM PS3.3 C.8.16.1.4, and what scanners write
_PROJECTIONS = {"MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "MAXIMUM", "MINIMUM"}


@dataclass(frozen=True)
class Frame:
    """Geometry and rescale of one slice; None where the file lacks or garbles the attribute.

    acquisition : digest of what tells the frames of one place apart, "" for single frames (the instance has it).
    position : LPS mm of the first pixel's centre; orientation : row then column cosines; spacing : (row, column) mm.
    """

    index: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    slope: float | None
    intercept: float | None
    acquisition: str = ""


@dataclass(frozen=True)
class Instance:
    """What one image file says in its header.

    name : its path inside the folder that was given. patient, acquisition : digests of PatientID (or PatientName where
    there is none), and of what tells phases, echoes and kernels apart, to compare without holding values.
    rescale_types : all that is said of what values mean, "" left out. has_lookup : values go through a table, not a
    rescale. is_projection : a view through a whole stack (MIP).
    """

    path: Path
    name: str
    modality: str
    sop_uid: str
    series_uid: str
    study_uid: str
    patient: str
    acquisition: str
    frame_uid: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    syntax: UID
    file_bytes: int
    rescale_types: frozenset[str]
    has_lookup: bool
    is_projection: bool
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


def read_header(path: Path, name: str) -> Instance | SkippedFile:
    """Read one file's header: an image that can be part of a volume, or the reason why not."""
    if path.name.upper() == "DICOMDIR":
        return SkippedFile(name, "DICOMDIR (the files themselves are read)")
    try:
        if not looks_like_dicom(path):
            return _no_dicom(path, name)
        dataset = read_dataset(path, name, _TAGS)
    except (ReadError, OSError) as error:
        # a file of a few bytes is no slice of anything; a larger one may be, and its series is then not whole
        large = path.stat().st_size > _SMALLEST_IMAGE_BYTES
        huge = isinstance(error, ReadError) and error.code == "READ-TOO-LARGE"
        reason = "deflated file that unpacks to more than the limit" if huge else "damaged or truncated"
        return SkippedFile(name, f"unreadable DICOM file, {reason}", damaged=large)
    with quiet_pydicom():
        try:
            return _classify(dataset, path, name)
        except Exception as error:  # a garbled element fails when pydicom converts it, with any type and its value
            kind = type(error).__name__
    return SkippedFile(name, f"DICOM header with an unreadable element ({kind})", damaged=True)


def _no_dicom(path: Path, name: str) -> SkippedFile:
    """Say why a file is no DICOM; a slice that a disk has filled with zeros, or that is packed, must not go unseen."""
    with path.open("rb") as file:
        blank = not any(file.read(4096)) and path.stat().st_size > _SMALLEST_IMAGE_BYTES
    if blank:
        return SkippedFile(name, "nothing but zeros, damaged", damaged=True)
    if name.lower().endswith(".dcm.gz"):
        return SkippedFile(name, "packed DICOM, not opened", damaged=True)
    return SkippedFile(name, "not DICOM")


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
    if (photometric and not photometric.startswith("MONOCHROME")) or int(dataset.get("SamplesPerPixel") or 1) > 1:
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
    bits_stored = int(dataset.get("BitsStored") or bits)
    high_bit = dataset.get("HighBit")
    kind = [str(v).strip().upper() for v in _values(dataset, "ImageType")]
    return Instance(
        path=path,
        name=name,
        modality=modality,
        sop_uid=_text(dataset, "SOPInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID") or f"no UID, folder {Path(name).parent.as_posix()}",
        study_uid=_text(dataset, "StudyInstanceUID"),
        patient=series_handle(_text(dataset, "PatientID") or _text(dataset, "PatientName")),
        acquisition=series_handle(repr([kind[2:], *(_text(dataset, keyword) for keyword in _PHASES[modality])])),
        frame_uid=_text(dataset, "FrameOfReferenceUID"),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        bits_allocated=bits,
        bits_stored=bits_stored,
        high_bit=bits_stored - 1 if high_bit is None else int(high_bit),
        signed=int(dataset.get("PixelRepresentation") or 0) == 1,
        photometric=_text(dataset, "PhotometricInterpretation"),
        syntax=dataset.file_meta.TransferSyntaxUID,
        file_bytes=path.stat().st_size,
        rescale_types=_rescale_types(dataset),
        has_lookup=bool(dataset.get("ModalityLUTSequence")),
        is_projection=not _PROJECTIONS.isdisjoint(kind[2:]),
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
    return tuple(_frame(i, [group, *shared], dataset) for i, group in enumerate(per_frame))


_MACROS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}


def _frame(index: int, places: list[Dataset], whole: Dataset | None = None) -> Frame:
    """Read one frame from its functional groups. Converters leave the rescale of all frames in the data set itself."""
    rescale_places = places if whole is None else [*places, whole]

    def numbers(keyword: str, count: int) -> tuple[float, ...] | None:
        for place in rescale_places if keyword.startswith("Rescale") else places:
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
        "" if whole is None else _frame_acquisition(places),
    )


def _frame_acquisition(groups: list[Dataset]) -> str:
    found = [
        [_text(item, keyword) for group in groups for item in group.get(sequence) or []]
        for sequence, keyword in _FRAME_PHASES
    ]
    return series_handle(repr(found))


def _rescale_types(dataset: Dataset) -> frozenset[str]:
    """Return what rescaled values mean, in any frame. Source: DICOM PS3.3 C.11.1.1.2, C.7.6.16.2.9"""
    groups = [
        *(dataset.get("SharedFunctionalGroupsSequence") or []),
        *(dataset.get("PerFrameFunctionalGroupsSequence") or []),
    ]
    items = [item for group in groups for item in group.get("PixelValueTransformationSequence") or []]
    return frozenset(_text(place, "RescaleType").upper() for place in [dataset, *items]) - {""}


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
    try:
        value = dataset.get(keyword)
        items = [] if isinstance(value, bytes) else value if isinstance(value, (list, MultiValue)) else [value]
        numbers = tuple(float(item) for item in items)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return numbers if len(numbers) == count else None
