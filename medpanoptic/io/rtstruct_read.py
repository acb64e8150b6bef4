"""Read a DICOM RT Structure Set, whoever wrote it, on the grid of its image. Source: DICOM PS3.3 C.8.8.5 - C.8.8.8."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.errors import GeometryError, ReadError
from medpanoptic.geometry import to_index
from medpanoptic.io.dicom_common import ALGORITHM_TYPE
from medpanoptic.io.dicom_files import quiet_pydicom, read_dataset
from medpanoptic.io.dicom_seg_paint import Overlap, Painter
from medpanoptic.io.dicom_seg_table import SegmentTable, is_ours, read_provenance
from medpanoptic.io.foreign import REGION_CATEGORY, REGION_TYPE
from medpanoptic.io.outline import fill
from medpanoptic.io.rtstruct import RTSTRUCT
from medpanoptic.result import Origin, PanopticResult, Segment
from medpanoptic.volume import Volume

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")
_OFF_PLANE = 0.1  # slices: the most that a contour may lie beside the slice it is on
# points are rounded to this part of a pixel: contours through pixel centres would else be ragged by rounding
_DECIMALS = 3
_ORIGIN: dict[str, Origin] = {kind: origin for origin, kind in ALGORITHM_TYPE.items()}
_COLOR = (230, 120, 50)
# the defined terms of RT ROI Interpreted Type that may name a class; others may hold anything
_KINDS = (
    "EXTERNAL", "PTV", "CTV", "GTV", "TREATED_VOLUME", "IRRAD_VOLUME", "BOLUS", "AVOIDANCE", "ORGAN", "CAVITY",
    "CONTRAST_AGENT", "SUPPORT", "FIXATION", "DOSE_REGION", "CONTROL", "DOSE_MEASUREMENT",
)  # fmt: skip


def read_rtstruct(
    path: Path,
    image: Volume | None = None,
    *,
    overlap: Overlap = "refuse",
    keep_names: bool = False,
) -> PanopticResult:
    """Read an RTSTRUCT as a result on the grid of ``image``, which must be given: contours have no grid of their own.

    A voxel is inside where its centre is, by the even-odd rule over all closed contours of an ROI on its slice: so
    keyholes, and holes as contours of their own, both come out. Each ROI is a thing with its number as id, unless we
    wrote it. Points and open contours are left out, with a note.
    overlap : of two ROIs in one voxel "refuse" (SEG-OVERLAP), or the "first" or "last" by number wins.
    keep_names : call classes by the names of their ROIs, which may hold anything, patient data too. Without it they are
    called by their codes or by their type, such as "GTV".
    Raises ReadError: DICOM-UNREADABLE, RESULT-UNKNOWN (no RTSTRUCT), RTSTRUCT-IMAGE (no image), RTSTRUCT-DAMAGED,
    SEG-OVERLAP; GeometryError: MIX-FRAME, RTSTRUCT-PLANE (contours beside the slices of the image).
    """
    name = path.name
    dataset = read_dataset(path, name)
    if str(dataset.get("SOPClassUID", "")) != RTSTRUCT:
        raise ReadError("RESULT-UNKNOWN", f"{name} is DICOM, but not an RT Structure Set")
    if image is None or image.ndim != 3:
        raise ReadError(
            "RTSTRUCT-IMAGE",
            f"{name}: contours have no grid of their own; give the series they were drawn on (image=, --image)",
        )
    with quiet_pydicom():
        rois = _read_rois(dataset, name, keep_names)
        _check_frame(rois, image, name)
        segments = {r.number: r.segment for r in rois if r.segment is not None}
        classes = {r.info.id: r.info for r in rois}
        table = SegmentTable(segments, ClassTable(tuple(classes[i] for i in sorted(classes))))
        ids = np.zeros(image.shape, np.int32)
        painter = Painter(ids, lambda array: array, table, overlap, name)
        for roi in rois:
            slices, masks = _masks(roi, image, name)
            painter.paint_segments(slices, [roi.number] * len(slices), masks, 1)
        made = read_provenance(dataset, [*_notes(rois, image), *painter.notes()])
    return PanopticResult(ids, painter.segments(), table.classes, image.affine, image.source, made, painter.stuff_map())


# ---- the table of ROIs


@dataclass(frozen=True)
class _Roi:
    """One ROI. ``segment`` is None where it says that a class was not found; contours are (N, 3) LPS mm."""

    number: int
    info: ClassInfo
    segment: Segment | None
    frame_uid: str
    contours: tuple[NDArray[np.float64], ...]
    open_contours: int


def _read_rois(dataset: Dataset, name: str, keep_names: bool) -> list[_Roi]:
    """Return the ROIs by number. Raises ReadError: RTSTRUCT-DAMAGED."""
    try:
        outlines = {int(i.ReferencedROINumber): i for i in dataset.get("ROIContourSequence") or ()}
        observations = {int(i.ReferencedROINumber): i for i in dataset.get("RTROIObservationsSequence") or ()}
        items = {int(i.ROINumber): i for i in dataset.StructureSetROISequence}
        known: dict[object, ClassInfo] = {}
        rois = []
        for number, item in sorted(items.items()):
            outline, observation = outlines.get(number, Dataset()), observations.get(number, Dataset())
            facts = _facts(item) if is_ours(dataset) else {}
            info = _our_class(facts) or _foreign_class(known, item, observation, outline, keep_names)
            closed, others = _read_contours(outline)
            segment = _segment(number, item, info, facts)
            rois.append(_Roi(number, info, segment, str(item.get("ReferencedFrameOfReferenceUID", "")), closed, others))
        return rois
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        kind = type(error).__name__
    raise ReadError("RTSTRUCT-DAMAGED", f"{name}: its regions or contours are missing or garbled ({kind})")


def _facts(item: Dataset) -> dict[str, Any]:
    """Return what ``write_rtstruct`` put into the description of an ROI."""
    try:
        facts = json.loads(str(item.get("ROIDescription", "")))
    except json.JSONDecodeError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _our_class(facts: dict[str, Any]) -> ClassInfo | None:
    return ClassInfo.from_json(facts["class"]) if "name" in facts.get("class", {}) else None


def _segment(number: int, item: Dataset, info: ClassInfo, facts: dict[str, Any]) -> Segment | None:
    if facts and "id" not in facts:
        return None
    origin = _ORIGIN.get(str(item.get("ROIGenerationAlgorithm", "")), "predicted")
    uid = str(facts.get("tracking_uid", ""))
    return Segment(int(facts.get("id", number)), info.id, float(facts.get("score", 1.0)), origin, "unread", uid)


def _foreign_class(
    known: dict[object, ClassInfo], item: Dataset, observation: Dataset, outline: Dataset, keep_names: bool
) -> ClassInfo:
    """Return the class of an ROI by its name, its code or its type; ``known`` collects the classes."""
    coded = observation.get("RTROIIdentificationCodeSequence") or ()
    kind = str(observation.get("RTROIInterpretedType") or "").upper()
    name, code = (kind if kind in _KINDS else "region"), REGION_TYPE
    if coded:
        code = Code(str(coded[0].CodeValue), str(coded[0].CodingSchemeDesignator), str(coded[0].CodeMeaning))
        name = code.meaning
    if keep_names:
        name = str(item.get("ROIName") or name)
    if name not in known:
        rgb = [int(v) for v in outline.get("ROIDisplayColor") or _COLOR]
        known[name] = ClassInfo(len(known) + 1, name, True, (rgb[0], rgb[1], rgb[2]), REGION_CATEGORY, code)
    return known[name]


def _read_contours(outline: Dataset) -> tuple[tuple[NDArray[np.float64], ...], int]:
    """Return the closed contours as (N, 3) LPS mm, and the number of all others."""
    closed, others = [], 0
    for item in outline.get("ContourSequence") or ():
        points = _numbers(item).reshape(-1, 3)
        if str(item.get("ContourGeometricType", "")) in _CLOSED and len(points) > 2:
            closed.append(points)
        else:
            others += 1
    return tuple(closed), others


def _numbers(item: Dataset) -> NDArray[np.float64]:
    """Return Contour Data as floats, from the bytes where they are there: pydicom takes a hundred times as long."""
    element = item.get_item("ContourData")
    if isinstance(element, RawDataElement) and element.value is not None:
        return np.array(element.value.decode("ascii").rstrip(" \0").split("\\"), float)
    return np.array([float(v) for v in item.ContourData], float)


def _check_frame(rois: list[_Roi], image: Volume, name: str) -> None:
    own = image.source.frame_of_reference_uid
    if own and any(r.frame_uid and r.frame_uid != own for r in rois):
        raise GeometryError("MIX-FRAME", f"{name}: its contours and the image are of different frames of reference")


def _notes(rois: list[_Roi], image: Volume) -> Iterator[str]:
    others = sum(r.open_contours for r in rois)
    if others:
        yield f"left out {others} contour(s) that enclose nothing (points, open lines)"
    outside = 0
    for roi in rois:
        places = [to_index(points, image.affine)[:, 0].mean() for points in roi.contours]
        outside += sum(not -0.5 <= place < image.shape[0] - 0.5 for place in places)
    if outside:
        yield f"{outside} contour(s) lie above or below the image"


# ---- contours to voxels


def _masks(roi: _Roi, image: Volume, name: str) -> tuple[list[int], list[NDArray[np.uint8]]]:
    """Return the slices of an ROI and its mask (row, column) on each. Raises GeometryError: RTSTRUCT-PLANE."""
    loops: dict[int, list[NDArray[np.float64]]] = {}
    for points in roi.contours:
        places = np.round(to_index(points, image.affine), _DECIMALS)
        k = round(float(places[:, 0].mean()))
        if np.abs(places[:, 0] - k).max() > _OFF_PLANE:
            raise GeometryError(
                "RTSTRUCT-PLANE",
                f"{name}: region {roi.number} has contours that do not lie on a slice of the image: "
                "give the series that they were drawn on",
            )
        if 0 <= k < image.shape[0]:
            loops.setdefault(k, []).append(places[:, 1:])
    return list(loops), [fill(loops[k], image.shape[1:]) for k in loops]
