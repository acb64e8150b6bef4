"""DICOM RT Structure Set: closed contours of each segment, slice by slice. Source: DICOM PS3.3 A.19, C.8.8.5 - C.8.8.8.

Contours run half-way between the centres of voxels inside and outside (``medpanoptic.measure.contours``), so that an
even-odd test of voxel centres gives the map back. A hole is joined to its outline by a keyhole (C.8.8.6.3): two equal
edges, which every reader takes for what they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpanoptic.classes import ClassInfo
from medpanoptic.geometry import to_world
from medpanoptic.identity import Identity, identify
from medpanoptic.io import dicom_common as common
from medpanoptic.io.dicom_source import (
    dicom_source,
    odd_patients,
    put_patient,
    read_headers,
    slice_of_frame,
    without_values,
)
from medpanoptic.measure.contours import contours
from medpanoptic.result import PanopticResult, Segment, without_rejected
from medpanoptic.volume import Volume

if TYPE_CHECKING:
    from highdicom.base import SOPClass
    from pydicom import Dataset
    from pydicom.dataelem import RawDataElement

RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, retired: what C.8.8.5 still asks for
_EXPLICIT = "1.2.840.10008.1.2.1"
_CONTOUR_DATA = 0x30060050


def write_rtstruct(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write rtstruct.dcm: one ROI per thing and per stuff class, on the source's slices.

    Things whose verdict is "rejected" are left out: nobody shall plan on them. A class of things of which none is left
    has an ROI without contours, named "(none found)". Segment and class stand as JSON in the ROI's description.
    Raises WriteError: FORMAT-NEEDS-DICOM, DICOM-SOURCE, DICOM-GEOMETRY.
    """
    source = dicom_source(result, volume, "rtstruct")
    headers = read_headers(source)
    order = slice_of_frame(headers, result)
    path = folder / "rtstruct.dcm"
    with without_values("RTSTRUCT"):
        structures = make_structure_set(result, identify(result, source), headers, order)
        structures.save_as(path, enforce_file_format=True)
    return [path]


def make_structure_set(
    result: PanopticResult, identity: Identity, headers: Sequence[Dataset], order: NDArray[np.int64]
) -> SOPClass:
    """Build the object from the source's headers and the slice of each of its frames."""
    from pydicom import Dataset

    structures = _frame_work(result, identity, headers)
    shown = without_rejected(result)
    images = _images_of_slices(headers, order)
    frame_uid = str(headers[0].FrameOfReferenceUID)
    rois, outlines, observations = [], [], []
    for number, (segment, info) in enumerate(_rois(shown), 1):
        rois.append(_roi(shown, identity, frame_uid, number, segment, info))
        outline = Dataset()
        outline.ReferencedROINumber = number
        outline.ROIDisplayColor = list(info.color if segment is None else shown.segment_color(segment))
        if segment is not None:
            outline.ContourSequence = list(_contour_items(shown, segment, images))
        outlines.append(outline)
        observations.append(_observation(number, info))
    structures.ReferencedFrameOfReferenceSequence = [_reference(headers, frame_uid)]
    structures.StructureSetROISequence = rois
    structures.ROIContourSequence = outlines
    structures.RTROIObservationsSequence = observations
    return structures


def _rois(shown: PanopticResult) -> Iterator[tuple[Segment | None, ClassInfo]]:
    """Yield segments by id, then the classes of things that have none."""
    for segment in sorted(shown.segments, key=lambda s: s.id):
        yield segment, shown.classes[segment.class_id]
    found = {s.class_id for s in shown.segments}
    yield from ((None, info) for info in shown.classes.things if info.id not in found)


# ---- the object and what it refers to


def _frame_work(result: PanopticResult, identity: Identity, headers: Sequence[Dataset]) -> SOPClass:
    """Return the object with its patient, study, series and equipment, and no structure yet."""
    from highdicom.base import SOPClass

    made = common.moment(result, headers[0])
    first = headers[0]
    with odd_patients(headers) as patient:
        structures = SOPClass(
            study_instance_uid=first.StudyInstanceUID,
            series_instance_uid=identity.uid("rtstruct series"),
            series_number=930,
            sop_instance_uid=identity.uid("rtstruct instance"),
            sop_class_uid=RTSTRUCT,
            instance_number=1,
            modality="RTSTRUCT",
            transfer_syntax_uid=_EXPLICIT,
            series_description=common.series_description(result),
            specific_character_set="ISO_IR 192",
            patient_id=first.PatientID,
            study_id=first.StudyID,
            accession_number=first.AccessionNumber,
            **common.equipment(result),
        )
        structures.copy_patient_and_study_information(first)
    put_patient(structures, patient)
    structures.ContributingEquipmentSequence = common.contributing_equipment(result)
    common.repeat_times(structures, made)
    structures.OperatorsName = ""
    structures.FrameOfReferenceUID, structures.PositionReferenceIndicator = first.FrameOfReferenceUID, ""
    structures.StructureSetLabel = "PANOPTIC"
    structures.StructureSetName = common.series_description(result)
    structures.StructureSetDescription = f"Panoptic segmentation, {common.NOTE}"
    structures.StructureSetDate, structures.StructureSetTime = (
        made.strftime("%Y%m%d"),
        made.strftime("%H%M%S"),
    )
    return structures


def _images_of_slices(headers: Sequence[Dataset], order: NDArray[np.int64]) -> dict[int, Dataset]:
    """Return slice -> the item that names its image, or its frame of a multi-frame object."""
    from pydicom import Dataset

    items = {}
    for frame, k in enumerate(order.tolist()):
        header = headers[frame] if len(headers) > 1 else headers[0]
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        if "NumberOfFrames" in header:
            item.ReferencedFrameNumber = frame + 1
        items[k] = item
    return items


def _reference(headers: Sequence[Dataset], frame_uid: str) -> Dataset:
    from pydicom import Dataset

    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = headers[0].SeriesInstanceUID
    series.ContourImageSequence = []
    for header in headers:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        series.ContourImageSequence.append(item)
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY, headers[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = frame_uid
    frame.RTReferencedStudySequence = [study]
    return frame


# ---- one ROI


def _roi(
    shown: PanopticResult, identity: Identity, frame_uid: str, number: int, segment: Segment | None, info: ClassInfo
) -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = frame_uid
    item.ROIName = f"{info.name[:50]} (none found)" if segment is None else common.segment_label(shown, segment)
    item.ROIGenerationAlgorithm = common.ALGORITHM_TYPE["predicted" if segment is None else segment.origin]
    item.ROIDescription = _description(shown, identity, segment, info)
    if segment is not None:
        volume_ml = shown.sizes[segment.id] * shown.voxel_size / 1000
        item.ROIVolume = f"{volume_ml:.6g}"  # cubic centimetres
    return item


def _description(shown: PanopticResult, identity: Identity, segment: Segment | None, info: ClassInfo) -> str:
    """Return what no attribute of an RTSTRUCT holds as JSON; at most 1024 characters (VR ST)."""
    facts: dict[str, Any] = {"class": info.to_json()}
    if segment is not None:
        facts |= {"id": segment.id, "score": float(segment.score)}
        if info.is_thing:
            facts["tracking_uid"] = identity.tracking_uid(segment)
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
    if len(text) > 1024:
        # names and meanings that fill a page: the numbers matter more
        facts["class"] = {"id": info.id, "is_thing": info.is_thing}
        text = json.dumps(facts, separators=(",", ":"))
    return text


def _observation(number: int, info: ClassInfo) -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    item.RTROIInterpretedType = ""  # a target volume is for a person to name
    item.ROIInterpreter = ""
    item.RTROIIdentificationCodeSequence = [common.concept(info.type)]
    return item


def _contour_items(shown: PanopticResult, segment: Segment, images: dict[int, Dataset]) -> Iterator[Dataset]:
    from pydicom import Dataset

    box = shown.boxes[segment.id]
    mask = shown.ids[tuple(slice(*axis) for axis in box)] == segment.id
    corner = [start for start, _ in box]
    for k, plane in enumerate(mask, corner[0]):
        for loop in keyholed(plane):
            points = np.column_stack([np.full(len(loop), k), loop + corner[1:]])
            item = Dataset()
            item.ContourGeometricType = "CLOSED_PLANAR"
            item.NumberOfContourPoints = len(loop)
            item[_CONTOUR_DATA] = _decimals(to_world(points, shown.affine))
            item.ContourImageSequence = [images[k]]
            # tells pydicom that the bytes of Contour Data are fit to be written as they are
            item.set_original_encoding(is_implicit_vr=False, is_little_endian=True)
            yield item


def _decimals(points: NDArray[np.float64]) -> RawDataElement:
    """Return (N, 3) mm as Contour Data, to a tenth of a micrometre, in at most 16 characters a number.

    As bytes, as they are written: pydicom would check each number on its own, minutes for the tissue of a scan.
    """
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    numbers = ("%.4f\\" * points.size)[:-1] % tuple((points + 0.0).ravel().tolist())
    value = numbers.replace(".0000", "").encode("ascii")
    value += b" " * (len(value) % 2)
    return RawDataElement(Tag(_CONTOUR_DATA), "DS", len(value), value, 0, False, True)


def keyholed(plane: NDArray[np.bool_]) -> Iterator[NDArray[np.float64]]:
    """Yield one closed outline (N, 2) (row, column) per part of a mask that hangs together, its holes joined to it."""
    parts, _ = ndimage.label(plane, np.ones((3, 3), bool))
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        outline, *holes = sorted(contours(parts[box] == number), key=lambda loop: -abs(signed_area(loop)))
        # from left to right: what a keyhole to the left meets has then been joined already
        for hole in sorted((_from_its_left(hole) for hole in holes), key=lambda hole: tuple(hole[0, ::-1])):
            outline = _joined(outline, hole)
        yield outline + [axis.start for axis in box]


def _from_its_left(hole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Begin a hole at its leftmost point between two rows of pixels: a keyhole from there meets no pixel's centre."""
    between = hole[:, 0] % 1 != 0
    first = min(np.flatnonzero(between).tolist(), key=lambda i: (hole[i, 1], hole[i, 0]))
    return np.roll(hole, -first, axis=0)


def signed_area(loop: NDArray[np.float64]) -> float:
    """Return the area of a closed outline in pixels, its sign that of the turn."""
    rows, columns = loop.T
    return float(columns @ np.roll(rows, -1) - rows @ np.roll(columns, -1)) / 2


def _joined(outline: NDArray[np.float64], hole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Go round the outline, where it lies left of the hole's first point over to that, round it, and back."""
    row, column = hole[0]
    (r0, c0), (r1, c1) = outline.T, np.roll(outline, -1, axis=0).T
    # each edge with its start, without its stop
    meets = (r0 == row) | ((r0 - row) * (r1 - row) < 0)
    slope = np.divide(c1 - c0, r1 - r0, out=np.zeros_like(c0), where=r1 != r0)
    at = np.where(meets, c0 + (row - r0) * slope, -np.inf)
    at[at >= column] = -np.inf
    i = int(at.argmax())
    door = np.array([[row, at[i]]])
    return np.concatenate([outline[: i + 1], door, hole, hole[:1], door, outline[i + 1 :]])
