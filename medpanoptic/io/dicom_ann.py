"""DICOM Microscopy Bulk Simple Annotations: the cells of a slide as polygons. Source: DICOM PS3.3 A.87, C.37.1."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medpanoptic.classes import ClassInfo, Code
from medpanoptic.errors import ReadError, WriteError
from medpanoptic.geometry import same_grid, to_world
from medpanoptic.identity import Identity, identify
from medpanoptic.io import dicom_common as common
from medpanoptic.io.dicom_slide import SLIDE_CLASS
from medpanoptic.io.dicom_source import dicom_source, odd_patients, put_patient, read_headers, without_values
from medpanoptic.io.dicom_sr_groups import CERTAINTY, PERCENT
from medpanoptic.io.dicom_tiles import slide_affine
from medpanoptic.io.outline import outlines, signed_area
from medpanoptic.measure import is_calibrated
from medpanoptic.result import PanopticResult, Segment, without_rejected
from medpanoptic.volume import Volume

if TYPE_CHECKING:
    from highdicom.ann import AnnotationGroup, Measurements, MicroscopyBulkSimpleAnnotations
    from pydicom import Dataset

AREA = Code("42798000", "SCT", "Area")
SQUARE_MICROMETER = Code("um2", "UCUM", "square micrometer")


def write_dicom_ann(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write ann.dcm: one group per thing class, one polygon per thing, on the slide level that was read.

    Polygons run along pixel edges. Their coordinates are 3D, mm in the slide's frame of reference, so that they fit
    every level; 2D where the slide says no origin: (column, row) in pixels of that level, (0, 0) the top left corner
    of its first pixel. Each polygon has its area in um2 and, as "Certainty of Finding" in percent, its score. A thing
    of several parts has its largest, and holes are filled: a polygon can hold neither. Rejected things are left out.
    Without any thing there is no file: an annotation object must hold one.
    Raises WriteError: FORMAT-NEEDS-DICOM, FORMAT-NEEDS-SLIDE (the source is no whole slide image), DICOM-SOURCE,
    DICOM-GEOMETRY (the result is not on the grid of that level).
    """
    source = dicom_source(result, volume, "dicom-ann")
    header = read_headers(source)[0]
    _check_slide(header, result)
    shown = without_rejected(result)
    if not shown.things:
        return []
    path = folder / "ann.dcm"
    with without_values("DICOM annotation"):
        make_annotations(shown, header, identify(result, source)).save_as(path)
    return [path]


def _check_slide(header: Dataset, result: PanopticResult) -> None:
    if header.SOPClassUID != SLIDE_CLASS:
        raise WriteError("FORMAT-NEEDS-SLIDE", "dicom-ann annotates whole slide images, and the source is none")
    try:
        affine, _ = slide_affine(header, "the slide")
    except ReadError as error:
        raise WriteError("DICOM-SOURCE", f"a DICOM annotation cannot be placed: {error.message}") from error
    shape = int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns)
    if not same_grid(affine, result.affine, shape, result.ids.shape):
        raise WriteError(
            "DICOM-GEOMETRY", "the result does not lie on the slide level it names; write it on that level's own grid"
        )


def make_annotations(result: PanopticResult, header: Dataset, identity: Identity) -> MicroscopyBulkSimpleAnnotations:
    """Build the object from the header of the slide level (its patient's name is put back as it is)."""
    import highdicom as hd

    made = common.moment(result, header)
    # a place on the slide needs the place of its first pixel. Source: DICOM PS3.3 C.37.1.2, C.8.12.4.1.1
    on_slide = bool(header.get("TotalPixelMatrixOriginSequence"))
    groups = [_group(result, info, number, identity, on_slide) for number, info in enumerate(_classes(result), 1)]
    with odd_patients([header]) as patient:
        annotations = hd.ann.MicroscopyBulkSimpleAnnotations(
            source_images=[header],
            annotation_coordinate_type="3D" if on_slide else "2D",
            annotation_groups=groups,
            series_instance_uid=identity.uid("dicom-ann series"),
            series_number=904,
            sop_instance_uid=identity.uid("dicom-ann instance"),
            instance_number=1,
            content_label="PANOPTIC",
            content_description=f"Panoptic segmentation, {common.NOTE}",
            series_description=common.series_description(result),
            specific_character_set="ISO_IR 192",
            contributing_equipment=common.contributing_equipment(result),
            **common.equipment(result),
        )
    put_patient(annotations, patient)
    if "SpecimenDescriptionSequence" not in annotations:
        # must be there, if only empty, unless a specimen says where the tissue is from. Source: DICOM PS3.3 C.7.3.1
        annotations.Laterality = ""
    common.repeat_times(annotations, made)
    annotations.ContentDate, annotations.ContentTime = made.strftime("%Y%m%d"), made.strftime("%H%M%S.%f")
    return annotations


def _classes(result: PanopticResult) -> list[ClassInfo]:
    used = {s.class_id for s in result.things}
    return [info for info in result.classes.things if info.id in used]


def _group(result: PanopticResult, info: ClassInfo, number: int, identity: Identity, on_slide: bool) -> AnnotationGroup:
    import highdicom as hd

    members = sorted((s for s in result.things if s.class_id == info.id), key=lambda s: s.id)
    origins = {s.origin for s in members}
    # one word for all: by hand alone, by hand in part, or by the model alone
    kind = common.ALGORITHM_TYPE[origins.pop() if len(origins) == 1 else "edited"]
    return hd.ann.AnnotationGroup(
        number=number,
        uid=identity.uid(f"dicom-ann group {info.id}"),
        label=info.name[:64],
        annotated_property_category=common.concept(info.category),
        annotated_property_type=common.concept(info.type),
        graphic_type="POLYGON",
        graphic_data=[polygon(result, s, on_slide) for s in members],
        algorithm_type=kind,
        algorithm_identification=None if kind == "MANUAL" else common.algorithm_identification(result),
        measurements=_measurements(result, members),
        display_color=hd.color.CIELabColor.from_rgb(*info.color),
    )


def _measurements(result: PanopticResult, members: list[Segment]) -> list[Measurements]:
    import highdicom as hd

    pixel_um2 = result.voxel_size * 1e6
    areas = np.array([result.sizes[s.id] * pixel_um2 for s in members])
    scores = np.array([100.0 * s.score for s in members])
    rows: list[tuple[Code, NDArray[np.float64], Code]] = [(CERTAINTY, scores, PERCENT)]
    if is_calibrated(result):
        rows.insert(0, (AREA, areas, SQUARE_MICROMETER))
    return [hd.ann.Measurements(common.concept(name), values, common.concept(unit)) for name, values, unit in rows]


def polygon(result: PanopticResult, segment: Segment, on_slide: bool) -> NDArray[np.float32]:
    """Return the corners of the outer edge of a thing's largest part, not closed, float32.

    on_slide : (N, 3) mm in the frame of reference of the slide; else (N, 2) pixels (column, row) from the top left
    corner of the first pixel.
    """
    box = result.boxes[segment.id]
    mask = result.ids[tuple(slice(*axis) for axis in box)] == segment.id
    outer = max((part.outer for part in outlines(mask)), key=signed_area)
    corners: NDArray[np.float64] = outer + np.array([start for start, _ in box], float)
    # the affine counts from the centre of the first pixel
    placed = to_world(corners - 0.5, result.affine) if on_slide else corners[:, ::-1]
    return placed.astype(np.float32)
