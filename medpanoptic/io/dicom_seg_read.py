"""Read a DICOM Segmentation, whoever wrote it, as a result. Source: DICOM PS3.3 A.51, C.8.20"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medpanoptic.classes import ClassTable
from medpanoptic.errors import GeometryError, MedpanopticError, ReadError
from medpanoptic.io.dicom_files import quiet_pydicom, read_dataset
from medpanoptic.io.dicom_seg_grid import frame_grid, view_on
from medpanoptic.io.dicom_seg_paint import Overlap, Painter
from medpanoptic.io.dicom_seg_table import read_provenance, read_table
from medpanoptic.result import PanopticResult
from medpanoptic.volume import Source, Volume

SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")


def read_dicom_seg(
    path: Path,
    image: Volume | None = None,
    *,
    classes: ClassTable | None = None,
    overlap: Overlap = "refuse",
    threshold: float | None = None,
) -> PanopticResult:
    """Read a DICOM SEG: BINARY or LABELMAP, native or compressed, in any order of frames and with slices left out.

    image : the series that it was made of: the map then has its grid, whatever way the frames run, and its source.
        Without it the map reaches from the first frame to the last.
    classes : known classes, for segments whose codes agree with theirs; others get their own (``read_table``).
    overlap : of two things, or two stuff segments, in one voxel "refuse" (SEG-OVERLAP), or the "first" or "last" by
        segment number wins. A thing always wins over stuff, and the stuff stays in ``stuff``.
    threshold : of a FRACTIONAL segmentation, from 0 to 1, what counts as inside; None refuses it.
    What was decided stands in ``provenance.parameters["notes"]``. ``docs/formats/dicom_seg.md`` tells what is kept.
    Raises ReadError: DICOM-UNREADABLE, RESULT-UNKNOWN (not a SEG), SEG-DAMAGED, SEG-SLIDE, SEG-FRACTIONAL, SEG-OVERLAP,
    PIXELS-UNREADABLE, READ-TOO-LARGE; GeometryError: MIX-FRAME, SEG-GRID and those of ``frame_grid``.
    """
    kind = ""
    try:
        with quiet_pydicom():
            return _read(read_dataset(path, path.name), path.name, image, classes, overlap, threshold)
    except (MedpanopticError, MemoryError):
        raise
    except Exception as error:  # pydicom raises nearly any type on a damaged file, and its texts quote values
        kind = type(error).__name__
    raise ReadError("SEG-DAMAGED", f"{path.name}: an attribute of the segmentation is missing or garbled ({kind})")


def _read(
    dataset: Dataset,
    name: str,
    image: Volume | None,
    classes: ClassTable | None,
    overlap: Overlap,
    threshold: float | None,
) -> PanopticResult:
    _check_kind(dataset, name, threshold)
    table = read_table(dataset, name, classes)
    grid = frame_grid(dataset, name, None if image is None else _checked(image, dataset, name).affine)
    ids = np.zeros(grid.shape if image is None else image.shape, np.int32)
    affine = grid.affine if image is None else image.affine
    painter = Painter(ids, lambda array: view_on(array, affine, grid, name), table, overlap, name)
    slices, frames = grid.slices.tolist(), _frames(dataset, name)
    if _is_labelmap(dataset):
        painter.paint_labelmap(slices, frames)
    else:
        cut = 1.0 if threshold is None else threshold * float(dataset.get("MaximumFractionalValue") or 1)
        painter.paint_segments(slices, _segment_numbers(dataset, name), frames, cut)
    source = image.source if image is not None and image.source.sop_uids else _source(dataset)
    made = read_provenance(dataset, [*grid.notes, *table.notes, *painter.notes()])
    return PanopticResult(ids, painter.segments(), table.classes, affine, source, made, painter.stuff_map())


def _is_labelmap(dataset: Dataset) -> bool:
    return str(dataset.SOPClassUID) == SEG_CLASSES[1] or dataset.get("SegmentationType") == "LABELMAP"


def _check_kind(dataset: Dataset, name: str, threshold: float | None) -> None:
    if str(dataset.get("SOPClassUID", "")) not in SEG_CLASSES:
        raise ReadError("RESULT-UNKNOWN", f"{name} is DICOM, but not a Segmentation")
    if "TotalPixelMatrixColumns" in dataset:
        raise ReadError("SEG-SLIDE", f"{name}: segmentations of slides (tiles of a pixel matrix) are not read")
    if dataset.get("SegmentationType") == "FRACTIONAL" and threshold is None:
        raise ReadError(
            "SEG-FRACTIONAL",
            f"{name}: a FRACTIONAL segmentation has no borders; choose from where on it counts: "
            "read_dicom_seg(path, threshold=0.5), or save it as BINARY",
        )


def _checked(image: Volume, dataset: Dataset, name: str) -> Volume:
    """Return the image if it can be that of the segmentation."""
    own, given = str(dataset.get("FrameOfReferenceUID") or ""), image.source.frame_of_reference_uid
    if image.ndim != 3:
        raise GeometryError("SEG-GRID", f"{name}: a segmentation of a volume; the image given is 2D")
    if own and given and own != given:
        raise GeometryError("MIX-FRAME", f"{name}: the image given is of another frame of reference")
    return image


def _segment_numbers(dataset: Dataset, name: str) -> list[int]:
    """Return the segment number of each frame."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    key = "SegmentIdentificationSequence"
    try:
        items = [(frame.get(key) or shared[key].value)[0] for frame in dataset.PerFrameFunctionalGroupsSequence]
        return [int(item.ReferencedSegmentNumber) for item in items]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        pass  # an exception that quotes a value must not hang on ours
    raise ReadError("SEG-DAMAGED", f"{name}: a frame does not say which segment it shows")


def _frames(dataset: Dataset, name: str) -> Iterator[NDArray]:
    """Yield the frames as (row, column), decoded one by one."""
    wanted, count, kind = len(dataset.PerFrameFunctionalGroupsSequence), 0, ""
    if dataset.get("NumberOfFrames") != wanted:
        raise ReadError("SEG-DAMAGED", f"{name}: NumberOfFrames and the list of frames differ")
    syntax = dataset.file_meta.TransferSyntaxUID
    is_packed = dataset.get("BitsAllocated") == 1 and not syntax.is_encapsulated and syntax.is_little_endian
    try:
        for frame in _unpacked(dataset, wanted) if is_packed else _decoded(dataset):
            if frame.shape != (dataset.Rows, dataset.Columns):
                break
            yield frame
            count += 1
    except Exception as error:  # codecs raise anything, and their texts may quote tag values
        kind = type(error).__name__
    if kind or count != wanted:
        raise ReadError("PIXELS-UNREADABLE", f"{name}: frame {count + 1} of {wanted} is truncated or damaged ({kind})")


def _decoded(dataset: Dataset) -> Iterator[NDArray]:
    from pydicom.pixels import iter_pixels

    return iter_pixels(dataset, raw=True)


def _unpacked(dataset: Dataset, count: int) -> Iterator[NDArray]:
    """Yield frames of bits, which pydicom reads one by one only where they begin at a byte.

    Source: DICOM PS3.5 8.1.1: first pixel in the lowest bit, frames end to end without padding.
    """
    size, data = int(dataset.Rows) * int(dataset.Columns), np.frombuffer(dataset.PixelData, np.uint8)
    if len(data) * 8 < size * count:
        raise ValueError("too few bytes")
    for start in range(0, size * count, size):
        bits = np.unpackbits(data[start // 8 : -(-(start + size) // 8)], bitorder="little")
        yield bits[start % 8 : start % 8 + size].reshape(dataset.Rows, dataset.Columns)


def _source(dataset: Dataset) -> Source:
    """Name the series that the segmentation refers to; its files are not known, so nothing can point at them."""
    series = [str(s.get("SeriesInstanceUID", "")) for s in dataset.get("ReferencedSeriesSequence") or ()]
    uids = (str(dataset.get(k) or "") for k in ("StudyInstanceUID", "FrameOfReferenceUID"))
    study, frame = uids
    return Source(study, series[0] if len(series) == 1 else "", frame)
