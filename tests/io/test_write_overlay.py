"""Overlays: colours lie over the lesion, and the picture does not depend on how the volume is stored."""

import itertools

import numpy as np
import pytest
from PIL import Image

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.errors import WriteError
from medpanoptic.geometry import spatial_affine
from medpanoptic.io.overlay import render_overlay
from medpanoptic.io.write import write_result
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.volume import Channel, Volume

CODE = Code("85756007", "SCT", "Tissue")
CLASSES = ClassTable(
    (ClassInfo(1, "lesion", True, (255, 0, 0), CODE, CODE), ClassInfo(2, "tissue", False, (0, 0, 255), CODE, CODE))
)
PANEL = 420


def colourful(picture):
    """Pixels that are not gray."""
    values = picture.astype(int)
    return values.max(-1) - values.min(-1) > 30


def volume_result(shape=(20, 24, 28), spacing=(3.0, 2.0, 2.0), things=True):
    """A lesion to the head, front and right of the patient (index -> LPS, so low y and x and high z)."""
    ids = np.zeros(shape, np.int32)
    if things:
        ids[15:19, 2:6, 3:7] = 5
    segments = (Segment(5, 1),) if things else ()
    affine = spatial_affine(spacing)
    image = np.full((1, *shape), 40, np.float32)
    return Volume(image, affine, (Channel("ct", "CT", "HU"),)), PanopticResult(ids, segments, CLASSES, affine)


def panels(picture, widths):
    left, found = 0, []
    for width in widths:
        found.append(picture[:PANEL, left : left + width])
        left += width + 8
    return found


def test_2d_keeps_the_size_and_tints_only_the_segments():
    rng = np.random.default_rng(0)
    image = np.repeat(rng.integers(50, 200, (1, 30, 40), dtype=np.uint8), 3, axis=0)
    ids = np.zeros((30, 40), np.int32)
    ids[5:15, 10:20] = 3
    result = PanopticResult(ids, (Segment(3, 1),), CLASSES, spatial_affine((1.0, 1.0)))
    volume = Volume(image, result.affine, tuple(Channel(c) for c in "rgb"))
    before = image.copy()
    picture = render_overlay(volume, result)
    assert (picture.shape, picture.dtype) == ((30, 40, 3), np.uint8)
    assert np.array_equal(picture[ids == 0], np.moveaxis(image, 0, -1)[ids == 0])
    color = result.segment_color(result.segments[0])
    assert tuple(picture[5, 10]) == tuple(picture[14, 19]) == color  # the outline
    wanted = 0.6 * image[:, 9, 14] + 0.4 * np.array(color)
    assert np.abs(picture[9, 14] - wanted).max() <= 1
    assert np.array_equal(image, before)


def test_a_16_bit_image_is_stretched_over_its_percentiles():
    values = np.linspace(1000, 3000, 40 * 50).reshape(1, 40, 50).astype(np.uint16)
    result = PanopticResult(np.zeros((40, 50), np.int32), (), CLASSES, spatial_affine((1.0, 1.0)))
    picture = render_overlay(Volume(values, result.affine, (Channel("image"),)), result)
    assert (picture.min(), picture.max()) == (0, 255)
    assert abs(int(picture[20, 0, 0]) - 128) < 5


def test_a_volume_shows_the_lesion_in_radiological_convention():
    volume, result = volume_result()
    picture = render_overlay(volume, result)
    # mm: 60 head to foot, 48 front to back, 56 right to left; the longest becomes 420 pixels
    axial, coronal, sagittal = panels(picture, (392, 392, 336))
    mm = PANEL / 60
    for panel, (top, left) in zip(
        (axial, coronal, sagittal), ((2 * 2, 3 * 2), (1 * 3, 3 * 2), (1 * 3, 2 * 2)), strict=True
    ):
        shown = np.argwhere(colourful(panel))
        low, high = shown.min(0), shown.max(0)
        size = (8, 8) if panel is axial else (12, 8)
        height = panel is axial and (PANEL - 336) // 2  # the shorter axial panel is centred
        assert low == pytest.approx((top * mm + height, left * mm), abs=1.5)
        assert high - low + 1 == pytest.approx(np.array(size) * mm, abs=2)


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_the_picture_does_not_depend_on_storage(order):
    volume, result = volume_result()
    reference = render_overlay(volume, result)
    for flips in itertools.product((False, True), repeat=3):
        stored, moved = stored_otherwise(volume, result, order, flips)
        assert np.array_equal(render_overlay(stored, moved), reference), (order, flips)


def stored_otherwise(volume, result, order, flips):
    """Permute and flip the axes of array and affine alike: the same voxels in the same places."""
    axes = [k for k in range(3) if flips[k]]
    ids = np.flip(result.ids.transpose(order), axes)
    image = np.flip(volume.array[0].transpose(order), axes)[None]
    affine = result.affine[:, [*order, 3]].copy()
    for k in axes:
        affine[:3, 3] += affine[:3, k] * (ids.shape[k] - 1)
        affine[:3, k] *= -1
    moved = PanopticResult(np.ascontiguousarray(ids), result.segments, CLASSES, affine)
    return Volume(image, affine, volume.channels), moved


def test_windows_follow_the_unit():
    _, result = volume_result(things=False)
    values = np.full((2, *result.ids.shape), 40, np.float32)
    values[1] = 0
    channels = (Channel("ct", "CT", "HU"), Channel("pet", "PT", "SUV"))
    volume = Volume(values, result.affine, channels)
    assert render_overlay(volume, result, "ct")[200, 100, 0] == 128  # 40 HU is the middle of -160 to 240
    assert render_overlay(volume, result, "pet")[200, 100, 0] == 255  # no uptake is white
    absent = Volume(values, result.affine, (Channel("ct", "CT", "HU", present=False), channels[1]))
    assert render_overlay(absent, result)[200, 100, 0] == 255
    with pytest.raises(WriteError, match=r"CHANNEL-NAME.*ct, pet"):
        render_overlay(volume, result, "mr")


def test_nan_and_flat_images_do_not_break_it():
    _, result = volume_result()
    values = np.full((1, *result.ids.shape), np.nan, np.float32)
    render_overlay(Volume(values, result.affine, (Channel("x"),)), result)


def test_a_thin_or_tiny_volume_can_be_drawn():
    for shape in ((1, 4, 4), (2, 300, 1)):
        volume, result = volume_result(shape, things=False)
        assert render_overlay(volume, result).ndim == 3


def test_the_file_is_drawn_without_an_image_too(tmp_path):
    _, result = volume_result()
    path = write_result(result, tmp_path / "case", formats=("png",))["png"][0]
    assert colourful(np.asarray(Image.open(path))).any()


def test_shapes_must_agree():
    volume, _ = volume_result((5, 6, 7), things=False)
    with pytest.raises(WriteError, match="FORMAT-SHAPE"):
        render_overlay(volume, volume_result()[1])
