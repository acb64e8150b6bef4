"""RT Structure Sets: every voxel comes back, other programs fill the contours alike, foreign ones read right."""

import json
import pathlib

import numpy as np
import pydicom
import pytest
from builders import axial_affine, write_series
from dicom_cases import (
    CLASSES,
    SHAPE,
    bright_lesions,
    case_on,
    dicom_case,
    enhanced_case,
    errors_of_dciodvfy,
    lesion_ids,
    nothing,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from medpanoptic.errors import GeometryError, ReadError, WriteError
from medpanoptic.geometry import to_index, to_world
from medpanoptic.io.outline import fill
from medpanoptic.io.read import read_volume
from medpanoptic.io.result_reader import read_result
from medpanoptic.io.rtstruct import keyholed, write_rtstruct
from medpanoptic.io.rtstruct_read import read_rtstruct
from medpanoptic.io.write import write_result
from medpanoptic.result import Segment
from medpanoptic.volume import Volume


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return dicom_case(tmp_path_factory.mktemp("ct") / "in")


def write(case, folder):
    folder.mkdir(exist_ok=True)
    return write_rtstruct(case[0], folder, case[1])[0]


def turned(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(4)
    turn[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return turn @ axial_affine()


def tilted():
    affine = axial_affine()
    affine[1, 0] = 0.8
    return affine


GRIDS = {"axial": axial_affine(), "oblique": turned(25), "tilted": tilted()}


# ---- our own


@pytest.mark.parametrize("grid", GRIDS)
def test_every_voxel_and_every_fact_comes_back(grid, tmp_path):
    result, volume = dicom_case(tmp_path / "in", affine=GRIDS[grid])
    back = read_result(write((result, volume), tmp_path), image=volume)
    np.testing.assert_array_equal(back.ids, result.ids)
    first, second, fat = sorted(back.segments, key=lambda s: s.id)
    assert (first.id, first.class_id, first.score, first.origin) == (5, 1, 0.875, "predicted")
    assert first.tracking_uid.startswith("2.25.")
    assert second == Segment(6, 1, 0.5, "added", "unread", "2.25.77")
    assert (fat.id, fat.class_id, fat.tracking_uid) == (9, 3, "")
    assert back.classes == CLASSES
    assert (back.provenance.bundle, back.provenance.weights_sha256) == ("sarcoma", "ab" * 32)
    assert back.source == volume.source


def test_it_lies_on_the_frames_of_a_multi_frame_object(tmp_path):
    result, volume = enhanced_case(tmp_path / "in")
    path = write((result, volume), tmp_path)
    np.testing.assert_array_equal(read_rtstruct(path, volume).ids, result.ids)
    for item in pydicom.dcmread(path).ROIContourSequence[0].ContourSequence:
        k = round(to_index([item.ContourData[:3]], result.affine)[0, 0])
        assert item.ContourImageSequence[0].ReferencedFrameNumber == k + 1


def test_contours_name_the_slice_they_lie_on(ct, tmp_path):
    result, _ = ct
    stored = pydicom.dcmread(write(ct, tmp_path))
    for outline in stored.ROIContourSequence:
        for item in outline.get("ContourSequence", ()):
            assert len(item.ContourData) == 3 * item.NumberOfContourPoints
            places = to_index(np.array(item.ContourData, float).reshape(-1, 3), result.affine)
            assert np.ptp(places[:, 0]) < 1e-3
            named = item.ContourImageSequence[0].ReferencedSOPInstanceUID
            assert named == result.source.sop_uids[round(places[0, 0])]


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.booleans()))
def test_any_mask_comes_back_from_its_contours(mask):
    loops = list(keyholed(mask))
    np.testing.assert_array_equal(fill(loops, mask.shape), mask)
    # one closed outline per part, whatever holes it has
    assert len(loops) == ndimage.label(mask, np.ones((3, 3)))[1]
    # nowhere near a centre, so that rounding and the rules of other programs make no difference
    centres = np.argwhere(np.ones_like(mask))
    for loop in loops:
        for a, b in zip(loop, np.roll(loop, -1, axis=0), strict=True):
            along = b - a
            t = np.clip((centres - a) @ along / max(1e-9, along @ along), 0, 1)
            assert np.linalg.norm(a + t[:, None] * along - centres, axis=1).min() > 0.35


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(bool, (11, 12), elements=st.booleans(), fill=st.just(True)))
def test_other_programs_fill_the_contours_to_the_same_mask(mask):
    """By skimage and by matplotlib, each with its own rule; every keyholed outline alone, united."""
    measure = pytest.importorskip("skimage.measure")
    path = pytest.importorskip("matplotlib.path")
    index = np.argwhere(np.ones_like(mask)).astype(float)
    by_skimage, by_matplotlib = np.zeros(mask.shape, bool), np.zeros(mask.shape, bool)
    for loop in keyholed(mask):
        by_skimage |= measure.grid_points_in_poly(mask.shape, loop)
        closed = path.Path(np.vstack([loop, loop[:1]]))
        # a winding rule: the keyhole makes it agree with even-odd
        by_matplotlib |= closed.contains_points(index).reshape(mask.shape)
    np.testing.assert_array_equal(by_skimage, mask)
    np.testing.assert_array_equal(by_matplotlib, mask)


def test_names_tracking_and_volume_are_there_and_no_patient(ct, tmp_path):
    result, _ = ct
    path = write(ct, tmp_path)
    stored = pydicom.dcmread(path)
    rois = {r.ROIName: r for r in stored.StructureSetROISequence}
    assert list(rois) == ["tumour 5", "tumour 6", "fat", "node (none found)"]
    assert json.loads(rois["tumour 6"].ROIDescription)["tracking_uid"] == "2.25.77"
    assert float(rois["tumour 5"].ROIVolume) == pytest.approx(result.sizes[5] * result.voxel_size / 1000, rel=1e-5)
    assert rois["tumour 6"].ROIGenerationAlgorithm == "MANUAL"
    assert "ContourSequence" not in stored.ROIContourSequence[3]
    (frame,) = stored.ReferencedFrameOfReferenceSequence
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == result.source.series_uid
    assert [i.ReferencedSOPInstanceUID for i in series.ContourImageSequence] == list(result.source.sop_uids)
    assert frame.FrameOfReferenceUID == result.source.frame_of_reference_uid
    free = " ".join(f"{r.ROIName} {r.ROIDescription}" for r in stored.StructureSetROISequence)
    assert "Secret" not in free
    assert "4711" not in free


def test_rejected_things_are_not_planned_on(ct, tmp_path):
    _, volume = ct
    case = case_on(volume, segments=(Segment(9, 3), Segment(5, 1, verdict="rejected"), Segment(6, 1)))
    back = read_rtstruct(write(case, tmp_path), volume)
    np.testing.assert_array_equal(back.ids, np.where(lesion_ids() == 5, 0, lesion_ids()))


@pytest.mark.parametrize("kind", ["plain", "enhanced", "empty"])
def test_dciodvfy_finds_no_error(kind, ct, tmp_path):
    case = {"plain": lambda: ct, "enhanced": lambda: enhanced_case(tmp_path / "in")}.get(
        kind, lambda: case_on(ct[1], **nothing())
    )()
    assert not errors_of_dciodvfy(write(case, tmp_path))


def test_nothing_found_comes_back_as_nothing(ct, tmp_path):
    path = write(case_on(ct[1], **nothing()), tmp_path)
    names = [r.ROIName for r in pydicom.dcmread(path).StructureSetROISequence]
    assert names == ["tumour (none found)", "node (none found)"]
    back = read_rtstruct(path, ct[1])
    assert back.segments == ()
    assert [c.name for c in back.classes] == ["tumour", "node"]


def test_a_rerun_makes_the_same_bytes_and_other_voxels_another_uid(ct, tmp_path):
    a, b = write(ct, tmp_path / "a"), write(ct, tmp_path / "b")
    assert a.read_bytes() == b.read_bytes()
    ids = lesion_ids()
    ids[4, 14, 22] = 5
    c = write(case_on(ct[1], ids=ids), tmp_path / "c")
    assert pydicom.dcmread(a).SOPInstanceUID != pydicom.dcmread(c).SOPInstanceUID


def test_it_is_a_format_and_needs_a_dicom_source(ct, tmp_path):
    result, volume = ct
    files = write_result(result, tmp_path / "out", formats=("rtstruct",), volume=volume)
    assert files["rtstruct"] == [tmp_path / "out" / "rtstruct.dcm"]
    bare = Volume(volume.array, volume.affine, volume.channels)
    with pytest.raises(WriteError, match="FORMAT-NEEDS-DICOM"):
        write_result(case_on(bare)[0], tmp_path / "b", formats=("rtstruct",), volume=bare)


# ---- others'


def foreign(case, folder, edit):
    """Write ours and make it someone else's: no JSON, another maker."""
    path = write(case, folder)
    dataset = pydicom.dcmread(path)
    dataset.Manufacturer = "Other"
    for roi in dataset.StructureSetROISequence:
        roi.ROIDescription = ""
    edit(dataset)
    dataset.save_as(path)
    return path


def square(k, low, high, affine):
    corners = [(k, low, low), (k, low, high), (k, high, high), (k, high, low)]
    return [f"{v:.4f}" for v in to_world(corners, affine).ravel()]


def set_contours(dataset, *rois, kind="CLOSED_PLANAR"):
    for outline, data in zip(dataset.ROIContourSequence, rois, strict=False):
        items = []
        for points in data:
            item = pydicom.Dataset()
            item.ContourGeometricType, item.NumberOfContourPoints, item.ContourData = kind, len(points) // 3, points
            items.append(item)
        outline.ContourSequence = items
    for outline in dataset.ROIContourSequence[len(rois) :]:
        outline.ContourSequence = []


def test_an_roi_is_a_thing_called_by_its_code_or_type(ct, tmp_path):
    def edit(dataset):
        dataset.RTROIObservationsSequence[0].RTROIInterpretedType = "GTV"
        dataset.StructureSetROISequence[0].ROIName = "Secret Patient"
        for observation in dataset.RTROIObservationsSequence:
            del observation.RTROIIdentificationCodeSequence
        dataset.RTROIObservationsSequence[2].RTROIInterpretedType = "SECRET"

    path = foreign(ct, tmp_path, edit)
    back = read_rtstruct(path, ct[1])
    assert [c.name for c in back.classes] == ["GTV", "region"]
    assert [(s.id, s.class_id) for s in back.segments] == [(1, 1), (2, 2), (3, 2)]
    np.testing.assert_array_equal(back.ids > 0, lesion_ids() > 0)
    named = read_rtstruct(path, ct[1], keep_names=True)
    assert [c.name for c in named.classes] == ["Secret Patient", "tumour 6", "fat", "node (none found)"]


def test_a_hole_may_be_a_contour_of_its_own(ct, tmp_path):
    affine = ct[1].affine
    path = foreign(
        ct, tmp_path, lambda d: set_contours(d, [square(2, 9.5, 19.5, affine), square(2, 12.5, 15.5, affine)])
    )
    mask = np.zeros(SHAPE, bool)
    mask[2, 10:20, 10:20] = True
    mask[2, 13:16, 13:16] = False
    np.testing.assert_array_equal(read_rtstruct(path, ct[1]).ids > 0, mask)


def test_contours_through_voxel_centres_are_not_ragged(ct, tmp_path):
    """Many programs run contours through centres; in decimals they fall a little to either side."""
    oblique, volume = dicom_case(tmp_path / "in", affine=GRIDS["oblique"])
    path = foreign((oblique, volume), tmp_path, lambda d: set_contours(d, [square(3, 10, 20, volume.affine)]))
    mask = np.zeros(SHAPE, bool)
    mask[3, 10:20, 10:20] = True
    np.testing.assert_array_equal(read_rtstruct(path, volume).ids > 0, mask)


def test_overlap_is_refused_or_decided(ct, tmp_path):
    affine = ct[1].affine
    path = foreign(
        ct, tmp_path, lambda d: set_contours(d, [square(2, 9.5, 19.5, affine)], [square(2, 14.5, 24.5, affine)])
    )
    with pytest.raises(ReadError, match="SEG-OVERLAP"):
        read_rtstruct(path, ct[1])
    for overlap, sizes in (("first", {1: 100, 2: 75}), ("last", {1: 75, 2: 100})):
        assert read_rtstruct(path, ct[1], overlap=overlap).sizes == sizes


def test_points_and_places_outside_are_noted(ct, tmp_path):
    affine = ct[1].affine
    path = foreign(
        ct, tmp_path, lambda d: set_contours(d, [square(2, 5.5, 9.5, affine), square(40, 5.5, 9.5, affine), ["1"] * 3])
    )
    notes = read_rtstruct(path, ct[1]).provenance.parameters["notes"]
    assert any("1 contour(s) that enclose nothing" in n for n in notes)
    assert any("1 contour(s) lie above or below" in n for n in notes)


def test_a_contour_may_reach_out_of_the_image(ct, tmp_path):
    path = foreign(ct, tmp_path, lambda d: set_contours(d, [square(2, -30.5, 4.5, ct[1].affine)]))
    mask = np.zeros(SHAPE, bool)
    mask[2, :5, :5] = True
    np.testing.assert_array_equal(read_rtstruct(path, ct[1]).ids > 0, mask)


def test_what_cannot_be_read_is_refused_by_name(ct, tmp_path):
    path = write(ct, tmp_path)
    with pytest.raises(ReadError, match="RTSTRUCT-IMAGE"):
        read_result(path)
    other = read_volume(
        write_series(tmp_path / "other", bright_lesions(), axial_affine(), series="two", frame_uid="1.2.3")
    )
    with pytest.raises(GeometryError, match="MIX-FRAME"):
        read_rtstruct(path, other)
    with pytest.raises(ReadError, match="RESULT-UNKNOWN"):
        read_rtstruct(ct[0].source.paths[0], ct[1])
    affine = ct[1].affine
    between = foreign(ct, tmp_path / "b", lambda d: set_contours(d, [square(2.5, 5, 9, affine)]))
    with pytest.raises(GeometryError, match=r"RTSTRUCT-PLANE.*region 1"):
        read_rtstruct(between, ct[1])
    for spoil in (
        lambda d: setattr(d.ROIContourSequence[0].ContourSequence[0], "ContourData", ["1", "2"]),
        lambda d: delattr(d, "StructureSetROISequence"),
        lambda d: delattr(d.StructureSetROISequence[0], "ROINumber"),
    ):
        with pytest.raises(ReadError, match="RTSTRUCT-DAMAGED") as caught:
            read_rtstruct(foreign(ct, tmp_path / "c", spoil), ct[1])
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("case", ["STS_003", "STS_019", "STS_024"])
def test_a_clinical_tumour_lies_where_the_data_set_says(case, shared_data):
    """The same contours, made a label map on their grid by someone else."""
    image = read_volume(shared_data(f"data/radiology/sts/{case}_inst.nii.gz"))
    path = shared_data(f"data/dicom/studies/{case}/CT/mask/RS.dcm")
    ours, theirs = read_rtstruct(pathlib.Path(path), image).ids > 0, image.array[0] > 0
    assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.975


def test_each_series_of_a_study_holds_its_tumour(shared_data):
    volumes = []
    for channel in ("CT", "MR_T1", "PET"):
        folder = shared_data(f"data/dicom/studies/STS_019/{channel}")
        image = read_volume(folder / "image")
        result = read_result(folder / "mask" / "RS.dcm", image=image)
        assert [c.name for c in result.classes] == ["GTV"]
        volumes.append((result.ids > 0).sum() * result.voxel_size / 1000)
    assert volumes == pytest.approx([17.4] * 3, rel=0.02)
