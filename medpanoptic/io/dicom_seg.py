"""DICOM Segmentation, BINARY or LABELMAP, beside its source series. Source: DICOM PS3.3 A.51, A.51.5, C.8.20."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medpanoptic.classes import ClassInfo
from medpanoptic.errors import WriteError
from medpanoptic.identity import Identity, identify
from medpanoptic.io import dicom_common as common
from medpanoptic.io.dicom_seg_frames import binary_frames, labelmap_frames, pattern_slices, put_frames
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

MAX_SEGMENTS = 65535  # Segment Number is an unsigned short
_EXPLICIT, _DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
_JPEG_LS, _RLE = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5"


def write_dicom_seg(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write seg.dcm, BINARY: one segment per thing and per stuff class, one bit per pixel, only slices that hold it.

    The source is that of ``result`` or, after ``read_result``, of ``volume``. UIDs derive from the source series, the
    model and the result (``identify``), so that a re-run makes the same bytes. No rejected thing is in it. Without any
    segment, one blank frame per thing class says that it was looked for and not found.
    Raises WriteError: FORMAT-NEEDS-DICOM, DICOM-SOURCE (the source lacks what a SEG needs), DICOM-GEOMETRY (the result
    is not on the source's slices), SEG-TOO-MANY (more than 65,535 segments).
    """
    return _write(result, folder / "seg.dcm", volume, "BINARY", _EXPLICIT)


def write_dicom_seg_deflated(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write seg_deflated.dcm: as ``write_dicom_seg``, the same object in the deflated transfer syntax."""
    return _write(result, folder / "seg_deflated.dcm", volume, "BINARY", _DEFLATED)


def write_dicom_labelmap(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write seg_labelmap.dcm: as ``write_dicom_seg``, but LABELMAP (8 or 16 bits), one frame a slice, RLE."""
    return _write(result, folder / "seg_labelmap.dcm", volume, "LABELMAP", _RLE)


def write_dicom_labelmap_jpegls(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write seg_labelmap_jpegls.dcm: the same object as ``write_dicom_labelmap`` in JPEG-LS lossless: half the size."""
    return _write(result, folder / "seg_labelmap_jpegls.dcm", volume, "LABELMAP", _JPEG_LS)


def _write(result: PanopticResult, path: Path, volume: Volume | None, kind: str, syntax: str) -> list[Path]:
    source = dicom_source(result, volume, "dicom-seg")
    shown = [s.id for s in numbered(result)]
    if len(shown) > MAX_SEGMENTS:
        raise WriteError("SEG-TOO-MANY", f"a DICOM SEG holds {MAX_SEGMENTS} segments, the result has {len(shown)}")
    headers = read_headers(source)
    order = slice_of_frame(headers, result)
    with without_values("DICOM SEG"):
        segmentation = make_segmentation(result, identify(result, source), headers, order, kind, syntax)
        if kind == "BINARY" and shown:
            slices = pattern_slices(segmentation, result.affine)
            with binary_frames(result, shown, slices, path.parent) as (frames, pixels):
                put_frames(segmentation, slices, frames, pixels)
                segmentation.save_as(path)
        else:
            segmentation.save_as(path)
    return [path]


def make_segmentation(
    result: PanopticResult,
    identity: Identity,
    headers: Sequence[Dataset],
    order: NDArray[np.int64],
    kind: str,
    syntax: str,
) -> Segmentation:
    """Build the object from source headers (changed in place) and the slice of each frame.

    kind : BINARY or LABELMAP. A BINARY object of a result with segments has, as a pattern for ``put_frames``, one frame
    per slice of its first segment alone: highdicom would compare every slice with every segment.
    """
    import highdicom as hd
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    _normalise(headers, float(np.linalg.norm(result.affine[:3, 0])))
    made = common.moment(result, headers[0])
    role = "dicom-seg" if kind == "BINARY" else "dicom-seg-labelmap"
    described = [_describe(result, s, n, identity) for n, s in enumerate(numbered(result), 1)]
    with odd_patients(headers) as patient:
        segmentation = hd.seg.Segmentation(
            source_images=headers,
            segmentation_type=kind,
            series_instance_uid=identity.uid(f"{role} series"),
            series_number=900 if kind == "BINARY" else 901,
            sop_instance_uid=identity.uid(f"{role} instance"),
            instance_number=1,
            content_label="PANOPTIC",
            content_description=f"Panoptic segmentation, {common.NOTE}",
            series_description=common.series_description(result),
            specific_character_set="ISO_IR 192",
            # highdicom does not know the deflated syntax, which changes nothing but how the file is written
            transfer_syntax_uid=_EXPLICIT if syntax == _DEFLATED else syntax,
            contributing_equipment=common.contributing_equipment(result),
            **common.equipment(result),
            **common.content_times(made),
            **_pixels(result, headers, order, kind, described),
        )
    if kind == "BINARY" and described:
        segmentation.SegmentSequence = described
    if syntax == _DEFLATED:
        segmentation.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    put_patient(segmentation, patient)
    segmentation.ContentCreatorName = _creator(result)
    common.repeat_times(segmentation, made)
    uid = identity.uid(f"{role} dimensions")
    segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for item in segmentation.DimensionIndexSequence:
        item.DimensionOrganizationUID = uid
    return segmentation


def _creator(result: PanopticResult) -> str:
    """Return the reader who signed a review, without the characters that structure a DICOM name; else nobody."""
    name = str(result.provenance.parameters.get("reader", ""))
    return "".join(c for c in name if c.isprintable() and c not in "\\=")[:64]


def numbered(result: PanopticResult) -> list[Segment]:
    """Return the segments that a SEG holds, in the order of their DICOM segment numbers 1 ... n: by id.

    Rejected things are left out: what a reader took for wrong must not come up in a PACS.
    """
    rejected = {s.id for s in result.things if s.verdict == "rejected"}
    return sorted((s for s in result.segments if s.id not in rejected), key=lambda s: s.id)


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


def _pixels(
    result: PanopticResult,
    headers: Sequence[Dataset],
    order: NDArray[np.int64],
    kind: str,
    described: Sequence[SegmentDescription],
) -> dict[str, Any]:
    if not described:
        return _nothing_found(result, headers)
    if kind == "LABELMAP":
        return {
            "pixel_array": labelmap_frames(result, [s.id for s in numbered(result)], order),
            "segment_descriptions": described,
        }
    # a pattern without memory: every pixel of every frame is one number
    ones = np.broadcast_to(np.uint8(1), (len(order), *result.ids.shape[1:]))
    return {"pixel_array": ones, "segment_descriptions": described[:1]}


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
            anatomic_regions=[common.concept(info.region)] if info.region else None,
            algorithm_type="AUTOMATIC",
            algorithm_identification=common.algorithm_identification(result),
        )
        for number, info in enumerate(looked_for, 1)
    ]
    for item, info in zip(described, looked_for, strict=True):
        item.SegmentDescription = f"{_class_words(info)} none found"
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
    item = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=common.segment_label(result, segment),
        segmented_property_category=common.concept(info.category),
        segmented_property_type=common.concept(info.type),
        anatomic_regions=[common.concept(info.region)] if info.region else None,
        algorithm_type=kind,
        algorithm_identification=None if kind == "MANUAL" else common.algorithm_identification(result),
        display_color=hd.color.CIELabColor.from_rgb(*result.segment_color(segment)),
        tracking_id=tracking[0],
        tracking_uid=tracking[1],
    )
    # no attribute of a SEG holds a score, a verdict, an id or a class colour: they stand in the segment's free text
    words = [f"id={segment.id}", _class_words(info), f"score={float(segment.score)!r}", f"verdict={segment.verdict}"]
    item.SegmentDescription = " ".join(words)
    return item


def _class_words(info: ClassInfo) -> str:
    r, g, b = info.color
    return f"class={info.id} color={r:02x}{g:02x}{b:02x}"
