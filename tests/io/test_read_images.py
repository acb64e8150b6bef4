"""PNG, JPEG and TIFF: bit depth, channels and pixel size."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from builders import phantom
from PIL import Image

from medpanoptic.errors import ReadError
from medpanoptic.io.read import read_study, read_volume
from medpanoptic.volume import ChannelSpec

GRAY8 = phantom((6, 7)).astype(np.uint8)
GRAY16 = (phantom((6, 7)).astype(np.uint16) + 1) * 1000
RGB8 = np.stack([GRAY8, GRAY8 + 50, GRAY8 + 100], -1)


@pytest.mark.parametrize("array", [GRAY8, GRAY16, RGB8], ids=["gray8", "gray16", "rgb8"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_values_and_channels(tmp_path, array, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(array).save(path) if suffix == ".png" else tifffile.imwrite(path, array)
    volume = read_volume(path)
    assert volume.array.dtype == array.dtype
    assert np.array_equal(volume.array, array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0))
    assert [c.name for c in volume.channels] == (["gray"] if array.ndim == 2 else ["red", "green", "blue"])
    assert not volume.calibrated
    assert np.allclose(volume.spacing, 1)


def test_rgb_png_of_16_bits_keeps_them(tmp_path):
    array = np.moveaxis(np.stack([GRAY16, GRAY16 + 1, GRAY16 + 2]), 0, -1)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "a.png"))
    volume = read_volume(tmp_path / "a.png")
    assert volume.array.dtype == np.uint16
    assert np.array_equal(volume.array, np.moveaxis(array, -1, 0))


def test_jpeg(tmp_path):
    Image.fromarray(RGB8).save(tmp_path / "a.jpg", quality=95, dpi=(20000, 20000))
    volume = read_volume(tmp_path / "a.jpg")
    assert volume.array.shape == (3, 6, 7)
    assert not volume.calibrated


def test_palette_and_one_bit(tmp_path):
    Image.fromarray(RGB8).convert("P").save(tmp_path / "p.png")
    assert read_volume(tmp_path / "p.png").array.shape[0] == 3
    Image.fromarray(GRAY8 > 20).save(tmp_path / "b.png")
    assert set(np.unique(read_volume(tmp_path / "b.png").array)) == {0, 255}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_is_dropped_if_opaque_and_refused_if_not(tmp_path, suffix):
    for name, alpha in (("opaque", 255), ("clear", 10)):
        array = np.dstack([RGB8, np.full((6, 7), alpha, np.uint8)])
        path = tmp_path / (name + suffix)
        if suffix == ".png":
            Image.fromarray(array).save(path)
        else:
            tifffile.imwrite(path, array, photometric="rgb", extrasamples=["unassalpha"])
    volume = read_volume(tmp_path / f"opaque{suffix}")
    assert volume.array.shape == (3, 6, 7)
    assert "alpha" in volume.notes[0]
    with pytest.raises(ReadError) as caught:
        read_volume(tmp_path / f"clear{suffix}")
    assert caught.value.code == "IMAGE-ALPHA"


def test_multi_channel_tiff(tmp_path):
    array = np.stack([GRAY16 + i for i in range(5)])
    tifffile.imwrite(tmp_path / "pages.tif", array)
    tifffile.imwrite(tmp_path / "c.ome.tif", array, metadata={"axes": "CYX"})
    for name in ("pages.tif", "c.ome.tif"):
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.array, array)
        assert volume.channels[4].name == "channel4"


def test_ome_says_z_channels_and_size(tmp_path):
    array = phantom((4, 2, 6, 7)).astype(np.uint16)
    metadata = {"axes": "ZCYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
    tifffile.imwrite(tmp_path / "z.ome.tif", array, metadata=metadata)
    volume = read_volume(tmp_path / "z.ome.tif")
    assert np.array_equal(volume.array, array.swapaxes(0, 1))
    assert np.allclose(volume.spacing, (2e-3, 5e-4, 2.5e-4))
    assert volume.calibrated


def test_time_series_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "t.ome.tif", phantom((3, 6, 7)).astype(np.uint16), metadata={"axes": "TYX"})
    with pytest.raises(ReadError) as caught:
        read_volume(tmp_path / "t.ome.tif")
    assert caught.value.code == "IMAGE-AXES"


def test_pixel_size_of_the_file(tmp_path):
    # 0.25 um columns and 0.5 um rows in four ways
    tifffile.imwrite(tmp_path / "cm.tif", GRAY8, resolution=(40000, 20000), resolutionunit="CENTIMETER")
    tifffile.imwrite(tmp_path / "inch.tif", GRAY8, resolution=(101600, 50800), resolutionunit="INCH")
    tifffile.imwrite(tmp_path / "ij.tif", GRAY8, imagej=True, resolution=(4, 2), metadata={"unit": "um"})
    Image.fromarray(GRAY8).save(tmp_path / "phys.png", dpi=(101600, 50800))
    for name in ("cm.tif", "inch.tif", "ij.tif", "phys.png"):
        volume = read_volume(tmp_path / name)
        assert volume.calibrated, name
        assert np.allclose(volume.spacing, (5e-4, 2.5e-4), rtol=1e-3), name


@pytest.mark.parametrize("dpi", [72, 96, 300])
def test_screen_resolution_is_no_pixel_size(tmp_path, dpi):
    Image.fromarray(GRAY8).save(tmp_path / "a.png", dpi=(dpi, dpi))
    tifffile.imwrite(tmp_path / "a.tif", GRAY8, resolution=(dpi, dpi), resolutionunit="INCH")
    for name in ("a.png", "a.tif"):
        volume = read_volume(tmp_path / name)
        assert not volume.calibrated
        assert np.allclose(volume.spacing, 1)


def test_pixel_size_given_wins(tmp_path):
    Image.fromarray(GRAY8).save(tmp_path / "a.png", dpi=(101600, 50800))
    assert np.allclose(read_volume(tmp_path / "a.png", pixel_size_um=0.5).spacing, 5e-4)
    volume = read_volume(tmp_path / "a.png", pixel_size_um=(2, 3))
    assert np.allclose(volume.spacing, (2e-3, 3e-3))
    assert volume.calibrated
    for wrong in (0, -1, (1, 2, 3), float("nan")):
        with pytest.raises(ReadError) as caught:
            read_volume(tmp_path / "a.png", pixel_size_um=wrong)
        assert caught.value.code == "PIXEL-SIZE"


def test_png_bomb_is_refused(tmp_path):
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    blocks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(blocks))
    with pytest.raises(ReadError) as caught:
        read_volume(tmp_path / "bomb.png")
    assert caught.value.code == "READ-TOO-LARGE"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_damaged_files(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (50, 60), np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"text", b""):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ReadError) as caught:
            read_volume(tmp_path / name)
        assert caught.value.code == "IMAGE-UNREADABLE"


def test_lzw_tiff(tmp_path):
    for array in (GRAY8, GRAY16, RGB8):
        Image.fromarray(array).save(tmp_path / "a.tif", compression="tiff_lzw")
        volume = read_volume(tmp_path / "a.tif")
        assert np.array_equal(volume.array, array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0))


def test_gray_image_for_an_rgb_model_stays_gray(tmp_path):
    specs = [ChannelSpec(name) for name in ("r", "g", "b")]
    Image.fromarray(GRAY8).save(tmp_path / "gray.png")
    Image.fromarray(RGB8).save(tmp_path / "rgb.png")
    assert [c.name for c in read_study(tmp_path / "gray.png", specs).channels] == ["gray"]
    assert [c.name for c in read_study(tmp_path / "rgb.png", specs).channels] == ["r", "g", "b"]


def test_empty_image_is_noted_and_unknown_endings_refused(tmp_path):
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "a.png")
    assert any("same value" in note for note in read_volume(tmp_path / "a.png").notes)
    (tmp_path / "a.bmp").write_bytes(b"BM")
    with pytest.raises(ReadError) as caught:
        read_volume(tmp_path / "a.bmp")
    assert caught.value.code == "FORMAT"
