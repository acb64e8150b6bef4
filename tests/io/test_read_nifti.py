"""What the NIfTI and MetaImage readers refuse, convert and keep."""

from __future__ import annotations

import gzip
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from builders import phantom, write_nifti_file

from medpanoptic.errors import ReadError, WriteError
from medpanoptic.io.nifti import write_nifti
from medpanoptic.io.read import read_volume

RAS = np.diag([1.25, 1.5, 2.5, 1.0])


def _code(path) -> str:
    with pytest.raises(ReadError) as caught:
        read_volume(path)
    assert path.name in str(caught.value)
    return caught.value.code


def test_forms(tmp_path):
    moved = RAS.copy()
    moved[0, 3] = 10
    path = tmp_path / "a.nii"
    assert _code(write_nifti_file(path, phantom(), RAS, qform_affine=moved)) == "NIFTI-FORMS"
    assert _code(write_nifti_file(path, phantom(), RAS, sform=0, qform=0)) == "NIFTI-NO-ORIENTATION"
    only = read_volume(write_nifti_file(path, phantom(), RAS, sform=0))
    assert np.allclose(only.affine, np.diag([-1, -1, 1, 1]) @ RAS[:, [2, 1, 0, 3]])


@pytest.mark.parametrize(("units", "factor"), [("mm", 1), ("micron", 1e-3), ("meter", 1e3), ("unknown", 1)])
def test_units(tmp_path, units, factor):
    # one image, its size written in each unit
    ras = np.diag([1 / factor, 1 / factor, 1 / factor, 1]) @ RAS
    volume = read_volume(write_nifti_file(tmp_path / "a.nii", phantom(), ras, units=units))
    assert np.allclose(volume.spacing, [2.5, 1.5, 1.25])
    assert bool(volume.notes) == (units in ("micron", "meter"))


def test_voxels_of_metres_are_a_wrong_unit(tmp_path):
    assert _code(write_nifti_file(tmp_path / "a.nii", phantom(), RAS, units="meter")) == "GEO-PIXEL-SPACING"


@pytest.mark.parametrize(
    ("offset", "value"),
    [(108, 0.0), (108, float("nan")), (108, float("inf")), (108, 1e30), (112, float("inf")), (116, float("nan"))],
)
def test_numbers_that_place_or_scale_the_voxels_must_be_sound(tmp_path, offset, value):
    path = write_nifti_file(tmp_path / "a.nii", phantom(), RAS)
    raw = bytearray(path.read_bytes())
    raw[112:116] = struct.pack("<f", 1.0)
    raw[offset : offset + 4] = struct.pack("<f", value)
    path.write_bytes(raw)
    assert _code(path) == "NOT-NIFTI"


@pytest.mark.parametrize("kind", ["cut", "bits"])
def test_damaged_metaimage_is_refused_before_itk_prints(tmp_path, capfd, kind):
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(phantom((9, 20, 20))), str(path), useCompression=kind == "bits")
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 255
    path.write_bytes(raw[:-50] if kind == "cut" else raw)
    capfd.readouterr()
    assert _code(path) == "ITK-UNREADABLE"
    assert capfd.readouterr() == ("", "")


def test_refused_content(tmp_path):
    path = tmp_path / "a.nii"
    spoiled = phantom().astype(np.float32)
    spoiled[0, 0, 0] = np.nan
    assert _code(write_nifti_file(path, spoiled, RAS)) == "VOXEL-NAN"
    assert _code(write_nifti_file(path, phantom((3, 4, 5, 2)), RAS)) == "NIFTI-4D"
    assert _code(write_nifti_file(path, phantom().astype(np.complex64), RAS)) == "NIFTI-DTYPE"
    colour = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert _code(write_nifti_file(path, colour, RAS)) == "NIFTI-DTYPE"
    flat = RAS.copy()
    flat[2, 2] = 0
    singular = nibabel.Nifti1Image(phantom(), RAS)
    singular.header.set_sform(flat, 1)
    path.write_bytes(singular.header.binaryblock + b"\0" * 4 + phantom().tobytes())
    assert _code(path) == "GEO-AFFINE"
    path.write_bytes(b"no image at all" * 100)
    assert _code(path) == "NOT-NIFTI"


def test_trailing_axis_of_length_one_is_dropped(tmp_path):
    assert read_volume(write_nifti_file(tmp_path / "a.nii", phantom((5, 6, 7, 1)), RAS)).array.shape == (1, 7, 6, 5)


def test_damaged_gzip_is_noticed_even_behind_the_last_voxel(tmp_path):
    path = write_nifti_file(tmp_path / "a.nii.gz", phantom(), RAS)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert _code(path) == "READ-TRUNCATED"
    # the check sum is the last 8 bytes
    path.write_bytes(whole[:-8] + b"\0" * 8)
    assert _code(path) == "READ-TRUNCATED"
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-10]))
    assert _code(path) == "READ-TRUNCATED"


def test_name_does_not_decide_on_gzip(tmp_path):
    plain = write_nifti_file(tmp_path / "a.nii", phantom(), RAS).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(plain)
    assert np.array_equal(read_volume(tmp_path / "b.nii.gz").array, read_volume(tmp_path / "a.nii").array)


def test_huge_header(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((32767, 32767, 32767))
    header["magic"], header["vox_offset"] = b"n+1", 352
    (tmp_path / "a.nii").write_bytes(header.binaryblock + b"\0" * 1000)
    assert _code(tmp_path / "a.nii") == "READ-TOO-LARGE"


def test_scale_big_endian_and_version_two(tmp_path):
    scaled = nibabel.Nifti1Image(phantom(), RAS)
    scaled.header.set_slope_inter(0.5, -10)
    nibabel.save(scaled, tmp_path / "scaled.nii")
    raw = np.asarray(nibabel.load(tmp_path / "scaled.nii").dataobj)
    volume = read_volume(tmp_path / "scaled.nii")
    assert volume.array.dtype == np.float32
    assert np.allclose(volume.array[0], raw.transpose())
    big = nibabel.Nifti1Image(phantom().astype(">i2"), RAS, nibabel.Nifti1Header(endianness=">"))
    big.header.set_sform(RAS, 1)
    nibabel.save(big, tmp_path / "big.nii")
    two = nibabel.Nifti2Image(phantom(), RAS)
    nibabel.save(two, tmp_path / "two.nii.gz")
    for name in ("big.nii", "two.nii.gz"):
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.array[0], phantom().transpose())
        assert volume.array.dtype.isnative


def test_write_refuses_what_nifti_cannot_hold(tmp_path):
    for array, code in ((np.zeros((2, 2, 2, 2)), "WRITE-SHAPE"), (np.zeros((2, 2), "S3"), "WRITE-DTYPE")):
        with pytest.raises(WriteError) as caught:
            write_nifti(tmp_path / "a.nii", array, np.eye(4))
        assert caught.value.code == code
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError) as caught:
        write_nifti(tmp_path / "file" / "a.nii", np.zeros((2, 2)), np.eye(4))
    assert caught.value.code == "WRITE-FAILED"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("target", ["/etc/hostname", "../secret.raw", "LIST", "%03d.raw"])
def test_metaimage_cannot_point_at_other_files(tmp_path, target):
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(b"secret12")
    lines = [
        "ObjectType = Image",
        "NDims = 2",
        "DimSize = 4 2",
        "ElementType = MET_UCHAR",
        f"ElementDataFile = {target}",
    ]
    (folder / "a.mhd").write_text("\n".join(lines) + "\n")
    assert _code(folder / "a.mhd") == "ITK-EXTERNAL"
    nrrd = f"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 4 2\nencoding: raw\ndata file: {target}\n\n"
    (folder / "a.nrrd").write_text(nrrd)
    assert _code(folder / "a.nrrd") == "ITK-EXTERNAL"
