"""Series that only look like one: phases, echoes, projections, patients and corrections that lie between each other."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from builders import add_suv_tags, axial_affine, phantom, write_enhanced, write_series
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from medpanoptic.errors import ReadError
from medpanoptic.io.read import find_series, read_study, read_volume
from medpanoptic.volume import ChannelSpec


def code_of(work, *arguments):
    with pytest.raises(ReadError) as caught:
        work(*arguments)
    return caught.value.code


def every_other(**elements):
    """Set elements in every second slice."""

    def edit(index, dataset):
        for keyword, value in elements.items() if index % 2 else ():
            setattr(dataset, keyword, value)

    return edit


@pytest.mark.parametrize(
    ("modality", "elements"),
    [
        ("CT", {"AcquisitionNumber": 2}),
        ("CT", {"KVP": 80}),
        ("CT", {"ConvolutionKernel": "B70f"}),
        ("CT", {"ImageType": ["DERIVED", "SECONDARY", "AVERAGE"]}),
        ("CT", {"ImageType": ["DERIVED", "SECONDARY", "MIP"]}),
        ("MR", {"EchoTime": 90}),
        ("MR", {"DiffusionBValue": 1000.0}),
        ("MR", {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}),
    ],
)
def test_slices_of_two_kinds_between_each_other(tmp_path, modality, elements):
    """They are evenly spaced, so that nothing but the header tells them apart."""
    write_series(tmp_path / "mixed", phantom((8, 6, 7)), axial_affine(), modality, edit=every_other(**elements))
    assert code_of(read_volume, tmp_path / "mixed") == "MIX-ACQUISITION"
    assert find_series(tmp_path / "mixed").series[0].code == "MIX-ACQUISITION"

    def second_half(index, dataset):
        every_other(**elements)(index >= 4, dataset)

    # one after the other they are one stack, as scanners write tables that move in two steps
    if "MIP" not in str(elements):
        write_series(tmp_path / "blocks", phantom((8, 6, 7)), axial_affine(), modality, edit=second_half)
        assert read_volume(tmp_path / "blocks").shape == (8, 6, 7)


@pytest.mark.parametrize(
    ("sequence", "keyword", "value"),
    [
        ("FrameContentSequence", "TemporalPositionIndex", 2),
        ("MREchoSequence", "EffectiveEchoTime", 90.0),
        ("MRDiffusionSequence", "DiffusionBValue", 1000.0),
        ("MRImageFrameTypeSequence", "FrameType", ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]),
    ],
)
def test_frames_of_two_kinds_between_each_other(tmp_path, sequence, keyword, value):
    def edit(index, group):
        item = Dataset()
        if index % 2:
            setattr(item, keyword, value)
        setattr(group, sequence, [item])

    path = write_enhanced(tmp_path / "e.dcm", phantom((8, 6, 7)), axial_affine(), "MR", edit=edit)
    assert code_of(read_volume, path) == "MIX-ACQUISITION"


def test_a_unit_is_looked_for_in_every_frame(tmp_path):
    def edit(index, group):
        group.PixelValueTransformationSequence[0].RescaleType = "MGML" if index == 3 else "HU"

    assert code_of(read_volume, write_enhanced(tmp_path / "e.dcm", phantom(), axial_affine(), edit=edit)) == "CT-UNIT"


def test_a_projection_among_the_slices_is_no_slice(tmp_path):
    """It would lie where the next slice lies, and be one."""

    def edit(index, dataset):
        if index == 5:
            dataset.ImageType = ["DERIVED", "SECONDARY", "MIP"]

    volume = read_volume(write_series(tmp_path, phantom((6, 6, 7)), axial_affine(), edit=edit))
    assert np.array_equal(volume.array[0], phantom((6, 6, 7))[:5])
    assert volume.notes == ("skipped 1 file(s): 1 CT projection (MIP) among slices",)


def test_a_series_of_thick_projections_is_a_series(tmp_path):
    def edit(index, dataset):
        dataset.ImageType = ["DERIVED", "SECONDARY", "MIP"]

    assert read_volume(write_series(tmp_path, phantom(), axial_affine(), edit=edit)).shape == (5, 6, 7)


def test_patients_without_an_id_are_told_apart_by_name(tmp_path):
    def edit(index, dataset):
        dataset.PatientID, dataset.PatientName = "", "One^A" if index < 3 else "Two^B"

    assert code_of(read_volume, write_series(tmp_path, phantom(), axial_affine(), edit=edit)) == "MIX-STUDY"


def test_two_patients_in_one_folder_make_no_study(tmp_path):
    def other(index, dataset):
        add_suv_tags(index, dataset)
        dataset.PatientID = "ID-4712"

    write_series(tmp_path, phantom(), axial_affine(), "CT", series="ct")
    write_series(tmp_path, phantom(), axial_affine(), "PT", edit=other, series="pet")
    channels = [ChannelSpec("ct", "CT"), ChannelSpec("pet", "PT")]
    assert code_of(read_study, tmp_path, channels) == "MIX-STUDY"
    write_series(tmp_path, phantom(), axial_affine(), "PT", edit=add_suv_tags, series="pet")
    assert read_study(tmp_path, channels).array.shape[0] == 2


@pytest.mark.parametrize("kind", ["half-life", "injection", "corrections"])
def test_pet_slices_of_two_scans(tmp_path, kind):
    def edit(index, dataset):
        add_suv_tags(index, dataset)
        drug = dataset.RadiopharmaceuticalInformationSequence[0]
        if index == 3 and kind == "half-life":
            drug.RadionuclideHalfLife = 6586
        elif index == 3 and kind == "injection":
            drug.RadiopharmaceuticalStartTime = "090000"
        elif index == 3:
            dataset.CorrectedImage = ["DECY"]

    assert code_of(read_volume, write_series(tmp_path, phantom(), axial_affine(), "PT", edit=edit)) == "SUV-UNIT"


@pytest.mark.parametrize("kind", ["zeros", "packed"])
def test_an_end_slice_that_is_blank_or_packed_is_missed(tmp_path, kind):
    """Without it the rest is an even stack, one slice short."""
    last = write_series(tmp_path, phantom((6, 40, 36)), axial_affine()) / "one_005.dcm"
    whole = last.read_bytes()
    if kind == "zeros":
        last.write_bytes(bytes(len(whole)))
    else:
        (tmp_path / "one_005.dcm.gz").write_bytes(gzip.compress(whole))
        last.unlink()
    assert code_of(read_volume, tmp_path) == "DICOM-DAMAGED"
    (report,) = find_series(tmp_path).skipped
    assert ("zeros" if kind == "zeros" else "packed") in report.reason


# ---- values


def test_a_negative_slope_is_refused_where_values_have_a_unit(tmp_path):
    def edit(index, dataset):
        dataset.RescaleSlope, dataset.RescaleIntercept = -1, 0

    ct = write_series(tmp_path / "ct", phantom(), axial_affine(), "CT", edit=edit)
    assert code_of(read_volume, ct) == "RESCALE-SLOPE"
    mr = write_series(tmp_path / "mr", phantom(), axial_affine(), "MR", edit=edit)
    assert np.array_equal(read_volume(mr).array[0], -phantom())


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_lookup_table_is_not_ignored(tmp_path, modality):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [256, 0, 16], "HU", bytes(512)

    def edit(index, dataset):
        dataset.ModalityLUTSequence = [table]

    folder = write_series(tmp_path, phantom(), axial_affine(), modality, edit=edit)
    assert code_of(read_volume, folder) == "RESCALE-LUT"


@pytest.mark.parametrize(
    "elements",
    [
        {"BitsStored": 8, "HighBit": 7},  # the values need 9
        {"BitsStored": 12, "HighBit": 15},  # values at the upper end, as old files have them
        {"BitsAllocated": 12},  # packed
        {"BitsStored": 17},
    ],
)
def test_bits_that_the_values_do_not_fit_into(tmp_path, elements):
    values = (np.indices((5, 6, 7)).sum(axis=0) * 40).astype(np.int16)

    def edit(index, dataset):
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        if elements.get("HighBit") == 15:
            dataset.PixelData = (values[index] << 4).tobytes()

    assert code_of(read_volume, write_series(tmp_path, values, axial_affine(), edit=edit)) == "PIXELS-BITS"


def test_a_sample_of_three_is_colour(tmp_path):
    def edit(index, dataset):
        dataset.SamplesPerPixel = 3

    folder = write_series(tmp_path, phantom(), axial_affine(), edit=edit)
    assert code_of(read_volume, folder) == "NO-SERIES"
    assert "in colour" in find_series(folder).skipped[0].reason


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_compressed_frame_of_another_size(tmp_path, syntax):
    """A stream of 1 KB may claim any size; the decoder would allocate it."""
    large = write_series(tmp_path / "large", phantom((5, 80, 70)), axial_affine())
    small = write_series(tmp_path / "small", phantom((5, 40, 36)), axial_affine())
    for path in small.iterdir():
        other, dataset = dcmread(large / path.name), dcmread(path)
        other.compress(syntax)
        dataset.compress(syntax)
        if path.name == "one_003.dcm":
            dataset.PixelData = encapsulate([next(generate_frames(other.PixelData, number_of_frames=1))])
        dataset.save_as(path)
    with pytest.raises(ReadError, match="another size than the header says") as caught:
        read_volume(small)
    assert caught.value.code == "PIXELS-UNREADABLE"


def test_a_series_packed_like_a_bomb(tmp_path):
    """Over 512 MiB and 500 times the bytes that are there: no image packs that well."""

    def claim(index, dataset):
        dataset.Rows = dataset.Columns = 8192

    folder = write_series(tmp_path, phantom((5, 6, 7)), axial_affine(), edit=claim)
    with pytest.raises(ReadError, match="more than 500 times") as caught:
        read_volume(folder)
    assert caught.value.code == "READ-TOO-LARGE"


# ---- places


def test_rounding_of_positions_is_noise(tmp_path):
    """Gaps of 2.484 and 2.516 mm: each is within 1 % of the mean."""

    def edit(index, dataset):
        position = [float(v) for v in dataset.ImagePositionPatient]
        position[2] += 0.008 * (-1) ** index
        dataset.ImagePositionPatient = position

    volume = read_volume(write_series(tmp_path, phantom((8, 6, 7)), axial_affine(), edit=edit))
    assert volume.spacing[0] == pytest.approx(2.5, abs=0.01)


def test_one_number_for_two_is_named(tmp_path):
    def edit(index, dataset):
        if index == 2:
            dataset.PixelSpacing = 1.5

    folder = write_series(tmp_path, phantom(), axial_affine(), edit=edit)
    assert code_of(read_volume, folder) == "GEO-PIXEL-SPACING"


def test_thin_slices_far_apart_are_said(tmp_path):
    def edit(index, dataset):
        dataset.SliceThickness = 1.25

    volume = read_volume(write_series(tmp_path, phantom(), axial_affine(), edit=edit))
    assert "further apart than SliceThickness" in volume.notes[0]
