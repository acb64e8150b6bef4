"""DICOM SEG of series made by code: read back by highdicom and dcmqi in the right place."""

import subprocess
import warnings
from dataclasses import replace

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_results import (
    GRIDS,
    dcmqi_tool,
    frame_points,
    image_points,
    nothing,
    read_volumes,
    result_on,
    volume_of,
    world_points,
    write_enhanced,
    write_series,
)

from medpanoptic.errors import WriteError
from medpanoptic.geometry import to_index
from medpanoptic.io import FORMATS, read_result, write_result
from medpanoptic.result import Provenance, Segment

KINDS = ("dicom-seg", "dicom-seg-deflated", "dicom-seg-labelmap", "dicom-seg-labelmap-jpegls")
LABELS = {"tumour 2": 2, "fat": 5, "tumour 40": 40, "tumour 41": 41}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("writer", [write_series, write_enhanced])
def test_every_voxel_comes_back_in_its_place(tmp_path, grid, writer, caplog):
    affine = GRIDS[grid]
    result = result_on(affine, writer(tmp_path / "in", affine))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = write_result(result, tmp_path / "out", formats=KINDS)
    assert not caplog.records
    wanted = {label: world_points(result.ids == i, affine) for label, i in LABELS.items()}
    for kind in KINDS:
        (path,) = files[kind]
        assert path == tmp_path / "out" / FORMATS[kind].files[0]
        assert frame_points(path) == wanted
        # highdicom makes no volume of a tilted scan
        assert grid == "tilted" or read_volumes(path) == wanted


@pytest.mark.parametrize("shape", [(5, 12, 10), (4, 11, 9), (3, 7, 3), (1, 5, 5)])
def test_it_equals_what_highdicom_makes_of_the_same_map(tmp_path, shape):
    """Frames, references and pixels; odd sizes put frames between bytes."""
    affine = GRIDS["axial"]
    source = write_series(tmp_path / "in", affine, shape)
    ids = np.random.default_rng(1).choice([0, 0, 2, 5, 40, 41], size=shape).astype(np.int32)
    result = result_on(affine, source, ids=ids)
    ours = pydicom.dcmread(write_result(result, tmp_path / "out", formats=("dicom-seg",))["dicom-seg"][0])
    headers = [pydicom.dcmread(p, stop_before_pixels=True) for p in source.paths]
    for header in headers:
        header.PatientName = ""
        del header.SpacingBetweenSlices
    plain = hd.seg.Segmentation(
        headers,
        np.searchsorted([0, 2, 5, 40, 41], ids).astype(np.uint8),
        "BINARY",
        hd.seg.Segmentation.from_dataset(ours).SegmentSequence,
        *("1.2.3.9", 1, "1.2.3.9.1", 1, "maker", "model", "1", "serial"),
    )
    assert ours.NumberOfFrames == plain.NumberOfFrames
    size = -(-ids[0].size * ours.NumberOfFrames // 8)
    assert ours.PixelData[:size] == plain.PixelData[:size]
    for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "ReferencedSeriesSequence"):
        assert ours[name].to_json() == plain[name].to_json()


@pytest.mark.parametrize("count", [255, 256])
def test_more_than_255_segments(tmp_path, count):
    """Ids need not be dense; a LABELMAP grows to 16 bits."""
    affine, shape = GRIDS["head first"], (3, 20, 17)
    ids = np.zeros(shape, np.int32)
    ids.ravel()[:count] = np.arange(1, count + 1) * (2**31 // 257)
    segments = tuple(Segment(int(i), 1) for i in ids.ravel()[:count])
    result = result_on(affine, write_series(tmp_path / "in", affine, shape), ids=ids, segments=segments)
    files = write_result(result, tmp_path / "out", formats=KINDS[::2])
    assert pydicom.dcmread(files["dicom-seg-labelmap"][0]).BitsAllocated == (8 if count < 256 else 16)
    for kind in KINDS[::2]:
        back = read_result(files[kind][0], image=volume_of(result))
        assert np.array_equal(back.ids, ids)


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


def test_nothing_found_is_a_valid_object_that_says_so(tmp_path):
    result = result_on(GRIDS["axial"], write_series(tmp_path / "in", GRIDS["axial"]), **nothing())
    seg = hd.seg.segread(write_result(result, tmp_path / "out", formats=("dicom-seg",))["dicom-seg"][0])
    assert [d.SegmentLabel for d in seg.SegmentSequence] == ["tumour (none found)"]
    assert seg.NumberOfFrames == 1
    assert not seg.pixel_array.any()


@pytest.mark.parametrize("far", [0, 2**30])
def test_rejected_things_do_not_reach_a_pacs(tmp_path, far):
    affine = GRIDS["axial"]
    result = result_on(affine, write_series(tmp_path / "in", affine))
    ids = np.where(result.ids > 0, result.ids + far, 0).astype(np.int32)
    moved = [replace(s, id=s.id + far, verdict="rejected" if s.id == 40 else "accepted") for s in result.segments]
    result = replace(result, ids=ids, segments=tuple(moved))
    files = write_result(result, tmp_path / "out", formats=KINDS)
    for kind in KINDS:
        found = frame_points(files[kind][0])
        wanted = {2: "tumour {}", 5: "fat", 41: "tumour {}"}
        assert found == {t.format(i + far): world_points(ids == i + far, affine) for i, t in wanted.items()}
    everything = tuple(replace(s, verdict="rejected") for s in moved if s.class_id == 1)
    none = replace(result, ids=np.where(ids == 5 + far, 0, ids), segments=everything)
    seg = hd.seg.segread(write_result(none, tmp_path / "none", formats=("dicom-seg",))["dicom-seg"][0])
    assert [d.SegmentLabel for d in seg.SegmentSequence] == ["tumour (none found)"]


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
    model = next(e for e in seg.ContributingEquipmentSequence if e.Manufacturer == "medpanoptic")
    assert (model.ManufacturerModelName, model.DeviceSerialNumber) == ("sarcoma", "ab" * 32)
    assert (seg.Manufacturer, seg.SoftwareVersions, seg.DeviceSerialNumber) == ("medpanoptic", "0.1.0", "ab" * 32)
    assert fat.SegmentedPropertyTypeCodeSequence[0].CodeValue == "55603005"
    referenced = {i.ReferencedSOPInstanceUID for i in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced == set(source.sop_uids)
    assert (seg.StudyInstanceUID, seg.FrameOfReferenceUID) == ("1.2.3", "1.2.3.5")
    assert (seg.PatientName, seg.PatientSex, seg.ContentDate) == ("Secret^Person", "O", "20200102")


def test_a_signed_review_names_its_reader(tmp_path):
    source = write_series(tmp_path / "in", GRIDS["axial"])
    made = Provenance(parameters={"reader": "Röntgen^W=C\\", "review_version": 1})
    result = result_on(GRIDS["axial"], source, provenance=made)
    seg = pydicom.dcmread(write_result(result, tmp_path / "out", formats=("dicom-seg",))["dicom-seg"][0])
    assert seg.ContentCreatorName == "Röntgen^WC"


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
    write_result(result, tmp_path / "c", formats=("dicom-seg",))
    write_result(back, tmp_path / "b", formats=("dicom-seg",), volume=volume_of(result))
    assert (tmp_path / "b" / "seg.dcm").read_bytes() == (tmp_path / "c" / "seg.dcm").read_bytes()


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
