"""Results on small DICOM series made by code, and independent readers of what is written about them."""

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.geometry import to_world
from medpanoptic.result import PanopticResult, Provenance, Segment
from medpanoptic.volume import Channel, Source, Volume

SHAPE = (5, 12, 10)
CLASSES = ClassTable(
    (
        ClassInfo(
            1,
            "tumour",
            True,
            (220, 60, 50),
            Code("49755003", "SCT", "Morphologically Abnormal Structure"),
            Code("108369006", "SCT", "Neoplasm"),
        ),
        ClassInfo(
            2,
            "fat",
            False,
            (230, 200, 90),
            Code("85756007", "SCT", "Tissue"),
            Code("55603005", "SCT", "Adipose tissue"),
        ),
    )
)


def frame_affine(columns, rows, steps, origin=(11.0, -22.0, 33.0)):
    """Index -> LPS from the direction of columns (along a row), of rows, and the slice step along the normal."""
    matrix = np.eye(4)
    normal = np.cross(columns, rows)
    matrix[:3, 0] = normal * steps[0]
    matrix[:3, 1] = np.array(rows) * steps[1]
    matrix[:3, 2] = np.array(columns) * steps[2]
    matrix[:3, 3] = origin
    return matrix


def tilted(affine, shift):
    """Shift each slice along the rows by ``shift`` mm more, as a tilted gantry does."""
    sheared = affine.copy()
    sheared[:3, 0] += shift * affine[:3, 1] / np.linalg.norm(affine[:3, 1])
    return sheared


def rotation(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


OBLIQUE = rotation(20)
GRIDS = {
    "axial": frame_affine([1, 0, 0], [0, 1, 0], (3.0, 0.8, 0.7)),
    "head first": frame_affine([1, 0, 0], [0, 1, 0], (-3.0, 0.8, 0.7)),
    "feet up": frame_affine([-1, 0, 0], [0, 1, 0], (3.0, 0.8, 0.7)),
    "coronal": frame_affine([1, 0, 0], [0, 0, -1], (2.0, 0.8, 0.7)),
    "oblique": frame_affine(OBLIQUE[:, 0], OBLIQUE[:, 1], (-2.5, 0.8, 0.7)),
    "tilted": tilted(frame_affine([1, 0, 0], [0, 1, 0], (3.0, 0.8, 0.7)), 0.9),
}


def header(sop_class, uid, shape=SHAPE):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = sop_class
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid
    data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = "Secret^Person", "ID-77", "", "O"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.5"
    data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20200102", "030405", "", "ACC-1"
    data.Modality, data.Manufacturer, data.ReferringPhysicianName = "CT", "", ""
    data.SeriesNumber, data.InstanceNumber = 3, 1
    data.PositionReferenceIndicator, data.SpecificCharacterSet = "", "ISO_IR 100"
    data.Rows, data.Columns = shape[1:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    return data


def cosines(affine):
    columns, rows = affine[:3, 2], affine[:3, 1]
    return [f"{v:.10f}"[:16] for v in [*columns / np.linalg.norm(columns), *rows / np.linalg.norm(rows)]]


def write_series(folder, affine, shape=SHAPE):
    """Write single-frame CT slices; return the Source in slice order."""
    folder.mkdir()
    paths, uids = [], []
    for k in range(shape[0]):
        data = header(CTImageStorage, f"1.2.3.4.{k + 1}", shape)
        data.ImageType, data.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], k + 1
        data.ImagePositionPatient = [f"{v:.8f}"[:16] for v in to_world([[k, 0, 0]], affine)[0]]
        data.ImageOrientationPatient = cosines(affine)
        data.PixelSpacing, data.SliceThickness = ["0.8", "0.7"], "3"
        data.SpacingBetweenSlices = "99"  # wrong on purpose: real scanners do this
        data.RescaleIntercept, data.RescaleSlope = 0, 1
        pixels = np.zeros(shape[1:], np.int16)
        pixels[0, 0] = k + 1
        data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
        # the order of the names is not that of the slices
        paths.append(folder / f"{k % 2}_{k}.dcm")
        uids.append(data.SOPInstanceUID)
        data.save_as(paths[-1], enforce_file_format=True)
    return Source("1.2.3", "1.2.3.4", "1.2.3.5", tuple(uids), tuple(paths))


def write_enhanced(folder, affine):
    """Write one multi-frame CT whose frames run against the slice axis."""
    folder.mkdir()
    data = header(EnhancedCTImageStorage, "1.2.3.4.1")
    data.NumberOfFrames = SHAPE[0]
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = cosines(affine)
    measures.PixelSpacing, measures.SliceThickness = ["0.8", "0.7"], "3"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for k in reversed(range(SHAPE[0])):
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [f"{v:.8f}"[:16] for v in to_world([[k, 0, 0]], affine)[0]]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = frames
    data.PixelData = np.zeros(SHAPE, np.int16).tobytes()
    path = folder / "enhanced.dcm"
    data.save_as(path, enforce_file_format=True)
    return Source("1.2.3", "1.2.3.4", "1.2.3.5", (data.SOPInstanceUID,), (path,))


def result_on(affine, source, **changes):
    ids = np.zeros(SHAPE, np.int32)
    ids[:, 1:11, 1:9] = 5
    ids[0:2, 2:4, 3:6] = 2
    ids[2:4, 5:9, 2:5] = 40
    ids[4, 9, 7] = 41
    segments = (
        Segment(2, 1, 0.9, tracking_uid="2.25.12345"),
        Segment(5, 2),
        Segment(40, 1, 0.7, "edited"),
        Segment(41, 1, 1.0, "added"),
    )
    made = Provenance("sarcoma", "1.0.0", "ab" * 32, "0.1.0")
    fields = {"ids": ids, "segments": segments, "affine": affine, "source": source, "provenance": made}
    return PanopticResult(**{"classes": CLASSES, **fields, **changes})


def nothing():
    return {"ids": np.zeros(SHAPE, np.int32), "segments": ()}


def world_points(mask, affine):
    return {tuple(np.round(p, 2) + 0.0) for p in to_world(np.argwhere(mask), affine)}


def frame_points(path):
    """Return {label: set of LPS positions} from each frame's own position, of BINARY and of LABELMAP, by pydicom."""
    data = pydicom.dcmread(path)
    shared = data.SharedFunctionalGroupsSequence[0]
    rows, columns = (
        np.array(v, float) for v in np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3))
    )
    spacing = [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing]
    labels = {s.SegmentNumber: s.SegmentLabel for s in data.SegmentSequence}
    found = {label: set() for label in labels.values()}
    pixels = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    for frame, item in zip(pixels, data.PerFrameFunctionalGroupsSequence, strict=True):
        start = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        for r, c in np.argwhere(frame):
            number = frame[r, c]
            if data.SegmentationType == "BINARY":
                holder = item if "SegmentIdentificationSequence" in item else shared
                number = holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            place = start + r * spacing[0] * columns + c * spacing[1] * rows
            found[labels[number]].add(tuple(np.round(place, 2) + 0.0))
    return {label: points for label, points in found.items() if label != "Background"}


def read_volumes(path):
    """Return {label: set of LPS positions} by highdicom, whatever the order of its slices."""
    segmentation = hd.seg.segread(path)
    volume = segmentation.get_volume(combine_segments=False, rescale_fractional=False)
    labels = [d.SegmentLabel for d in segmentation.SegmentSequence if d.SegmentNumber]
    return {label: world_points(volume.array[..., i] > 0, volume.affine) for i, label in enumerate(labels)}


def dcmqi_tool(name):
    spec = pytest.importorskip("dcmqi")
    path = Path(spec.__file__).parent / "bin" / name
    if not path.exists():
        pytest.skip("dcmqi has no binaries here")
    return str(path)


def image_points(path):
    image = SimpleITK.ReadImage(str(path))
    found = np.argwhere(SimpleITK.GetArrayFromImage(image) > 0)[:, ::-1].tolist()
    return {tuple(np.round(image.TransformIndexToPhysicalPoint(i), 2) + 0.0) for i in found}


def volume_of(result):
    """Return the image that a result was made from, as the reader gives it."""
    return Volume(
        np.zeros((1, *result.ids.shape), np.int16), result.affine, (Channel("ct", "CT", "HU"),), result.source
    )
