"""The way to the network's grid and back."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from monai.transforms import LoadImaged

from medpanoptic.errors import ModelError
from medpanoptic.geometry import lps_to_ras, spatial_affine
from medpanoptic.preprocess import Preprocessing, VolumeReader, normalize_intensity, percentile
from medpanoptic.volume import Channel, Volume

SPATIAL = [{"_target_": "Orientationd", "axcodes": "SPL"}, {"_target_": "Spacingd", "pixdim": [2.0, 2.0, 2.0]}]


def phantom(affine, shape=(12, 18, 24)):
    array = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    return Volume(array, affine, (Channel("ct", "CT", "HU"),))


def oriented(order, signs, spacing=(2.5, 2.0, 1.5)):
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * spacing[axis]
    affine[:3, 3] = (10, -20, 30)
    return affine


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_labels_come_back_to_the_native_grid_in_every_orientation(order):
    for signs in itertools.product((1, -1), repeat=3):
        volume = phantom(oriented(order, signs))
        steps = Preprocessing([{"_target_": "Orientationd", "axcodes": "SPL"}])
        image = steps(volume)
        back = steps.to_native(torch.as_tensor(np.asarray(image[0]) * 1000).round().to(torch.int32), image)
        assert back.dtype == np.int32
        np.testing.assert_array_equal(back, np.round(volume.array[0] * 1000))


def test_a_resampled_block_comes_back_in_place():
    volume = phantom(spatial_affine((3, 1, 1), (5, 6, 7)), (20, 40, 40))
    truth = np.zeros(volume.shape, np.int32)
    truth[5:15, 10:30, 8:28] = 70001
    array = np.where(truth, 100.0, 0.0)[None].astype(np.float32)
    steps = Preprocessing(SPATIAL)
    image = steps(Volume(array, volume.affine, volume.channels))
    back = steps.to_native((image[0] > 50).to(torch.int32) * 70001, image)
    assert set(np.unique(back)) == {0, 70001}
    # nearest neighbour may move a face by half a voxel of the coarser grid, 1 mm here, and no more
    for back_axis, true_axis, spacing in zip(np.nonzero(back), np.nonzero(truth), (3, 1, 1), strict=True):
        assert abs(back_axis.min() - true_axis.min()) * spacing <= 3
        assert abs(back_axis.mean() - true_axis.mean()) * spacing <= 1


def test_resampling_agrees_with_simpleitk():
    volume = phantom(spatial_affine((2, 1, 1), (5, 6, 7)), (10, 20, 20))
    smooth = np.add.outer(np.add.outer(np.arange(10.0), np.arange(20.0)), np.arange(20.0))[None].astype(np.float32)
    image = Preprocessing([{"_target_": "Spacingd", "pixdim": [2.0, 1.5, 1.5]}])(
        Volume(smooth, volume.affine, volume.channels)
    )
    reference = sitk.GetImageFromArray(smooth[0])
    reference.SetSpacing((1, 1, 2))
    reference.SetOrigin((5, 6, 7))
    position = (3, 4, 6)
    world = np.diag([-1, -1, 1, 1]) @ np.asarray(image.affine) @ [*position, 1]
    expected = sitk.Resample(reference, [1, 1, 1], sitk.Transform(), sitk.sitkLinear, world[:3].tolist(), (1, 1, 1))
    assert float(image[(0, *position)]) == pytest.approx(sitk.GetArrayFromImage(expected).item(), abs=1e-3)


def test_microscopy_is_scaled_in_micrometres():
    volume = Volume(np.ones((3, 30, 40), np.uint8), spatial_affine((0.0005, 0.0005)), tuple(Channel(c) for c in "rgb"))
    steps = Preprocessing([{"_target_": "Spacingd", "pixdim": [0.25, 0.25]}])
    image = steps(volume)
    assert image.shape[1] in (59, 60)
    assert steps.to_native(torch.ones(image.shape[1:], dtype=torch.int32), image).shape == (30, 40)


def test_monai_loads_through_our_reader(tmp_path):
    volume = phantom(oriented((2, 1, 0), (1, -1, 1)))
    path = tmp_path / "v.nii.gz"
    from medpanoptic.io.nifti import write_nifti

    write_nifti(path, volume.array[0], volume.affine)
    image = LoadImaged("image", reader=VolumeReader(), image_only=True, ensure_channel_first=True)({"image": path})[
        "image"
    ]
    np.testing.assert_array_equal(np.asarray(image), volume.array)
    np.testing.assert_allclose(np.asarray(image.affine), lps_to_ras(volume.affine), atol=1e-5)


def test_intensity_rules():
    image = torch.tensor([-100.0, 0, 50, 100, 1000])
    torch.testing.assert_close(normalize_intensity(image, window=(0, 100)), torch.tensor([0, 0, 0.5, 1, 1]))
    torch.testing.assert_close(normalize_intensity(image, window=(0, 100), power=0.5)[2], torch.tensor(0.5**0.5))
    assert normalize_intensity(torch.full((5,), 7.0), percentiles=(1, 99)).tolist() == [0.0] * 5
    assert normalize_intensity(torch.zeros(5), percentiles=(1, 99), nonzero=True).tolist() == [0.0] * 5


@pytest.mark.parametrize("size", [1, 2, 999, 123_457])
@pytest.mark.parametrize("kind", ["normal", "few", "sorted", "equal"])
def test_percentiles_are_numpys_to_the_bit(size, kind):
    random = np.random.default_rng(size)
    values = {
        "normal": random.normal(size=size),
        "few": random.integers(0, 4, size),
        "sorted": np.sort(random.exponential(size=size)),  # a sample that repeats what the rest is like
        "equal": np.full(size, 3.3),
    }[kind].astype(np.float32)
    values[: size // 50] = -7  # and one that does not
    for q in (0, 0.5, 25, 50, 61.7, 99.8, 100):
        assert percentile(values, q) == np.percentile(values, [q])[0]


def test_gray_is_repeated_and_other_counts_are_refused():
    steps = Preprocessing([{"_target_": "ToChannelsd", "channels": 3}])
    gray = Volume(np.ones((1, 8, 8), np.uint8), spatial_affine((1, 1)), (Channel("g"),))
    assert steps(gray).shape == (3, 8, 8)
    two = Volume(np.ones((2, 8, 8), np.uint8), spatial_affine((1, 1)), (Channel("a"), Channel("b")))
    with pytest.raises((ModelError, RuntimeError)) as caught:
        steps(two)
    assert "INPUT-CHANNELS" in str(caught.value) + str(caught.value.__cause__)


def test_a_step_outside_the_allow_list_is_refused():
    with pytest.raises(ModelError, match="BUNDLE-UNSAFE"):
        Preprocessing([{"_target_": "Lambdad", "func": "print"}])
