"""Affines and voxels against SimpleITK and nibabel, over every flip and permutation of the axes."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from builders import axial_affine, phantom, write_enhanced, write_nifti_file, write_series
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medpanoptic.geometry import to_world
from medpanoptic.io.itk import itk_affine
from medpanoptic.io.nifti import read_nifti, write_nifti
from medpanoptic.io.read import read_volume

SIGNED = [np.eye(3)[:, list(p)] * s for p in permutations(range(3)) for s in product((1, -1), repeat=3)]
PROPER = [m for m in SIGNED if np.linalg.det(m) > 0]


def _read_series_by_itk(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def test_all_48_orientations_are_there():
    assert len({m.tobytes() for m in SIGNED}) == 48
    assert len(PROPER) == 24


@pytest.mark.parametrize("axes", SIGNED)
def test_nifti_agrees_with_nibabel_and_simpleitk(tmp_path, axes):
    ras = np.eye(4)
    ras[:3, :3] = axes * (1.25, 1.5, 2.5)
    ras[:3, 3] = 11, -7, 5
    path = write_nifti_file(tmp_path / "image.nii.gz", phantom((5, 6, 7)), ras)
    volume = read_volume(path)
    theirs = nibabel.load(path)
    itk = sitk.ReadImage(str(path))
    assert np.array_equal(volume.array[0], np.asarray(theirs.dataobj).transpose())
    assert np.array_equal(volume.array[0], sitk.GetArrayFromImage(itk))
    assert np.allclose(volume.affine, itk_affine(itk), atol=1e-4)
    voxel = (1, 2, 3)
    lps = to_world([voxel], volume.affine)[0]
    assert np.allclose(lps * (-1, -1, 1), nibabel.affines.apply_affine(theirs.affine, voxel[::-1]), atol=1e-4)


@pytest.mark.parametrize("axes", PROPER)
def test_dicom_agrees_with_simpleitk(tmp_path, axes):
    # columns of the affine are (slice, row, column): a proper rotation has the slices run along the normal
    affine = np.eye(4)
    affine[:3, :3] = (axes * (1.25, 1.5, 2.5))[:, ::-1]
    affine[:3, 3] = 11, -7, 5
    volume = read_volume(write_series(tmp_path / "ct", phantom(), affine))
    itk = _read_series_by_itk(tmp_path / "ct")
    assert np.allclose(volume.affine, affine, atol=1e-4)
    assert np.allclose(volume.affine, itk_affine(itk), atol=1e-4)
    assert np.array_equal(volume.array[0], phantom())
    assert np.array_equal(volume.array[0], sitk.GetArrayFromImage(itk))


@pytest.mark.parametrize("axes", [m for m in SIGNED if np.linalg.det(m) < 0])
def test_slices_written_against_the_normal_are_sorted_along_it(tmp_path, axes):
    affine = np.eye(4)
    affine[:3, :3] = (axes * (1.25, 1.5, 2.5))[:, ::-1]
    volume = read_volume(write_series(tmp_path / "ct", phantom(), affine))
    assert np.linalg.det(volume.affine[:3, 2::-1]) > 0
    assert np.array_equal(volume.array[0], phantom()[::-1])
    assert np.allclose(to_world([(0, 1, 2)], volume.affine), to_world([(4, 1, 2)], affine), atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(turn=st.tuples(*[st.floats(-3, 3)] * 3), spacing=st.tuples(*[st.floats(0.3, 9)] * 3))
def test_oblique_series_keep_their_affine(tmp_path_factory, turn, spacing):
    folder = tmp_path_factory.mktemp("oblique")
    affine = np.eye(4)
    # a rotation makes (column, row, slice) right-handed, so the slices are along the normal
    affine[:3, :3] = (Rotation.from_rotvec(turn).as_matrix() * spacing[::-1])[:, ::-1]
    affine[:3, 3] = 100, -200, 50
    volume = read_volume(write_series(folder, phantom((3, 4, 5)), affine))
    assert np.allclose(volume.affine, affine, atol=1e-4)
    assert np.array_equal(volume.array[0], phantom((3, 4, 5)))


def test_enhanced_multi_frame_equals_single_frames(tmp_path):
    enhanced = read_volume(write_enhanced(tmp_path / "enhanced.dcm", phantom(), axial_affine()))
    single = read_volume(write_series(tmp_path / "ct", phantom(), axial_affine()))
    assert np.allclose(enhanced.affine, single.affine)
    assert np.array_equal(enhanced.array, single.array)
    assert len(enhanced.source.sop_uids) == 1
    assert len(single.source.sop_uids) == len(single.source.paths) == 5


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mhd"])
def test_mha_and_nrrd_agree_with_simpleitk(tmp_path, suffix):
    image = sitk.GetImageFromArray(phantom())
    image.SetSpacing((1.25, 1.5, 2.5))
    image.SetOrigin((11, -7, 5))
    image.SetDirection(Rotation.from_rotvec((0.1, 0.2, 0.3)).as_matrix().ravel().tolist())
    path = tmp_path / f"image{suffix}"
    sitk.WriteImage(image, str(path))
    volume = read_volume(path)
    assert np.array_equal(volume.array[0], phantom())
    for index in ((0, 0, 0), (4, 5, 6), (1, 2, 3)):
        there = image.TransformIndexToPhysicalPoint(index[::-1])
        assert np.allclose(to_world([index], volume.affine)[0], there, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_write_nifti_comes_back_equal_and_others_agree(tmp_path, dtype):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec((0.4, -0.2, 0.3)).as_matrix() * (2.5, 1.5, 1.25)
    affine[:3, 3] = 11, -7, 5
    write_nifti(tmp_path / "a.nii.gz", phantom().astype(dtype), affine)
    volume = read_nifti(tmp_path / "a.nii.gz")
    assert volume.array.dtype == dtype
    assert np.array_equal(volume.array[0], phantom())
    assert np.allclose(volume.affine, affine, atol=1e-4)
    itk = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert np.allclose(itk_affine(itk), affine, atol=1e-4)


def test_write_nifti_2d_sheared_and_twice_the_same_bytes(tmp_path):
    affine = axial_affine()
    affine[1, 0] = 0.8
    write_nifti(tmp_path / "sheared.nii", phantom(), affine)
    assert np.allclose(read_nifti(tmp_path / "sheared.nii").affine, affine, atol=1e-5)
    for name in ("one.nii.gz", "two.nii.gz"):
        write_nifti(tmp_path / name, phantom((6, 7)), np.diag([0.5, 0.25, 1, 1])[[1, 0, 2, 3]])
    flat = read_nifti(tmp_path / "one.nii.gz")
    assert flat.array.shape == (1, 6, 7)
    assert np.allclose(flat.spacing, (0.5, 0.25))
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.nii.gz", "sheared.nii", "two.nii.gz"]
