"""What the DICOM reader refuses, repairs and reports, each on a series that a few lines of code spoil."""

from __future__ import annotations

import logging
import os
import zlib

import numpy as np
import pytest
from builders import PATIENT_NAME, axial_affine, phantom, write_enhanced, write_series
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from medpanoptic.errors import GeometryError, ReadError, SelectionError
from medpanoptic.io.read import find_series, read_volume


def _shift(index, dataset, axis, mm):
    position = [float(v) for v in dataset.ImagePositionPatient]
    position[axis] += mm
    dataset.ImagePositionPatient = position


def _set(**elements):
    """Return an edit that sets elements in slice 2 only; None deletes."""

    def edit(index, dataset):
        for keyword, value in elements.items() if index == 2 else ():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    return edit


REFUSED = {
    "GEO-POSITION": _set(ImagePositionPatient=None),
    "GEO-ORIENTATION": _set(ImageOrientationPatient=[0, 0, 0, 0, 0, 0]),
    "GEO-PIXEL-SPACING": _set(PixelSpacing=[0, 1]),
    "GEO-SPACING": lambda i, d: _shift(i, d, 2, 0.6 if i == 2 else 0),
    "MIX-ORIENTATION": _set(ImageOrientationPatient=[0.9962, 0.0872, 0, -0.0872, 0.9962, 0]),
    "MIX-SPACING": _set(PixelSpacing=[1.5, 1.3]),
    "MIX-FRAME": _set(FrameOfReferenceUID="1.2.3"),
    "MIX-MODALITY": _set(SOPClassUID="1.2.840.10008.5.1.4.1.1.4"),
    "GEO-TILT": lambda i, d: _shift(i, d, 1, 4.0 * i),
    "NO-RESCALE": _set(RescaleIntercept=None),
    "RESCALE-SLOPE": _set(RescaleSlope=0),
    "CT-UNIT": _set(RescaleType="MGML"),
    "PIXELS-TRUNCATED": _set(PixelData=b"\0\0"),
    "NOT-GRAY": _set(PhotometricInterpretation=None),
}


@pytest.mark.parametrize("code", REFUSED)
def test_refused_by_name_and_said_the_same_by_find_series(tmp_path, code):
    # large rows, so that a missing slice's pixels exceed the header
    write_series(tmp_path, phantom((5, 40, 50)), axial_affine(), edit=REFUSED[code])
    with pytest.raises(ReadError) as caught:
        read_volume(tmp_path)
    assert caught.value.code == code
    assert PATIENT_NAME not in str(caught.value)
    (verdict,) = find_series(tmp_path).series
    assert verdict.code == code
    assert verdict.reason in str(caught.value)


def test_missing_slice_is_a_gap(tmp_path):
    write_series(tmp_path, phantom(), axial_affine())
    (tmp_path / "one_002.dcm").unlink()
    with pytest.raises(GeometryError, match="missing") as caught:
        read_volume(tmp_path)
    assert caught.value.code == "GEO-GAP"


def test_missing_end_slice_moves_the_origin(tmp_path):
    write_series(tmp_path, phantom(), axial_affine())
    (tmp_path / "one_000.dcm").unlink()
    volume = read_volume(tmp_path)
    assert volume.shape == (4, 6, 7)
    assert volume.affine[2, 3] == pytest.approx(-30 + 2.5)


def test_noise_below_the_tolerance_is_accepted(tmp_path):
    write_series(tmp_path, phantom(), axial_affine(), edit=lambda i, d: _shift(i, d, 2, 0.009 * (-1) ** i))
    assert read_volume(tmp_path).spacing[0] == pytest.approx(2.5, abs=1e-3)


def test_slow_drift_of_the_spacing_is_refused(tmp_path):
    # each gap is within 1 % of the median, together they leave the line by more than a tenth of a slice
    affine = axial_affine()
    write_series(tmp_path, phantom((60, 2, 2)), affine, edit=lambda i, d: _shift(i, d, 2, 0.02 * max(0, i - 30)))
    with pytest.raises(GeometryError) as caught:
        read_volume(tmp_path)
    assert caught.value.code == "GEO-SPACING"


def test_sizes_that_differ(tmp_path):
    write_series(tmp_path, phantom((2, 6, 7)), axial_affine())
    other = axial_affine()
    other[2, 3] += 5
    write_series(tmp_path / "b", phantom((2, 4, 5)), other)
    with pytest.raises(GeometryError, match="4 x 5, 6 x 7") as caught:
        read_volume(tmp_path)
    assert caught.value.code == "MIX-SIZE"


def test_tilt_keeps_the_sheared_affine_and_says_so(tmp_path):
    affine = axial_affine()
    affine[1, 0] = 0.7
    volume = read_volume(write_series(tmp_path, phantom(), affine))
    assert np.allclose(volume.affine, affine)
    assert any("tilt of 15.6 degrees" in note for note in volume.notes)


def test_tilt_tag_alone_shears_nothing(tmp_path):
    volume = read_volume(
        write_series(tmp_path, phantom(), axial_affine(), edit=lambda i, d: setattr(d, "GantryDetectorTilt", 15))
    )
    assert np.allclose(volume.affine, axial_affine())
    assert volume.notes == ()


def test_duplicates_are_removed_and_reported(tmp_path):
    write_series(tmp_path / "a", phantom(), axial_affine())
    write_series(tmp_path / "copy", phantom(), axial_affine())
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array[0], phantom())
    assert "removed 5 duplicate slice(s)" in volume.notes


def test_same_position_with_other_pixels_is_refused(tmp_path):
    write_series(tmp_path / "a", phantom(), axial_affine())
    write_series(tmp_path / "b", phantom() + 1, axial_affine())
    with pytest.raises(GeometryError, match="same position") as caught:
        read_volume(tmp_path)
    assert caught.value.code == "DUP-POSITION"


def test_two_series_need_a_choice(tmp_path):
    write_series(tmp_path, phantom(), axial_affine(), series="soft")
    write_series(tmp_path, phantom() + 100, axial_affine(), series="sharp")
    with pytest.raises(SelectionError) as caught:
        read_volume(tmp_path)
    assert caught.value.code == "SERIES-AMBIGUOUS"
    handles = [s.handle for s in find_series(tmp_path).series]
    assert all(handle in str(caught.value) for handle in handles)
    values = {int(read_volume(tmp_path, series=handle).array.min()) for handle in handles}
    assert values == {0, 100}
    with pytest.raises(SelectionError) as caught:
        read_volume(tmp_path, series="00000000")
    assert caught.value.code == "NO-SERIES"


def test_report_names_every_skipped_file(tmp_path):
    write_series(tmp_path, phantom(), axial_affine())
    write_series(
        tmp_path,
        phantom()[:1],
        axial_affine(),
        series="scout",
        edit=lambda i, d: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    )
    write_series(tmp_path, phantom()[:1], axial_affine(), series="us", edit=_sop_class(UltrasoundImageStorage))
    write_series(tmp_path, phantom()[:1], axial_affine(), series="sc", edit=_sop_class(SecondaryCaptureImageStorage))
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "DICOMDIR").write_bytes(b"x")
    (tmp_path / "tiny.dcm").write_bytes(b"\0" * 128 + b"DICM")
    report = find_series(tmp_path)
    reasons = {s.name: s.reason for s in report.skipped}
    assert "localizer" in reasons["scout_000.dcm"]
    assert "Ultrasound" in reasons["us_000.dcm"]
    assert "Secondary Capture" in reasons["sc_000.dcm"]
    assert "not DICOM" in reasons["notes.txt"]
    assert "DICOMDIR" in reasons["DICOMDIR"]
    assert "tiny.dcm" in reasons
    assert [s.code for s in report.series] == ["OK"]
    assert report.series[0].shape == (5, 6, 7)
    assert report.series[0].spacing == pytest.approx((2.5, 1.5, 1.25))
    assert "skipped 6 file(s)" in read_volume(tmp_path).notes[0]


def _sop_class(uid):
    return lambda index, dataset: setattr(dataset, "SOPClassUID", uid)


def test_cut_header_of_one_slice_is_not_ignored(tmp_path):
    write_series(tmp_path, phantom((5, 40, 50)), axial_affine())
    # the last slice: without this check the series would read as a shorter one
    whole = (tmp_path / "one_004.dcm").read_bytes()
    (tmp_path / "one_004.dcm").write_bytes(whole[:700])
    with pytest.raises(ReadError) as caught:
        read_volume(tmp_path)
    assert caught.value.code == "DICOM-DAMAGED"


def test_rescale_per_slice_padding_and_monochrome1(tmp_path):
    def edit(index, dataset):
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + index, -10 * index
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.PixelPaddingValue = 3

    volume = read_volume(write_series(tmp_path, phantom(), axial_affine(), edit=edit))
    steps = np.arange(5)[:, None, None]
    expected = phantom() * (1.0 + steps) - 10.0 * steps
    expected[phantom() == 3] = -1024
    assert volume.array.dtype == np.float32
    assert np.allclose(volume.array[0], expected)
    assert "1 voxels carry PixelPaddingValue and count as air" in volume.notes


def test_unused_high_bits_are_cleared_with_the_sign_kept(tmp_path):
    array = np.array([[[-5, 7], [100, -2048]]], np.int16)
    # 12 bits stored, an overlay in bit 15
    stored = ((array.astype(np.int32) & 0x0FFF) | 0x8000).astype(np.uint16).view(np.int16)

    def edit(index, dataset):
        dataset.BitsStored, dataset.HighBit = 12, 11

    volume = read_volume(write_series(tmp_path, stored, axial_affine(), edit=edit))
    assert np.array_equal(volume.array[0], array)


def test_mr_without_rescale_keeps_its_integers(tmp_path):
    volume = read_volume(write_series(tmp_path, phantom(), axial_affine(), "MR"))
    assert volume.array.dtype == np.int16
    assert volume.channels[0].modality == "MR"


def test_compressed_pixels_are_equal(tmp_path):
    write_series(tmp_path, phantom(), axial_affine())
    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    assert np.array_equal(read_volume(tmp_path).array[0], phantom())


def test_single_slice_takes_its_depth_from_the_thickness(tmp_path):
    write_series(tmp_path, phantom()[:1], axial_affine())
    volume = read_volume(tmp_path / "one_000.dcm")
    assert volume.shape == (1, 6, 7)
    assert "single slice" in volume.notes[0]
    write_series(tmp_path, phantom()[:1], axial_affine(), edit=lambda i, d: delattr(d, "SliceThickness"))
    with pytest.raises(GeometryError, match="single slice"):
        read_volume(tmp_path)


def test_enhanced_frame_without_position_is_refused(tmp_path):
    def edit(index, group):
        if index == 3:
            del group.PlanePositionSequence

    with pytest.raises(GeometryError) as caught:
        read_volume(write_enhanced(tmp_path / "e.dcm", phantom(), axial_affine(), edit=edit))
    assert caught.value.code == "GEO-POSITION"


def test_huge_header_is_refused_before_anything_is_allocated(tmp_path):
    def edit(index, dataset):
        dataset.Rows = dataset.Columns = 65535
        dataset.NumberOfFrames = 20000

    with pytest.raises(ReadError) as caught:
        read_volume(write_series(tmp_path, phantom()[:1], axial_affine(), edit=edit))
    assert caught.value.code == "READ-TOO-LARGE"


def test_links_out_of_the_folder_are_not_read(tmp_path):
    write_series(tmp_path / "outside", phantom() + 1, axial_affine(), series="secret")
    inside = write_series(tmp_path / "inside", phantom(), axial_affine())
    try:
        os.symlink(tmp_path / "outside", inside / "folder")
        os.symlink(tmp_path / "outside" / "secret_000.dcm", inside / "file.dcm")
    except OSError:
        pytest.skip("this system does not allow symbolic links")
    report = find_series(inside)
    assert len(report.series) == 1
    assert {s.name for s in report.skipped} == {"folder", "file.dcm"}


def test_nothing_there():
    with pytest.raises(ReadError) as caught:
        read_volume("no/such/folder")
    assert caught.value.code == "NOT-FOUND"


def test_no_patient_data_in_errors_warnings_reports_or_logs(tmp_path, caplog, recwarn):
    with caplog.at_level(logging.DEBUG):
        write_series(tmp_path, phantom(), axial_affine())
        raw = (tmp_path / "one_001.dcm").read_bytes()
        # a garbled number in place of the position, of the same length
        (tmp_path / "one_001.dcm").write_bytes(raw.replace(b"-10.0\\20.0\\-27.5", b"Secret\\Patie-27."))
        caplog.clear()
        report = find_series(tmp_path)
        with pytest.raises(ReadError) as caught:
            read_volume(tmp_path)
    assert report.series[0].code != "OK"
    said = repr(report) + str(caught.value) + caplog.text + "".join(str(w.message) for w in recwarn)
    assert "Secret" not in said
    uids = [dcmread(path).SeriesInstanceUID for path in tmp_path.glob("*0.dcm")]
    assert not any(uid in said for uid in uids)


def test_slices_of_two_patients_are_refused(tmp_path):
    write_series(tmp_path, phantom(), axial_affine(), edit=_set(PatientID="ID-4712"))
    with pytest.raises(GeometryError) as caught:
        read_volume(tmp_path)
    assert caught.value.code == "MIX-STUDY"


def test_colour_captures_inside_a_series_are_skipped(tmp_path):
    def colour(index, dataset):
        dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "RGB", 3

    write_series(tmp_path / "a", phantom(), axial_affine())
    write_series(tmp_path / "b", phantom()[:1], axial_affine(), edit=colour)
    volume = read_volume(tmp_path)
    assert volume.shape == (5, 6, 7)
    assert "in colour" in volume.notes[0]


def test_more_pixels_than_frames_are_not_dropped_in_silence(tmp_path):
    two = phantom((2, 6, 7)).tobytes()
    write_series(tmp_path, phantom(), axial_affine(), edit=_set(PixelData=two))
    with pytest.raises(ReadError) as caught:
        read_volume(tmp_path)
    assert caught.value.code == "PIXELS-UNREADABLE"


def test_jpeg_stream_that_is_cut_off_is_refused(tmp_path, shared_data):
    # decoders of JPEG and JPEG-LS fill the rest with made-up values and raise nothing
    for syntax in ("jpeg", "jpegls"):
        for path in shared_data(f"data/dicom/mr_compressed_{syntax}").iterdir():
            dataset = dcmread(path)
            stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
            dataset.PixelData = encapsulate([stream[: len(stream) // 4 * 2]])
            dataset.save_as(tmp_path / path.name)
        with pytest.raises(ReadError) as caught:
            read_volume(tmp_path)
        assert caught.value.code == "PIXELS-UNREADABLE"


def test_deflate_bomb_is_not_unpacked(tmp_path):
    write_series(tmp_path, phantom()[:1], axial_affine())
    path = tmp_path / "one_000.dcm"
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    whole = path.read_bytes()
    start = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = b"".join(packer.compress(b"\0" * 2**20) for _ in range(200)) + packer.flush()
    assert read_volume(tmp_path).shape == (1, 6, 7)
    path.write_bytes(whole[:start] + packed)
    assert "unpacks to more than the limit" in find_series(tmp_path).skipped[0].reason


@pytest.mark.filterwarnings("error")
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_is_an_error_of_ours_or_a_volume(tmp_path_factory, data):
    folder = write_series(tmp_path_factory.mktemp("ct"), phantom((3, 6, 7)), axial_affine())
    path = folder / "one_001.dcm"
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.sampled_from([len(raw), 1000, 600, 200]))])
    try:
        said = repr(read_volume(folder).notes)
    except ReadError as error:
        said = str(error)
    assert "Secret" not in said + repr(find_series(folder))
