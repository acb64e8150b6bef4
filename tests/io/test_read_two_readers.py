"""Two readers that know nothing of ours, SimpleITK and highdicom, agree with it on every good DICOM fixture."""

from __future__ import annotations

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from builders import FRAME_UID
from pydicom import dcmread

from medpanoptic.io import read_volume
from medpanoptic.io.itk import itk_affine

SERIES = [
    "ct_3slice_for_seg", "ct_jpeg2000_20slices", "mr_complete_19", "mr_plain_reference",
    "mr_compressed_j2k", "mr_compressed_jpeg", "mr_compressed_jpegls", "mr_compressed_rle",
    *(f"studies/{p}/{s}/image" for p in ("STS_003", "STS_019", "STS_024") for s in ("CT", "MR_T1", "PET")),
]  # fmt: skip


@pytest.mark.parametrize("name", SERIES)
def test_simpleitk_and_highdicom_agree_in_affine_and_voxels(shared_data, name):
    volume = read_volume(shared_data(f"data/dicom/{name}"))
    image = sitk.ReadImage([str(p) for p in volume.source.paths])
    assert np.allclose(volume.affine, itk_affine(image), atol=1e-3)
    assert np.allclose(volume.array[0], sitk.GetArrayFromImage(image), rtol=1e-6, atol=1e-3)
    theirs = _by_highdicom(volume.source.paths)
    assert np.allclose(theirs.affine, volume.affine, atol=1e-3)
    assert np.allclose(theirs.array, volume.array[0], rtol=1e-6, atol=1e-3)


def _by_highdicom(paths):
    datasets = [dcmread(p) for p in paths]
    for dataset in datasets:
        # left empty by one anonymiser; the meta header still has it
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
        dataset.FrameOfReferenceUID = dataset.get("FrameOfReferenceUID") or FRAME_UID
    found = highdicom.get_volume_from_series(datasets)
    # the order of slices is each reader's own choice
    first = datasets[0].ImagePositionPatient
    return found if np.allclose(found.affine[:3, 3], first, atol=1e-3) else found.flip_spatial(0)


def test_enhanced_multi_frame_agrees_with_highdicom(shared_data):
    path = shared_data("data/dicom/mr_enhanced_multiframe/anat_8f.dcm")
    volume = read_volume(path)
    dataset = dcmread(path)
    dataset.FrameOfReferenceUID = dataset.get("FrameOfReferenceUID") or FRAME_UID
    image = highdicom.Image.from_dataset(dataset)
    theirs = image.get_volume(apply_real_world_transform=False, apply_modality_transform=True)
    theirs = theirs if np.allclose(theirs.affine[:3, 3], volume.affine[:3, 3], atol=1e-3) else theirs.flip_spatial(0)
    assert np.allclose(theirs.affine, volume.affine, atol=1e-3)
    assert np.allclose(np.squeeze(theirs.array), volume.array[0], rtol=1e-5, atol=1e-2)
