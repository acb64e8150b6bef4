"""DICOM SEG of series made by code: read back by highdicom and dcmqi in the right place, valid for dciodvfy."""

import re
import shutil
import subprocess
import warnings
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.errors import WriteError
from medpanoptic.geometry import to_index, to_world
from medpanoptic.io.write import read_result, write_result
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
}


def header(sop_class, uid):
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
    data.Rows, data.Columns = SHAPE[1:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    return data


def cosines(affine):
    columns, rows = affine[:3, 2], affine[:3, 1]
    return [f"{v:.10f}"[:16] for v in [*columns / np.linalg.norm(columns), *rows / np.linalg.norm(rows)]]


def write_series(folder, affine):
    """Write single-frame CT slices; return the Source in slice order."""
    folder.mkdir()
    paths, uids = [], []
    for k in range(SHAPE[0]):
        data = header(CTImageStorage, f"1.2.3.4.{k + 1}")
        data.ImageType, data.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], k + 1
        data.ImagePositionPatient = [f"{v:.8f}"[:16] for v in to_world([[k, 0, 0]], affine)[0]]
        data.ImageOrientationPatient = cosines(affine)
        data.PixelSpacing, data.SliceThickness = ["0.8", "0.7"], "3"
        data.SpacingBetweenSlices = "99"  # wrong on purpose: real scanners do this
        data.RescaleIntercept, data.RescaleSlope = 0, 1
        data.PixelData = np.zeros(SHAPE[1:], np.int16).tobytes()
        paths.append(folder / f"{(k * 3) % 5}.dcm")
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


def world_points(mask, affine):
    return {tuple(np.round(p, 2) + 0.0) for p in to_world(np.argwhere(mask), affine)}


def read_volumes(path):
    """Return {label: set of LPS positions} by highdicom, whatever the order of its slices."""
    segmentation = hd.seg.segread(path)
    volume = segmentation.get_volume(combine_segments=False, rescale_fractional=False)
    labels = [d.SegmentLabel for d in segmentation.SegmentSequence]
    return {label: world_points(volume.array[..., i] > 0, volume.affine) for i, label in enumerate(labels)}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("writer", [write_series, write_enhanced])
def test_every_voxel_comes_back_in_its_place(tmp_path, grid, writer, caplog):
    affine = GRIDS[grid]
    result = result_on(affine, writer(tmp_path / "in", affine))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = write_result(result, tmp_path / "out", formats=("dicom-seg",))
    assert files["dicom-seg"] == [tmp_path / "out" / "seg.dcm"]
    found = read_volumes(files["dicom-seg"][0])
    wanted = {"tumour 2": 2, "fat": 5, "tumour 40": 40, "tumour 41": 41}
    assert found == {label: world_points(result.ids == i, affine) for label, i in wanted.items()}
    assert not caplog.records


@pytest.mark.parametrize("grid", ["head first", "oblique", "coronal"])
def test_dcmqi_reads_it_in_the_same_place(tmp_path, grid):
    tool = dcmqi_tool("segimage2itkimage")
    affine = GRIDS[grid]
    result = result_on(affine, write_series(tmp_path / "in", affine))
    seg = write_result(result, tmp_path / "out", formats=("dicom-seg",))["dicom-seg"][0]
    out = tmp_path / "itk"
    out.mkdir()
    command = [tool, "--inputDICOM", str(seg), "--outputDirectory", str(out), "--outputType", "nrrd"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    found = [image_points(path) for path in out.glob("*.nrrd")]
    for i in (2, 5, 40, 41):
        assert world_points(result.ids == i, affine) in found
    assert len(found) == 4


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


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian dicom3tools) is not installed")
@pytest.mark.parametrize("empty", [False, True])
def test_dciodvfy_finds_no_error(tmp_path, empty):
    source = write_series(tmp_path / "in", GRIDS["axial"])
    result = result_on(GRIDS["axial"], source, **(nothing() if empty else {}))
    seg = write_result(result, tmp_path / "out", formats=("dicom-seg",))["dicom-seg"][0]
    run = subprocess.run(["dciodvfy", str(seg)], capture_output=True, text=True, timeout=60, check=False)
    assert not re.findall(r"^Error.*", run.stdout + run.stderr, re.MULTILINE)


def nothing():
    return {"ids": np.zeros(SHAPE, np.int32), "segments": ()}


def test_nothing_found_is_a_valid_object_that_says_so(tmp_path):
    result = result_on(GRIDS["axial"], write_series(tmp_path / "in", GRIDS["axial"]), **nothing())
    seg = hd.seg.segread(write_result(result, tmp_path / "out", formats=("dicom-seg",))["dicom-seg"][0])
    assert [d.SegmentLabel for d in seg.SegmentSequence] == ["tumour (none found)"]
    assert seg.NumberOfFrames == 1
    assert not seg.pixel_array.any()


def test_it_names_model_tracking_codes_and_source(tmp_path):
    source = write_series(tmp_path / "in", GRIDS["axial"])
    seg = pydicom.dcmread(
        write_result(result_on(GRIDS["axial"], source), tmp_path / "out", formats=("dicom-seg",))["dicom-seg"][0]
    )
    first, fat, edited, added = seg.SegmentSequence
    assert (first.TrackingUID, first.TrackingID) == ("2.25.12345", "tumour 2")
    assert "TrackingUID" not in fat
    assert edited.TrackingUID.startswith("2.25.")
    assert [s.SegmentAlgorithmType for s in (first, edited, added)] == ["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"]
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("medpanoptic sarcoma", "1.0.0")
    assert "ab" * 32 in algorithm.AlgorithmParameters
    assert fat.SegmentedPropertyTypeCodeSequence[0].CodeValue == "55603005"
    referenced = {i.ReferencedSOPInstanceUID for i in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced == set(source.sop_uids)
    assert (seg.StudyInstanceUID, seg.FrameOfReferenceUID) == ("1.2.3", "1.2.3.5")
    assert (seg.PatientName, seg.PatientSex, seg.ContentDate) == ("Secret^Person", "O", "20200102")


def test_frames_point_at_the_slices_they_lie_on(tmp_path):
    affine = GRIDS["head first"]
    source = write_series(tmp_path / "in", affine)
    seg = pydicom.dcmread(
        write_result(result_on(affine, source), tmp_path / "out", formats=("dicom-seg",))["dicom-seg"][0]
    )
    for frame in seg.PerFrameFunctionalGroupsSequence:
        k = round(to_index([frame.PlanePositionSequence[0].ImagePositionPatient], affine)[0, 0])
        item = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert item.ReferencedSOPInstanceUID == source.sop_uids[k]


def test_a_rerun_makes_the_same_bytes_and_other_pixels_another_uid(tmp_path):
    source = write_series(tmp_path / "in", GRIDS["axial"])
    result = result_on(GRIDS["axial"], source)
    a, b = (write_result(result, tmp_path / n, formats=("dicom-seg",))["dicom-seg"][0] for n in "ab")
    assert a.read_bytes() == b.read_bytes()
    ids = result.ids.copy()
    ids[4, 9, 6] = 41
    other = result_on(GRIDS["axial"], source, ids=ids)
    c = write_result(other, tmp_path / "c", formats=("dicom-seg",))["dicom-seg"][0]
    assert pydicom.dcmread(a).SOPInstanceUID != pydicom.dcmread(c).SOPInstanceUID


def test_a_result_read_back_needs_the_volume(tmp_path):
    affine = GRIDS["axial"]
    source = write_series(tmp_path / "in", affine)
    result = result_on(affine, source)
    write_result(result, tmp_path / "a", formats=("csv",))
    back = read_result(tmp_path / "a")
    with pytest.raises(WriteError, match="FORMAT-NEEDS-DICOM"):
        write_result(back, tmp_path / "b", formats=("dicom-seg",))
    assert not (tmp_path / "b").exists()
    volume = Volume(np.zeros((1, *SHAPE), np.int16), affine, (Channel("ct", "CT", "HU"),), source)
    assert write_result(back, tmp_path / "b", formats=("dicom-seg",), volume=volume)["dicom-seg"][0].is_file()


def test_a_result_elsewhere_is_refused_and_leaves_nothing(tmp_path):
    source = write_series(tmp_path / "in", GRIDS["axial"])
    with pytest.raises(WriteError, match="DICOM-GEOMETRY"):
        write_result(result_on(GRIDS["oblique"], source), tmp_path / "out", formats=("dicom-seg",))
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_errors_hold_no_tag_value(tmp_path):
    source = write_series(tmp_path / "in", GRIDS["axial"])
    for path in source.paths:
        data = pydicom.dcmread(path)
        del data.StudyInstanceUID
        data.save_as(path)
    with pytest.raises(WriteError, match=r"DICOM-SOURCE.*StudyInstanceUID"):
        write_result(result_on(GRIDS["axial"], source), tmp_path / "out", formats=("dicom-seg",))
    for path in source.paths:
        data = pydicom.dcmread(path)
        data.StudyInstanceUID = "1.2.3"
        del data.PixelSpacing, data.Rows
        data.save_as(path)
    with pytest.raises(WriteError, match="DICOM-SOURCE") as caught:
        write_result(result_on(GRIDS["axial"], source), tmp_path / "out", formats=("dicom-seg",))
    assert "Secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_source_that_lacks_or_garbles_what_can_be_spared_is_fine(tmp_path):
    source = write_series(tmp_path / "in", GRIDS["axial"])
    for path in source.paths:
        data = pydicom.dcmread(path)
        del data.FrameOfReferenceUID, data.SliceThickness
        data.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        data.PatientName = "Yamada^Tarou=山田^太郎"
        data.add_new("PatientAge", "AS", "0Y")
        data.add_new("StudyID", "SH", "longer than sixteen characters")
        data.save_as(path)
    seg = write_result(result_on(GRIDS["axial"], source), tmp_path / "out", formats=("dicom-seg",))["dicom-seg"][0]
    stored = pydicom.dcmread(seg)
    assert stored.PatientName.ideographic == "山田^太郎"
    assert stored.FrameOfReferenceUID.startswith("2.25.")
    assert stored.StudyID in ("", None)
    assert "PatientAge" not in stored


def test_odd_patient_values_and_missing_dates_do_not_stop_it(tmp_path, caplog):
    source = write_series(tmp_path / "in", GRIDS["axial"])
    for path in source.paths:
        data = pydicom.dcmread(path)
        del data.StudyDate, data.StudyTime, data.AccessionNumber, data.StudyID, data.PatientBirthDate
        data.PatientName, data.PatientSex = "Odd=Na=me=x", "X"
        data.save_as(path)
    caplog.clear()
    seg = write_result(result_on(GRIDS["axial"], source), tmp_path / "out", formats=("dicom-seg",))["dicom-seg"][0]
    assert not caplog.records
    assert pydicom.dcmread(seg).ContentDate == "19000101"
