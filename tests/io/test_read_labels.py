"""Label maps: every label unchanged, in the image's place, or refused by name."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import tifffile
from builders import axial_affine, phantom, write_nifti_file, write_series
from PIL import Image

from medpanoptic.errors import ReadError
from medpanoptic.io import read_labels, read_volume

RAS = np.diag([1.25, 1.5, 2.5, 1.0])
LABELS = phantom((4, 5, 6)) % 7


def _image(tmp_path):
    return read_volume(write_nifti_file(tmp_path / "image.nii.gz", phantom((4, 5, 6)), RAS))


def _code(path, like=None) -> str:
    with pytest.raises(ReadError) as caught:
        read_labels(path, like)
    text = str(caught.value)
    assert path.name in text
    assert "label" in text or "mask" in text
    return caught.value.code


@pytest.mark.parametrize("order", permutations(range(3)))
@pytest.mark.parametrize("flips", list(product((False, True), repeat=3)))
def test_any_storage_of_the_same_place_comes_back_on_the_images_grid(tmp_path, order, flips):
    index = np.eye(4)
    stored = LABELS
    for axis, flip in enumerate(flips):
        if flip:
            stored = np.flip(stored, axis)
            index[axis, axis], index[axis, 3] = -1, stored.shape[axis] - 1
    stored = np.ascontiguousarray(stored.transpose(order))
    ras = RAS @ index @ np.eye(4)[:, [*order, 3]]
    volume = read_labels(write_nifti_file(tmp_path / "label.nii.gz", stored, ras), _image(tmp_path))
    assert np.array_equal(volume.array[0], LABELS.transpose())
    assert volume.array.dtype == np.int32
    assert np.allclose(volume.affine, _image(tmp_path).affine)


def _shifted(millimetres: float) -> np.ndarray:
    moved = RAS.copy()
    moved[0, 3] = millimetres
    return moved


def test_another_place_or_size_is_refused_and_rounding_is_not(tmp_path):
    image, path = _image(tmp_path), tmp_path / "label.nii.gz"
    assert _code(write_nifti_file(path, LABELS, _shifted(0.7)), image) == "LABEL-PLACE"
    assert _code(write_nifti_file(path, LABELS, np.diag([1.25, 1.5, 2.6, 1])), image) == "LABEL-PLACE"
    turned = RAS.copy()
    turned[:2, :2] = [[1.2, -0.4], [0.4, 1.4]]
    assert _code(write_nifti_file(path, LABELS, turned, qform=0), image) == "LABEL-PLACE"
    assert _code(write_nifti_file(path, LABELS[:-1], RAS), image) == "LABEL-SHAPE"
    assert _code(write_nifti_file(path, np.zeros((9, 9, 9), np.int16), RAS), image) == "LABEL-SHAPE"
    # a cube looks right by its size alone
    assert read_labels(write_nifti_file(path, LABELS, _shifted(0.01)), image).shape == image.shape


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (0.5, "LABEL-FRACTION"),
        (np.nan, "LABEL-NAN"),
        (np.inf, "LABEL-NAN"),
        (-1, "LABEL-RANGE"),
        (2**24 + 2, "LABEL-RANGE"),
    ],
)
def test_what_is_no_label_is_refused(tmp_path, spoil, code):
    array = LABELS.astype(np.float32)
    array[1, 2, 3] = spoil
    assert _code(write_nifti_file(tmp_path / "a.nii", array, RAS)) == code


def test_labels_of_every_kind_of_storage(tmp_path):
    for dtype in (np.uint8, np.uint16, np.int32, np.uint32, np.float32, np.float64):
        volume = read_labels(write_nifti_file(tmp_path / "a.nii", LABELS.astype(dtype), RAS))
        assert np.array_equal(volume.array[0], LABELS.transpose())
    large = np.arange(100_000, dtype=np.int32).reshape(100, 100, 10)
    assert read_labels(write_nifti_file(tmp_path / "a.nii", large, RAS)).array.max() == 99_999
    assert _code(write_nifti_file(tmp_path / "a.nii", large.astype(np.int32) - 1, RAS)) == "LABEL-RANGE"
    assert _code(write_nifti_file(tmp_path / "a.nii", large.astype(np.uint32) + 2**31, RAS)) == "LABEL-RANGE"
    assert read_labels(write_nifti_file(tmp_path / "a.nii", LABELS * 0, RAS)).array.max() == 0


def test_flat_label_images(tmp_path):
    flat = (phantom((6, 7)) % 5).astype(np.uint8)
    Image.fromarray(np.stack([flat] * 3, -1)).save(tmp_path / "image.png")
    image = read_volume(tmp_path / "image.png")
    tifffile.imwrite(tmp_path / "a.tif", flat.astype(np.uint32) * 100_000, compression="zlib")
    assert np.array_equal(read_labels(tmp_path / "a.tif", image).array[0], flat.astype(np.int32) * 100_000)
    # the indices of a palette are the labels (Pascal VOC, many annotation tools), not its colours
    indexed = Image.fromarray(flat, "P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] * 85)
    indexed.save(tmp_path / "p.png")
    assert np.array_equal(read_labels(tmp_path / "p.png", image).array[0], flat)
    Image.fromarray(flat > 2).save(tmp_path / "one.png")
    assert np.array_equal(read_labels(tmp_path / "one.png").array[0], flat > 2)
    assert _code(tmp_path / "image.png", image) == "LABEL-COLOR"
    Image.fromarray(flat[:-1]).save(tmp_path / "short.png")
    assert _code(tmp_path / "short.png", image) == "LABEL-SHAPE"


def test_labels_of_a_dicom_image(tmp_path):
    image = read_volume(write_series(tmp_path / "ct", phantom(), axial_affine()))
    ras = np.diag([-1, -1, 1, 1]) @ axial_affine()[:, [2, 1, 0, 3]]
    path = write_nifti_file(tmp_path / "label.nii.gz", np.ascontiguousarray((phantom() % 3).transpose()), ras)
    assert np.array_equal(read_labels(path, image).array[0], phantom() % 3)
    assert _code(tmp_path / "none.nii.gz") == "NOT-FOUND"
