"""DICOM Segmentation (BINARY) beside its source series. Source: DICOM PS3.3 A.51, C.8.20."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import WriteError
from medpanoptic.geometry import to_index
from medpanoptic.identity import result_digest, uid_from
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.volume import Source, Volume

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom import Dataset

NAME = "medpanoptic"
NOTE = "research use only"
_MAX_SEGMENTS = 65535  # Segment Number is an unsigned short
_ALGORITHM_TYPE = {"predicted": "AUTOMATIC", "edited": "SEMIAUTOMATIC", "added": "MANUAL"}
_PLACE_TOLERANCE = 0.1  # voxels between a slice's own position and the result's grid
# attributes that must be in a SEG, if only empty, and that old or anonymised sources may lack
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_TYPE_2 = (
    "PatientID",
    "PatientBirthDate",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
# copied by highdicom where they are there; left out if not valid
_OPTIONAL = ("PatientAge", "PatientSize", "PatientWeight")
# stands in where a source has no date at all: Content Date must not be empty, and today would change the bytes
_NO_DATE = datetime.datetime(1900, 1, 1)


def write_dicom_seg(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write seg.dcm: one segment per thing and per stuff class, on the source's frames.

    The source is that of ``result`` or, after ``read_result``, of ``volume``. UIDs derive from the source series, the
    model and the result, so that a re-run makes the same object. Without any segment, one blank frame per thing class
    says that it was looked for and not found. Raises WriteError: FORMAT-NEEDS-DICOM, SEG-SOURCE (the source lacks what
    a SEG needs), SEG-GEOMETRY (the result is not on the source's slices), SEG-TOO-MANY.
    """
    source = result.source if result.source.sop_uids or volume is None else volume.source
    if not (source.sop_uids and source.paths):
        raise WriteError("FORMAT-NEEDS-DICOM", "dicom-seg needs the DICOM slices that the result was made from")
    if len(result.segments) > _MAX_SEGMENTS:
        raise WriteError(
            "SEG-TOO-MANY", f"a DICOM SEG holds {_MAX_SEGMENTS} segments, the result has {len(result.segments)}"
        )
    path = folder / "seg.dcm"
    from medpanoptic.io.dicom_files import quiet_pydicom

    with quiet_pydicom():
        headers = [_read_header(p) for p in source.paths]
        order = _slice_of_frame(headers, result)
        try:
            dataset = make_segmentation(result, source, headers, order)
            dataset.save_as(path)
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            # texts of pydicom and highdicom quote tag values, which are patient data: not passed on
            kind = type(error).__name__
            raise WriteError(
                "SEG-SOURCE", f"the source series lacks or garbles what a DICOM SEG needs ({kind})"
            ) from None
    return [path]


# ---- the source


def _read_header(path: Path) -> Dataset:
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise WriteError("FORMAT-NEEDS-DICOM", f"a source slice cannot be read ({type(error).__name__})") from None
    missing = [keyword for keyword in _NEEDED if not header.get(keyword)]
    if missing:
        raise WriteError("SEG-SOURCE", f"a source slice lacks {', '.join(missing)}, which a DICOM SEG must name")
    for keyword in _TYPE_2:
        if keyword not in header or not _is_valid(header, keyword):
            setattr(header, keyword, "")
    for keyword in _OPTIONAL:
        if keyword in header and not _is_valid(header, keyword):
            header.pop(keyword)
    if not header.get("FrameOfReferenceUID"):
        # a SEG must have one; without one in the source, viewers go by the referenced slices
        header.FrameOfReferenceUID = uid_from("frame-of-reference", header.SeriesInstanceUID)
    # a wrong value here would be copied into the SEG and make it unreadable; highdicom takes it from positions then
    header.pop("SpacingBetweenSlices", None)
    return header


def _is_valid(header: Dataset, keyword: str) -> bool:
    """Tell whether a value may be copied; identifiers are copied as they are, since others look them up."""
    from pydicom import config
    from pydicom.valuerep import validate_value

    if keyword in ("PatientID", "AccessionNumber"):
        return True
    element = header[keyword]
    try:
        validate_value(element.VR, str(element.value), config.RAISE)
    except ValueError:
        return False
    return True


def _frame_places(headers: Sequence[Dataset]) -> tuple[NDArray[np.float64], list[list[float]]]:
    """Return per frame the (F, 3) LPS mm position and the row and column cosines."""
    if "PerFrameFunctionalGroupsSequence" not in headers[0]:
        positions = [[float(v) for v in h.ImagePositionPatient] for h in headers]
        return np.array(positions), [[float(v) for v in h.ImageOrientationPatient] for h in headers]
    shared = headers[0].SharedFunctionalGroupsSequence[0]
    places, cosines = [], []
    for frame in headers[0].PerFrameFunctionalGroupsSequence:
        places.append([float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient])
        holder = frame if "PlaneOrientationSequence" in frame else shared
        cosines.append([float(v) for v in holder.PlaneOrientationSequence[0].ImageOrientationPatient])
    return np.array(places), cosines


def _slice_of_frame(headers: Sequence[Dataset], result: PanopticResult) -> NDArray[np.int64]:
    """Return, for each source frame in file order, the slice of the result that lies on it."""
    try:
        positions, cosines = _frame_places(headers)
    except (AttributeError, IndexError, TypeError, ValueError):
        raise WriteError("SEG-SOURCE", "the source slices have no position or orientation") from None
    places = to_index(positions, result.affine)
    order = np.rint(places[:, 0]).astype(np.int64)
    rows, columns = result.affine[:3, 1], result.affine[:3, 2]
    wanted = np.concatenate([columns / np.linalg.norm(columns), rows / np.linalg.norm(rows)])
    off = np.abs(places - np.stack([order, 0 * order, 0 * order], axis=1)).max()
    is_whole = np.array_equal(np.sort(order), np.arange(result.ids.shape[0]))
    if not is_whole or off > _PLACE_TOLERANCE or np.abs(np.array(cosines) - wanted).max() > 1e-3:
        raise WriteError(
            "SEG-GEOMETRY",
            f"the result ({result.ids.shape[0]} slices) does not lie on the source's {len(order)} frames: "
            "write it on the native grid of its source series",
        )
    return order


def _normalise(headers: Sequence[Dataset], slice_step: float) -> None:
    """Give all headers the geometry of the first where they differ by noise, and move per-frame geometry to shared.

    slice_step : mm, stands in for a slice thickness that the source lacks.
    """
    first = headers[0]
    if "PerFrameFunctionalGroupsSequence" not in first:
        for header in headers:
            header.ImageOrientationPatient = first.ImageOrientationPatient
            header.SliceThickness = first.get("SliceThickness") or f"{slice_step:.6g}"
        return
    shared, frame = first.SharedFunctionalGroupsSequence[0], first.PerFrameFunctionalGroupsSequence[0]
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if keyword not in shared:
            setattr(shared, keyword, getattr(frame, keyword))
    shared.PixelMeasuresSequence[0].pop("SpacingBetweenSlices", None)


# ---- the segmentation


def make_segmentation(
    result: PanopticResult, source: Source, headers: Sequence[Dataset], order: NDArray[np.int64]
) -> Segmentation:
    """Build the object from source headers (changed in place) and the slice of each frame."""
    import highdicom as hd

    _normalise(headers, float(np.linalg.norm(result.affine[:3, 0])))
    identity = (source.series_uid, result_digest(result))
    made = _moment(result, headers[0])
    patient = {k: headers[0].get(k) for k in ("PatientName", "PatientSex")}
    for header in headers:
        # put back below as they are: highdicom logs odd names and refuses odd values
        header.PatientName, header.PatientSex = "", ""
    segmentation = hd.seg.Segmentation(
        source_images=headers,
        segmentation_type="BINARY",
        series_instance_uid=uid_from("seg-series", *identity),
        series_number=900,
        sop_instance_uid=uid_from("seg-instance", *identity),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=result.provenance.medpanoptic_version or "unknown",
        device_serial_number=result.provenance.weights_sha256[:16] or "none",
        content_label="PANOPTIC",
        content_description=f"Panoptic segmentation, {NOTE}",
        series_description=f"{NAME} {result.provenance.bundle} ({NOTE})".replace("  ", " "),
        specific_character_set="ISO_IR 192",
        content_date=made.date(),
        content_time=made.time(),
        **_pixels_and_segments(result, headers, order, identity[1]),
    )
    segmentation.PatientName, segmentation.PatientSex = patient["PatientName"] or "", patient["PatientSex"] or ""
    _fix_times(segmentation, made)
    _fix_dimension_uid(segmentation, uid_from("seg-dimensions", *identity))
    return segmentation


def _fix_times(segmentation: Segmentation, made: datetime.datetime) -> None:
    """Replace the clock times that highdicom puts in, so that a re-run makes the same bytes."""
    segmentation.InstanceCreationDate = segmentation.ContentDate
    segmentation.InstanceCreationTime = segmentation.ContentTime
    for item in segmentation.ContributingEquipmentSequence:
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = made.strftime("%Y%m%d%H%M%S")


def _fix_dimension_uid(segmentation: Segmentation, uid: str) -> None:
    segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for item in segmentation.DimensionIndexSequence:
        item.DimensionOrganizationUID = uid


def _pixels_and_segments(
    result: PanopticResult, headers: Sequence[Dataset], order: NDArray[np.int64], digest: str
) -> dict[str, Any]:
    if not result.segments:
        return _nothing_found(result, headers)
    known = np.array([0, *sorted(s.id for s in result.segments)])
    numbers = np.searchsorted(known, result.ids).astype(np.uint16)
    number_of = {int(i): n for n, i in enumerate(known)}
    described = [_describe(result, s, number_of[s.id], digest) for s in sorted(result.segments, key=lambda s: s.id)]
    return {"pixel_array": numbers[order], "segment_descriptions": described}


def _nothing_found(result: PanopticResult, headers: Sequence[Dataset]) -> dict[str, Any]:
    """Return one blank frame, at the first source position, for each thing class that was looked for."""
    import highdicom as hd

    positions, _ = _frame_places(headers)
    looked_for = result.classes.things or tuple(result.classes)
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"{info.name[:50]} (none found)",
            segmented_property_category=_concept(info.category.to_json()),
            segmented_property_type=_concept(info.type.to_json()),
            algorithm_type="AUTOMATIC",
            algorithm_identification=_algorithm(result),
        )
        for number, info in enumerate(looked_for, 1)
    ]
    return {
        "pixel_array": np.zeros((1, *result.ids.shape[1:]), np.uint8),
        "segment_descriptions": described,
        "plane_positions": [hd.PlanePositionSequence("PATIENT", positions[0].tolist())],
        "omit_empty_frames": False,
    }


def _describe(result: PanopticResult, segment: Segment, number: int, digest: str) -> SegmentDescription:
    import highdicom as hd

    info = result.classes[segment.class_id]
    label = f"{info.name[:50]} {segment.id}" if info.is_thing else info.name[:64]
    kind = _ALGORITHM_TYPE[segment.origin]
    tracking: dict[str, Any] = {}
    if info.is_thing:
        uid = segment.tracking_uid or uid_from("tracking", digest, str(segment.id))
        tracking = {"tracking_id": label, "tracking_uid": uid}
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=_concept(info.category.to_json()),
        segmented_property_type=_concept(info.type.to_json()),
        algorithm_type=kind,
        algorithm_identification=None if kind == "MANUAL" else _algorithm(result),
        display_color=hd.color.CIELabColor.from_rgb(*result.segment_color(segment)),
        **tracking,
    )


def _concept(code: Sequence[str]) -> Any:
    import highdicom as hd

    value, scheme, meaning = code
    return hd.sr.CodedConcept(value, scheme, meaning[:64])


def _algorithm(result: PanopticResult) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    made = result.provenance
    return hd.AlgorithmIdentificationSequence(
        name=f"{NAME} {made.bundle}".strip(),
        family=codes.DCM.ArtificialIntelligence,
        version=made.bundle_version or made.medpanoptic_version or "unknown",
        source=NAME,
        parameters={"weights_sha256": made.weights_sha256} if made.weights_sha256 else None,
    )


def _moment(result: PanopticResult, header: Dataset) -> datetime.datetime:
    """Return when the result was made: its own time if it has one, else that of the source, so that bytes repeat."""
    from pydicom.valuerep import DA, TM

    if result.provenance.created:
        return datetime.datetime.fromisoformat(result.provenance.created)
    for what in ("Content", "Series", "Acquisition", "Study"):
        try:
            day, time = DA(header.get(f"{what}Date") or ""), TM(header.get(f"{what}Time") or "")
        except (ValueError, TypeError):
            continue
        if day:
            return datetime.datetime.combine(day, time or datetime.time())
    return _NO_DATE
