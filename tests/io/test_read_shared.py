"""Real DICOM: each folder has its right outcome. Skipped without the shared folder."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom import dcmread

from medpanoptic.errors import ReadError
from medpanoptic.geometry import same_grid
from medpanoptic.io.itk import itk_affine
from medpanoptic.io.read import find_series, read_study, read_volume
from medpanoptic.volume import ChannelSpec

PETCT = [ChannelSpec("ct", "CT", "HU"), ChannelSpec("pet", "PT", "SUV"), ChannelSpec("mr", "MR", required=False)]

READS = {
    "ct_jpeg2000_20slices": (20, 512, 512),
    "ct_3slice_for_seg": (3, 512, 512),
    "mr_complete_19": (19, 128, 84),
    "mr_plain_reference": (4, 256, 256),
    "mr_enhanced_multiframe/anat_8f.dcm": (8, 256, 256),
    "broken_gantrytilting_001": (4, 512, 512),
}
REFUSES = {
    "broken_notavolume_001": "DUP-POSITION",
    "broken_sliceincrement_002": "GEO-GAP",
    "broken_sliceorientation_001": "MIX-ORIENTATION",
    "ct_gantry_tilt_28": "GEO-SPACING",
    "ct_transfer_syntaxes": "DUP-POSITION",
    "mr_missing_slice_18": "GEO-GAP",
    "mr_rgb": "NO-SERIES",
    "mr_enhanced_multiframe": "SERIES-AMBIGUOUS",
    # four echoes or time points at each position
    "mr_enhanced_multiframe/IM-0001-9600-0001.dcm": "DUP-POSITION",
    "seg_sr": "NO-SERIES",
    # only the PET slices that the SEG refers to are there
    "seg_11_lesions": "GEO-GAP",
}


@pytest.mark.parametrize("name", READS)
def test_real_series_read_as_simpleitk_reads_them(shared_data, name):
    path = shared_data(f"data/dicom/{name}")
    volume = read_volume(path)
    assert volume.shape == READS[name]
    if name.startswith(("mr_enhanced", "broken_gantry")):
        return  # ITK drops the shear, and reads this enhanced object with a spacing of 1
    files = [str(p) for p in volume.source.paths]
    image = sitk.ReadImage(files)
    assert np.allclose(volume.affine, itk_affine(image), atol=1e-3)
    assert np.allclose(volume.array[0], sitk.GetArrayFromImage(image))


@pytest.mark.parametrize("name", REFUSES)
def test_real_hard_cases_are_refused_by_name(shared_data, name):
    with pytest.raises(ReadError) as caught:
        read_volume(shared_data(f"data/dicom/{name}"))
    assert caught.value.code == REFUSES[name]


def test_compressed_syntaxes_decode_to_the_same_values(shared_data):
    # the plain series has other (random) pixels; the four compressed ones are equal to each other
    rle = read_volume(shared_data("data/dicom/mr_compressed_rle"))
    for syntax in ("j2k", "jpeg", "jpegls"):
        other = read_volume(shared_data(f"data/dicom/mr_compressed_{syntax}"))
        assert np.array_equal(other.array, rle.array), syntax
        assert np.allclose(other.affine, rle.affine)
    lossless = {}
    for path in sorted(shared_data("data/dicom/ct_transfer_syntaxes").iterdir()):
        volume = read_volume(path)
        assert volume.shape == (1, 512, 512)
        if any(word in path.name for word in ("Lossless", "SV1", "Process14", "RLE", "Deflated")):
            lossless[path.name] = volume.array
    assert len(lossless) == 6
    first = next(iter(lossless.values()))
    assert all(np.array_equal(array, first) for array in lossless.values())


def test_same_grid_as_the_segmentation_of_the_jpeg2000_series(shared_data):
    seg = read_volume(shared_data("data/dicom/ct_jpeg2000_20slices_totalsegmentator_seg.nii.gz"))
    ct = read_volume(shared_data("data/dicom/ct_jpeg2000_20slices"))
    # the same place, though the file runs the other way along y
    assert np.allclose(sorted(seg.spacing), sorted(ct.spacing), atol=1e-3)
    flip = np.eye(4)
    flip[1, 1], flip[1, 3] = -1, seg.shape[1] - 1
    assert same_grid(seg.affine @ flip, ct.affine, seg.shape, ct.shape, tolerance_mm=0.01)


@pytest.mark.parametrize("patient", ["STS_003", "STS_019", "STS_024"])
def test_petct_mr_study(shared_data, patient):
    folder = shared_data(f"data/dicom/studies/{patient}")
    volume = read_study(folder, PETCT)
    ct = read_volume(folder / "CT" / "image")
    assert np.array_equal(volume.array[0], ct.array[0])
    assert np.allclose(volume.affine, ct.affine)
    assert all(c.present for c in volume.channels)
    assert volume.array[1].min() >= 0
    assert 5 < volume.array[1].max() < 30
    assert volume.source.sop_uids == ct.source.sop_uids
    skipped = [s.reason for s in find_series(folder).skipped]
    assert len(skipped) == 3
    assert all("RT Structure Set" in reason for reason in skipped)
    pet, mr = (
        sitk.ReadImage([str(p) for p in read_volume(folder / n / "image").source.paths]) for n in ("PET", "MR_T1")
    )
    reference = sitk.ReadImage([str(p) for p in ct.source.paths])
    for channel, image in ((1, pet), (2, mr)):
        moved = sitk.Resample(sitk.Cast(image, sitk.sitkFloat32), reference, sitk.Transform(), sitk.sitkLinear, 0.0)
        difference = np.abs(volume.array[channel] - sitk.GetArrayFromImage(moved))
        # the border of the field of view may fall either way by rounding
        assert np.mean(difference > 1e-2) < 0.01


def test_suv_of_a_real_siemens_pet(shared_data, tmp_path):
    # the longest run without a gap, of the slices that are there
    files = sorted(shared_data("data/dicom/seg_11_lesions").glob("pet_*.dcm"))
    heights = {float(dcmread(f, stop_before_pixels=True).ImagePositionPatient[2]): f for f in files}
    for z in sorted(heights)[:19]:
        shutil.copy(heights[z], tmp_path)
    volume = read_volume(tmp_path)
    one = dcmread(heights[sorted(heights)[0]])
    drug = one.RadiopharmaceuticalInformationSequence[0]
    # independent of SeriesTime: the file says how far this frame decayed after the reference time
    seconds = 3600 * 10 + 27 * 60 + 31.687 - (8 * 3600 + 45 * 60)
    dose = float(drug.RadionuclideTotalDose) * 0.5 ** (seconds / float(drug.RadionuclideHalfLife))
    expected = one.pixel_array * float(one.RescaleSlope) * float(one.PatientWeight) * 1000 / dose
    assert volume.channels[0].unit == "SUV"
    assert np.allclose(volume.array[0, 0], expected, rtol=1e-5)
