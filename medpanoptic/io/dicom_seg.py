"""DICOM Segmentation (BINARY) beside its source series. Source: DICOM PS3.3 A.51, C.8.20."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import WriteError
from medpanoptic.identity import Identity, identify
from medpanoptic.io import dicom_common as common
from medpanoptic.io.dicom_source import (
    dicom_source,
    frame_places,
    odd_patients,
    put_patient,
    read_headers,
    slice_of_frame,
    without_values,
)
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.volume import Volume

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom import Dataset

_MAX_SEGMENTS = 65535  # Segment Number is an unsigned short


def write_dicom_seg(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write seg.dcm: one segment per thing and per stuff class, on the source's frames.

    The source is that of ``result`` or, after ``read_result``, of ``volume``. UIDs derive from the source series, the
    model and the result, so that a re-run makes the same object. Without any segment, one blank frame per thing class
    says that it was looked for and not found. Raises WriteError: FORMAT-NEEDS-DICOM, DICOM-SOURCE (the source lacks
    what a SEG needs), DICOM-GEOMETRY (the result is not on the source's slices), SEG-TOO-MANY.
    """
    source = dicom_source(result, volume, "dicom-seg")
    if len(result.segments) > _MAX_SEGMENTS:
        raise WriteError(
            "SEG-TOO-MANY", f"a DICOM SEG holds {_MAX_SEGMENTS} segments, the result has {len(result.segments)}"
        )
    headers = read_headers(source)
    order = slice_of_frame(headers, result)
    path = folder / "seg.dcm"
    with without_values("DICOM SEG"):
        make_segmentation(result, identify(result, source), headers, order).save_as(path)
    return [path]


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
    result: PanopticResult, identity: Identity, headers: Sequence[Dataset], order: NDArray[np.int64]
) -> Segmentation:
    """Build the object from source headers (changed in place) and the slice of each frame."""
    import highdicom as hd

    _normalise(headers, float(np.linalg.norm(result.affine[:3, 0])))
    made = common.moment(result, headers[0])
    with odd_patients(headers) as patient:
        segmentation = hd.seg.Segmentation(
            source_images=headers,
            segmentation_type="BINARY",
            series_instance_uid=identity.uid("dicom-seg series"),
            series_number=900,
            sop_instance_uid=identity.uid("dicom-seg instance"),
            instance_number=1,
            content_label="PANOPTIC",
            content_description=f"Panoptic segmentation, {common.NOTE}",
            series_description=common.series_description(result),
            specific_character_set="ISO_IR 192",
            contributing_equipment=common.contributing_equipment(result),
            **common.equipment(result),
            **common.content_times(made),
            **_pixels_and_segments(result, headers, order, identity),
        )
    put_patient(segmentation, patient)
    common.repeat_times(segmentation, made)
    _fix_dimension_uid(segmentation, identity.uid("dicom-seg dimensions"))
    return segmentation


def _fix_dimension_uid(segmentation: Segmentation, uid: str) -> None:
    segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for item in segmentation.DimensionIndexSequence:
        item.DimensionOrganizationUID = uid


def _pixels_and_segments(
    result: PanopticResult, headers: Sequence[Dataset], order: NDArray[np.int64], identity: Identity
) -> dict[str, Any]:
    if not result.segments:
        return _nothing_found(result, headers)
    known = np.array([0, *sorted(s.id for s in result.segments)])
    numbers = np.searchsorted(known, result.ids).astype(np.uint16)
    number_of = {int(i): n for n, i in enumerate(known)}
    described = [_describe(result, s, number_of[s.id], identity) for s in sorted(result.segments, key=lambda s: s.id)]
    return {"pixel_array": numbers[order], "segment_descriptions": described}


def _nothing_found(result: PanopticResult, headers: Sequence[Dataset]) -> dict[str, Any]:
    """Return one blank frame, at the first source position, for each thing class that was looked for."""
    import highdicom as hd

    positions, _ = frame_places(headers)
    looked_for = result.classes.things or tuple(result.classes)
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"{info.name[:50]} (none found)",
            segmented_property_category=common.concept(info.category),
            segmented_property_type=common.concept(info.type),
            algorithm_type="AUTOMATIC",
            algorithm_identification=common.algorithm_identification(result),
        )
        for number, info in enumerate(looked_for, 1)
    ]
    return {
        "pixel_array": np.zeros((1, *result.ids.shape[1:]), np.uint8),
        "segment_descriptions": described,
        "plane_positions": [hd.PlanePositionSequence("PATIENT", positions[0].tolist())],
        "omit_empty_frames": False,
    }


def _describe(result: PanopticResult, segment: Segment, number: int, identity: Identity) -> SegmentDescription:
    import highdicom as hd

    info = result.classes[segment.class_id]
    kind = common.ALGORITHM_TYPE[segment.origin]
    tracking = common.tracking(result, segment, identity) if info.is_thing else (None, None)
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=common.segment_label(result, segment),
        segmented_property_category=common.concept(info.category),
        segmented_property_type=common.concept(info.type),
        algorithm_type=kind,
        algorithm_identification=None if kind == "MANUAL" else common.algorithm_identification(result),
        display_color=hd.color.CIELabColor.from_rgb(*result.segment_color(segment)),
        tracking_id=tracking[0],
        tracking_uid=tracking[1],
    )
