"""Key images: the right slice, outlines and axes where the lesion is, valid captures that name their source."""

import re

import numpy as np
import pydicom
import pytest
import SimpleITK
from builders import PATIENT_NAME, axial_affine
from dicom_cases import case_on, dicom_case, enhanced_case, errors_of_dciodvfy, nothing

from medpanoptic.errors import WriteError
from medpanoptic.io import dicom_sc, key_images
from medpanoptic.io.dicom_sc import write_dicom_sc
from medpanoptic.io.key_images import lesion_image, side_letters
from medpanoptic.io.write import write_result
from medpanoptic.measure import measure
from medpanoptic.result import Segment
from medpanoptic.volume import Channel, Volume

YELLOW, CYAN = (255, 230, 0), (0, 230, 255)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return dicom_case(tmp_path_factory.mktemp("ct") / "in")


@pytest.fixture(scope="module")
def captures(ct, tmp_path_factory):
    return write(ct, tmp_path_factory.mktemp("out"))


def write(case, folder):
    folder.mkdir(exist_ok=True)
    return write_dicom_sc(case[0], folder, case[1])


def has_color(picture, color):
    return np.all(picture == np.array(color, np.uint8), axis=-1)


def text_of(paths):
    return [pydicom.dcmread(p).ImageComments.split(";")[0] for p in paths]


def test_one_overview_and_one_capture_of_each_lesion(captures):
    assert [p.name for p in captures] == ["000_overview.dcm", "001_segment_5.dcm", "002_segment_6.dcm"]
    assert text_of(captures) == ["Overview", "tumour 5", "tumour 6"]
    stored = [pydicom.dcmread(p) for p in captures]
    assert len({d.SeriesInstanceUID for d in stored}) == 1
    assert len({d.SOPInstanceUID for d in stored}) == 3
    assert [d.InstanceNumber for d in stored] == [1, 2, 3]
    for d in stored:
        assert (d.SOPClassUID, d.Modality, d.ConversionType) == ("1.2.840.10008.5.1.4.1.1.7", "OT", "WSD")
        assert (d.BurnedInAnnotation, d.PhotometricInterpretation) == ("NO", "RGB")
        assert str(d.PatientName) == PATIENT_NAME
        assert "research use only" in d.SeriesDescription
        assert d.ImageType[0] == "DERIVED"
        assert d.pixel_array.shape == (d.Rows, d.Columns, 3)
        # sizes of panels differ from the source: nothing that a viewer could take for a scale
        assert "PixelSpacing" not in d


def test_a_capture_points_at_the_slice_of_the_long_axis(ct, captures):
    result, volume = ct
    for path, measures in zip(captures[1:], measure(result, volume), strict=True):
        stored = pydicom.dcmread(path)
        (item,) = stored.SourceImageSequence
        assert item.ReferencedSOPInstanceUID == result.source.sop_uids[round(measures.long_axis.start[0])]
        assert list(stored.PatientOrientation) == ["L", "P"]
    overview = pydicom.dcmread(captures[0])
    assert [i.ReferencedSOPInstanceUID for i in overview.SourceImageSequence] == list(result.source.sop_uids)
    assert not overview.PatientOrientation


def test_another_reader_sees_the_picture_as_it_was_drawn(ct, captures):
    result, volume = ct
    drawn = lesion_image(result, volume, result.segments[1], measure(result, volume)[0], "")
    seen = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(captures[1])))[0]
    assert seen.shape[2] == 3
    # the line of text at the bottom differs
    assert np.array_equal(seen[:400, : drawn.shape[1]], drawn[:400])


def test_the_axes_are_drawn_where_they_were_measured(ct):
    result, volume = ct
    measures = measure(result, volume)[0]
    picture = lesion_image(result, volume, result.segments[1], measures, "slice 1 of 9")
    close = picture[:, -480:]  # the close view is the last panel, 480 pixels on its longer side
    yellow, cyan = np.argwhere(has_color(close, YELLOW)), np.argwhere(has_color(close, CYAN))
    red = np.argwhere(has_color(close, result.segment_color(result.segments[1])))
    # the ellipsoid is 17 columns of 1.25 mm wide: that gives the scale of the view
    scale = np.ptp(red[:, 1]) / (17 * 1.25)
    for line, axis in ((yellow, measures.long_axis), (cyan, measures.short_axis)):
        assert np.hypot(*np.ptp(line, axis=0)) / scale == pytest.approx(axis.length_mm, rel=0.1)
    # both lie inside the outline
    for axis in (yellow, cyan):
        assert (axis.mean(axis=0) >= red.min(axis=0)).all()
        assert (axis.mean(axis=0) <= red.max(axis=0)).all()


def test_an_outline_encloses_the_bright_lesion_and_nothing_else(ct):
    result, volume = ct
    measures = measure(result, volume)[0]
    picture = lesion_image(result, volume, result.segments[1], measures, "")
    whole = picture[:480, :360]  # 40 rows of 1.5 mm, 36 columns of 1.25 mm
    red = np.argwhere(has_color(whole, result.segment_color(result.segments[1])))
    rows, columns = red[:, 0] / 12.0 - 0.5, red[:, 1] / 10.0 - 0.5
    inside = np.argwhere(result.ids[4] == 5)
    assert rows.min() == pytest.approx(inside[:, 0].min() - 0.5, abs=0.4)
    assert rows.max() == pytest.approx(inside[:, 0].max() + 0.5, abs=0.4)
    assert columns.min() == pytest.approx(inside[:, 1].min() - 0.5, abs=0.4)
    assert columns.max() == pytest.approx(inside[:, 1].max() + 0.5, abs=0.4)


def test_every_channel_has_a_close_view(ct):
    result, volume = ct
    array = np.stack([volume.array[0], np.abs(volume.array[0]) / 50, volume.array[0]])
    channels = (Channel("ct", "CT", "HU"), Channel("pet", "PT", "SUV"), Channel("mr", "MR", present=False))
    study = Volume(array, volume.affine, channels, volume.source)
    one = lesion_image(result, volume, result.segments[1], measure(result, volume)[0], "")
    two = lesion_image(result, study, result.segments[1], measure(result, study)[0], "")
    assert two.shape[1] > one.shape[1] + 400


def test_letters_follow_the_patient():
    assert side_letters(np.array([0.9, 0.1, 0])) == ("R", "L")
    assert side_letters(np.array([0, -1.0, 0.2])) == ("P", "A")
    assert side_letters(np.array([0, 0.1, 1.0])) == ("F", "H")


def test_a_flipped_series_is_labelled_as_it_lies(tmp_path):
    affine = axial_affine()
    affine[:3, 2] *= -1  # rows run to the patient's right
    affine[:3, 0] *= -1
    _, first, _ = write(dicom_case(tmp_path / "in", affine=affine), tmp_path / "out")
    assert list(pydicom.dcmread(first).PatientOrientation) == ["R", "P"]


@pytest.mark.parametrize("kind", ["plain", "enhanced", "empty"])
def test_dciodvfy_finds_no_error(kind, ct, captures, tmp_path):
    if kind == "plain":
        paths = captures
    else:
        case = enhanced_case(tmp_path / "in") if kind == "enhanced" else case_on(ct[1], **nothing())
        paths = write(case, tmp_path / "out")
    for path in paths:
        assert not errors_of_dciodvfy(path)


def test_nothing_found_is_one_overview(ct, tmp_path):
    (path,) = write(case_on(ct[1], **nothing()), tmp_path)
    assert pydicom.dcmread(path).pixel_array.any()


def test_a_frame_of_a_multi_frame_object_is_named_by_its_number(tmp_path):
    case = enhanced_case(tmp_path / "in")
    _, first, _ = write(case, tmp_path / "out")
    (item,) = pydicom.dcmread(first).SourceImageSequence
    assert item.ReferencedFrameNumber == round(measure(*case)[0].long_axis.start[0]) + 1


def test_rejected_lesions_are_not_shown(ct, tmp_path):
    _, volume = ct
    case = case_on(volume, segments=(Segment(9, 3), Segment(5, 1, verdict="rejected"), Segment(6, 1)))
    paths = write(case, tmp_path)
    assert text_of(paths) == ["Overview", "tumour 6"]
    color = case[0].segment_color(case[0].segments[1])
    assert not any(has_color(pydicom.dcmread(p).pixel_array, color).any() for p in paths)


def test_there_is_an_end_to_the_captures(ct, tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_sc, "MOST_LESIONS", 1)
    monkeypatch.setattr(key_images, "_MOST_ROWS", 1)
    assert text_of(write(ct, tmp_path)) == ["Overview", "tumour 5"]


def test_a_rerun_makes_the_same_bytes_and_another_picture_another_uid(ct, captures, tmp_path):
    result, volume = ct
    assert [p.read_bytes() for p in write(ct, tmp_path / "a")] == [p.read_bytes() for p in captures]
    other = Volume(volume.array + 50, volume.affine, volume.channels, volume.source)
    b = write((result, other), tmp_path / "b")
    assert pydicom.dcmread(b[1]).SOPInstanceUID != pydicom.dcmread(captures[1]).SOPInstanceUID


def test_it_is_a_format_and_needs_the_image(ct, tmp_path):
    result, volume = ct
    files = write_result(result, tmp_path / "out", formats=("dicom-sc",), volume=volume)["dicom-sc"]
    assert [p.parent for p in files] == [tmp_path / "out" / "captures"] * 3
    with pytest.raises(WriteError, match="FORMAT-NEEDS-IMAGE"):
        write_result(result, tmp_path / "b", formats=("dicom-sc",))


def test_no_patient_text_reaches_the_drawing(ct, captures, monkeypatch, tmp_path):
    """Collect every string that is drawn: numbers, class and channel names, and nothing of the patient."""
    from PIL import ImageDraw

    drawn = []
    original = ImageDraw.ImageDraw.text

    def spy(self, xy, text, *args, **options):
        drawn.append(text)
        return original(self, xy, text, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    write(ct, tmp_path)
    text = " ".join(drawn)
    assert "tumour 5" in text
    assert "research use only" in text
    header = pydicom.dcmread(ct[0].source.paths[0], stop_before_pixels=True)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "ReferringPhysicianName"):
        for part in re.split(r"[\^ ]", str(header.get(keyword, ""))):
            assert len(part) < 3 or part not in text
