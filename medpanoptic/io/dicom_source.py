"""The DICOM series that a result lies on: its headers, cleaned so that they can be copied, and the place of its frames.

Shared by every DICOM object that is written (SEG, SR, secondary capture, RTSTRUCT).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import ReadError, WriteError
from medpanoptic.geometry import to_index
from medpanoptic.identity import uid_from
from medpanoptic.io.dicom_files import quiet_pydicom, read_dataset
from medpanoptic.result import PanopticResult
from medpanoptic.volume import Source, Volume

if TYPE_CHECKING:
    from pydicom import Dataset

_PLACE_TOLERANCE = 0.1  # voxels between a slice's own position and the result's grid
# attributes that an output must copy, and that cannot be made up
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# attributes that must be in an output, if only empty, and that old or anonymised sources may lack or garble
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


@contextmanager
def without_values(what: str) -> Iterator[None]:
    """Turn errors of pydicom and highdicom, whose texts quote tag values, into WriteError DICOM-SOURCE without them.

    what : the object that is made, such as "DICOM SEG". pydicom's warnings and log lines are kept back too.
    """
    kind = ""
    with quiet_pydicom():
        try:
            yield
        except (ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
            kind = type(error).__name__
    if kind:
        raise WriteError("DICOM-SOURCE", f"the source series lacks or garbles what a {what} needs ({kind})")


def dicom_source(result: PanopticResult, volume: Volume | None, name: str) -> Source:
    """Return the DICOM source of ``result`` or, after ``read_result``, of ``volume``.

    name : the format, for the text. Raises WriteError (FORMAT-NEEDS-DICOM) if neither has DICOM slices.
    """
    source = result.source if result.source.sop_uids or volume is None else volume.source
    if not (source.sop_uids and source.paths):
        raise WriteError(
            "FORMAT-NEEDS-DICOM",
            f"{name} needs the DICOM slices that the result was made from; of a result that was read back, "
            "give its image too (--image)",
        )
    return source


def read_headers(source: Source) -> list[Dataset]:
    """Return the headers of the source's files, without pixels, made fit to be copied into an output.

    Empty or garbled type 2 attributes become empty, identifiers are kept as they are, a missing FrameOfReferenceUID
    is derived from the series, and SpacingBetweenSlices is dropped: it is often wrong and positions say it better.
    Raises WriteError: FORMAT-NEEDS-DICOM (a file cannot be read), DICOM-SOURCE (it has no UIDs to point at).
    """
    with quiet_pydicom():
        return [_read_header(path) for path in source.paths]


def _read_header(path: Path) -> Dataset:
    try:
        header = read_dataset(path, "a source slice", pixels=False)
    except (ReadError, OSError) as error:
        kind = error.code if isinstance(error, ReadError) else type(error).__name__
        raise WriteError("FORMAT-NEEDS-DICOM", f"a source slice cannot be read ({kind})") from None
    if not header.get("SOPClassUID"):
        # empty in some exports; the meta header says the same
        header.SOPClassUID = header.file_meta.get("MediaStorageSOPClassUID", "")
    missing = [keyword for keyword in _NEEDED if not header.get(keyword)]
    if missing:
        raise WriteError("DICOM-SOURCE", f"a source slice lacks {', '.join(missing)}, which a DICOM output must name")
    for keyword in _TYPE_2:
        if keyword not in header or not _is_valid(header, keyword):
            setattr(header, keyword, "")
    for keyword in _OPTIONAL:
        if keyword in header and not _is_valid(header, keyword):
            header.pop(keyword)
    if not header.get("FrameOfReferenceUID"):
        # a SEG must have one; without one in the source, viewers go by the referenced slices
        header.FrameOfReferenceUID = uid_from("frame-of-reference", header.SeriesInstanceUID)
    # a wrong value here would be copied into the output and make it unreadable; highdicom takes it from positions then
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


# ---- patient


@contextmanager
def odd_patients(headers: Sequence[Dataset]) -> Iterator[dict[str, object]]:
    """Empty PatientName and PatientSex in ``headers`` inside the block; give their values for ``put_patient``.

    highdicom writes odd names to the log and refuses odd values, but a report must carry them as the source does.
    """
    kept = [(h.get("PatientName"), h.get("PatientSex")) for h in headers]
    for header in headers:
        header.PatientName, header.PatientSex = "", ""
    try:
        yield {"PatientName": kept[0][0] or "", "PatientSex": kept[0][1] or ""}
    finally:
        for header, (name, sex) in zip(headers, kept, strict=True):
            header.PatientName, header.PatientSex = name, sex


def put_patient(dataset: Dataset, patient: dict[str, object]) -> None:
    """Write the values that ``odd_patients`` gave into an output."""
    for keyword, value in patient.items():
        setattr(dataset, keyword, value)


# ---- geometry


def frame_places(headers: Sequence[Dataset]) -> tuple[NDArray[np.float64], list[list[float]]]:
    """Return per source frame the (F, 3) LPS mm position of its first pixel, and its row and column cosines.

    Raises AttributeError, IndexError, TypeError or ValueError where the headers have none.
    """
    if "PerFrameFunctionalGroupsSequence" not in headers[0]:
        positions = [[float(v) for v in h.ImagePositionPatient] for h in headers]
        return np.array(positions), [[float(v) for v in h.ImageOrientationPatient] for h in headers]
    shared = headers[0].SharedFunctionalGroupsSequence[0]
    places, cosines = [], []
    for frame in headers[0].PerFrameFunctionalGroupsSequence:
        holder = frame if "PlanePositionSequence" in frame else shared
        places.append([float(v) for v in holder.PlanePositionSequence[0].ImagePositionPatient])
        holder = frame if "PlaneOrientationSequence" in frame else shared
        cosines.append([float(v) for v in holder.PlaneOrientationSequence[0].ImageOrientationPatient])
    return np.array(places), cosines


def slice_of_frame(headers: Sequence[Dataset], result: PanopticResult) -> NDArray[np.int64]:
    """Return, for each source frame in file order, the slice of the result that lies on it.

    Raises WriteError: DICOM-SOURCE (no positions), DICOM-GEOMETRY (the result is not on the source's slices).
    """
    found = None
    with suppress(AttributeError, IndexError, TypeError, ValueError):
        found = frame_places(headers)
    # outside, so that no exception that quotes a value hangs on ours
    if found is None:
        raise WriteError("DICOM-SOURCE", "the source slices have no position or orientation")
    positions, cosines = found
    places = to_index(positions, result.affine)
    order = np.rint(places[:, 0]).astype(np.int64)
    rows, columns = result.affine[:3, 1], result.affine[:3, 2]
    wanted = np.concatenate([columns / np.linalg.norm(columns), rows / np.linalg.norm(rows)])
    off = np.abs(places - np.stack([order, 0 * order, 0 * order], axis=1)).max()
    is_whole = np.array_equal(np.sort(order), np.arange(result.ids.shape[0]))
    if not is_whole or off > _PLACE_TOLERANCE or np.abs(np.array(cosines) - wanted).max() > 1e-3:
        raise WriteError(
            "DICOM-GEOMETRY",
            f"the result ({result.ids.shape[0]} slices) does not lie on the source's {len(order)} frames: "
            "write it on the native grid of its source series",
        )
    return order
