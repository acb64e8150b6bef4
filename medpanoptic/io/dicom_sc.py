"""Key images as DICOM secondary captures, for a PACS without SEG and SR. Source: DICOM PS3.3 A.8.1, C.8.6."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medpanoptic.errors import WriteError
from medpanoptic.identity import Identity, identify, uid_from
from medpanoptic.io import dicom_common as common
from medpanoptic.io.dicom_source import (
    dicom_source,
    odd_patients,
    put_patient,
    read_headers,
    slice_of_frame,
    without_values,
)
from medpanoptic.io.drawing import RGB
from medpanoptic.io.key_images import key_slice, lesion_image, overview_image, side_letters
from medpanoptic.measure import DrawnAxes, measure
from medpanoptic.result import PanopticResult, without_rejected
from medpanoptic.volume import Volume

if TYPE_CHECKING:
    from highdicom.sc import SCImage
    from pydicom import Dataset

MOST_LESIONS = 50  # captures of single lesions, the largest; the overview counts them all
_FOLDER = "captures"


class _Capture(NamedTuple):
    """A picture, the name of its file, the slice it is of (None: of all), and the patient's sides along row, column."""

    picture: RGB
    name: str
    slice: int | None
    sides: tuple[str, str] | None
    text: str


def write_dicom_sc(
    result: PanopticResult,
    folder: Path,
    volume: Volume | None = None,
    *,
    axes: Mapping[int, DrawnAxes] | None = None,
) -> list[Path]:
    """Write captures/: an overview, and each lesion on the slice of its long axis with outline and both axes.

    Single-frame RGB captures of one series, in the order of a reading: the overview, then the lesions from the largest
    on, at most ``MOST_LESIONS``. volume : the image, which must be given. axes : id -> the axes that a reader drew, in
    place of those found. Rejected things are left out. Without any lesion the overview says so. No text of the source's
    header is burned in but the number of the image.
    Raises WriteError: FORMAT-NEEDS-DICOM, FORMAT-NEEDS-IMAGE, DICOM-SOURCE, DICOM-GEOMETRY.
    """
    source = dicom_source(result, volume, "dicom-sc")
    if volume is None:
        raise WriteError("FORMAT-NEEDS-IMAGE", "dicom-sc draws on the image: give it too (volume=, --image)")
    headers = read_headers(source)
    order = slice_of_frame(headers, result)
    frame_of = {int(k): frame for frame, k in enumerate(order)}
    target = folder / _FOLDER
    with without_values("secondary capture"):
        identity = identify(result, source)
        written = []
        for number, capture in enumerate(_captures(without_rejected(result), volume, headers, frame_of, axes), 1):
            frame = None if capture.slice is None else frame_of[capture.slice]
            image = _secondary_capture(result, identity, headers, capture, number, frame)
            target.mkdir(exist_ok=True)
            image.save_as(target / capture.name)
            written.append(target / capture.name)
    return written


def _captures(
    shown: PanopticResult,
    volume: Volume,
    headers: Sequence[Dataset],
    frame_of: dict[int, int],
    axes: Mapping[int, DrawnAxes] | None,
) -> list[_Capture]:
    measures = sorted(measure(shown, volume, axes=axes), key=lambda m: (-m.size, m.segment_id))
    overview = overview_image(shown, volume, measures)
    captures = [_Capture(overview, "000_overview.dcm", None, None, "Overview")]
    segments = {s.id: s for s in shown.things}
    # rows of the picture run along the columns' direction and the other way round
    sides = (side_letters(shown.affine[:3, 2])[1], side_letters(shown.affine[:3, 1])[1])
    for number, m in enumerate(measures[:MOST_LESIONS], 1):
        k = key_slice(m, shown.ids.shape[0])
        place = _place(headers, frame_of[k], k, shown.ids.shape[0])
        picture = lesion_image(shown, volume, segments[m.segment_id], m, place)
        text = common.segment_label(shown, segments[m.segment_id])
        captures.append(_Capture(picture, f"{number:03d}_segment_{m.segment_id}.dcm", k, sides, text))
    return captures


def _place(headers: Sequence[Dataset], frame: int, k: int, slices: int) -> str:
    """Name a slice as a viewer of the source does, by Instance Number, and by its place in the stack."""
    number = headers[frame].get("InstanceNumber") if len(headers) > 1 else frame + 1
    image = f"image {number}, " if number is not None else ""
    return f"{image}slice {k + 1} of {slices}"


def _secondary_capture(
    result: PanopticResult,
    identity: Identity,
    headers: Sequence[Dataset],
    capture: _Capture,
    number: int,
    frame: int | None,
) -> SCImage:
    """Wrap one picture. ``frame`` : the source frame that it is of; None names every file of the source."""
    import highdicom as hd

    made = common.moment(result, headers[0])
    digest = hashlib.sha256(f"{capture.picture.shape}".encode() + capture.picture.tobytes()).hexdigest()
    with odd_patients(headers) as patient:
        image = hd.sc.SCImage.from_ref_dataset(
            headers[0],
            pixel_array=np.ascontiguousarray(capture.picture),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            series_instance_uid=identity.uid("dicom-sc series"),
            series_number=920,
            sop_instance_uid=uid_from(identity.uid("dicom-sc instance"), str(number), digest),
            instance_number=number,
            patient_orientation=capture.sides or ("L", "P"),
            series_description=f"Key images, {common.series_description(result)}"[:64],
            specific_character_set="ISO_IR 192",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            contributing_equipment=common.contributing_equipment(result),
            **common.equipment(result),
            **common.content_times(made),
        )
    put_patient(image, patient)
    common.repeat_times(image, made)
    image.DateOfSecondaryCapture, image.TimeOfSecondaryCapture = image.ContentDate, image.ContentTime
    if capture.sides is None:
        image.PatientOrientation = []  # several planes have no one orientation
    # drawn by a program on a workstation, not taken from a video or digital line
    image.ConversionType = "WSD"
    image.Laterality = ""  # must be there, and a panel of a whole slice shows both sides
    image.BurnedInAnnotation = "NO"  # nothing in it names the patient or a date
    image.LossyImageCompression = "00"
    image.ImageComments = f"{capture.text}; {common.NOTE}; not for measuring"
    image.DerivationDescription = "Segmentation and its measures drawn over the image, grey values windowed"
    image.DerivationCodeSequence = [hd.sr.CodedConcept("113076", "DCM", "Segmentation")]
    image.SourceImageSequence = _source_images(headers, frame)
    return image


def _source_images(headers: Sequence[Dataset], frame: int | None) -> list[Dataset]:
    import highdicom as hd
    from pydicom import Dataset

    several = len(headers) > 1
    wanted = headers if frame is None else [headers[frame if several else 0]]
    items = []
    for header in wanted:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        if frame is not None and not several and "NumberOfFrames" in header:
            item.ReferencedFrameNumber = frame + 1
        item.PurposeOfReferenceCodeSequence = [
            hd.sr.CodedConcept("121322", "DCM", "Source image for image processing operation")
        ]
        items.append(item)
    return items
