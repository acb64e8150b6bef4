"""PNG, JPEG and TIFF to (C, row, column) with a pixel size where the file has one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medpanoptic.errors import ReadError
from medpanoptic.geometry import spatial_affine
from medpanoptic.io.limits import check_size
from medpanoptic.io.tiff import Pixels, read_tiff, true_resolution
from medpanoptic.volume import Channel, Source, Volume

_CHANNELS = {1: ("gray",), 3: ("red", "green", "blue")}


def read_image(path: Path, pixel_size_um: float | Sequence[float] | None = None, *, is_label: bool = False) -> Volume:
    """Read one 2D image, or a TIFF stack that names its Z axis.

    Array (C, row, column), or (C, slice, row, column) for Z stacks: uint8 or uint16 as stored, C = 1 gray, 3 RGB,
    n for multi-channel TIFF. A fully opaque alpha channel is dropped.
    pixel_size_um : one number or one per axis, in place of the file's own; without either 1 mm per pixel stands in
    and ``calibrated`` is False. is_label : keep the indices of a palette, and 0 and 1 of a bilevel image.
    Raises ReadError: NOT-FOUND, IMAGE-UNREADABLE, IMAGE-ALPHA, IMAGE-COLOR, IMAGE-CODEC, IMAGE-AXES, PIXEL-SIZE,
    READ-TOO-LARGE.
    """
    if not path.is_file():
        raise ReadError("NOT-FOUND", f"{path}: no such file")
    pixels = read_tiff(path) if path.suffix.lower() in {".tif", ".tiff"} else _read_pillow(path, is_label)
    array, notes = _drop_alpha(pixels, path.name)
    return _volume(array, path, _spacing(pixel_size_um, array.ndim - 1, pixels.size_mm), notes)


def _drop_alpha(pixels: Pixels, name: str) -> tuple[NDArray, list[str]]:
    """Drop the last channel if it is alpha and opaque throughout; refuse transparency (IMAGE-ALPHA)."""
    array = pixels.array
    if not pixels.has_alpha:
        return array, list(pixels.notes)
    opaque = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
    if np.any(array[-1] != opaque):
        raise ReadError("IMAGE-ALPHA", f"{name}: has transparent pixels, which have no defined value; flatten it first")
    return array[:-1], [*pixels.notes, "dropped an opaque alpha channel"]


def _read_pillow(path: Path, is_label: bool) -> Pixels:
    try:
        with warnings.catch_warnings():
            # large images are checked against our own limit below
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                check_size((image.height, image.width, 4), 2, path.name)
                check_size((image.height, image.width, len(image.getbands())), 1, path.name, path.stat().st_size)
                if getattr(image, "n_frames", 1) > 1:
                    raise ReadError("IMAGE-AXES", f"{path.name}: an animation, not one image")
                # JPEG has a density too, but cameras and editors fill it with what they like
                known = image.format == "PNG" and "dpi" in image.info
                size = true_resolution(*image.info["dpi"]) if known else None
                array = _decode(image, path, is_label)
                return Pixels(array, size, _orientation_note(image), array.shape[0] in (2, 4))
    except Image.DecompressionBombError:
        raise ReadError("READ-TOO-LARGE", f"{path.name}: more pixels than the limit; crop or tile it") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise ReadError("IMAGE-UNREADABLE", f"{path.name}: not a readable PNG or JPEG, or truncated") from None


def _decode(image: Image.Image, path: Path, is_label: bool) -> NDArray:
    """Return (C, row, column) at the bit depth of the file."""
    if is_label and image.mode in {"P", "1"}:
        return np.asarray(image).astype(np.uint8)[None]
    if image.format == "PNG" and _png_depth(path) == 16 and image.mode in {"RGB", "RGBA", "LA"}:
        import SimpleITK as sitk  # noqa: N813

        image.load()
        # Pillow cuts these to 8 bits without a word
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="PNGImageIO"))
        return np.ascontiguousarray(np.moveaxis(array, -1, 0))
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode not in {"L", "LA", "RGB", "RGBA", "I;16", "I"}:
        raise ReadError("IMAGE-COLOR", f"{path.name}: colour mode {image.mode} is not gray or RGB; convert it first")
    array = np.asarray(image)
    array = array.astype(np.uint16) if array.dtype.itemsize > 1 else array
    return array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array, -1, 0))


def _png_depth(path: Path) -> int:
    """Bit depth from IHDR, always the first chunk. Source: PNG specification 11.2.2"""
    with path.open("rb") as file:
        return file.read(25)[24]


def _orientation_note(image: Image.Image) -> tuple[str, ...]:
    turned = image.getexif().get(0x0112, 1) not in (0, 1)
    return ("the file asks viewers to rotate it (EXIF); pixels are read as stored",) if turned else ()


def _spacing(
    pixel_size_um: float | Sequence[float] | None, ndim: int, size_mm: tuple[float, ...] | None
) -> tuple[float, ...] | None:
    if pixel_size_um is None:
        return size_mm
    given = np.atleast_1d(np.asarray(pixel_size_um, float))
    values = np.repeat(given, ndim) if given.size == 1 else given
    if values.shape != (ndim,) or not np.all(np.isfinite(values)) or np.any(values <= 0):
        raise ReadError(
            "PIXEL-SIZE", f"the pixel size must be 1 or {ndim} positive numbers (one per axis), in micrometres"
        )
    return tuple((values / 1000).tolist())


def _volume(array: NDArray, path: Path, spacing: tuple[float, ...] | None, notes: list[str]) -> Volume:
    count, ndim = array.shape[0], array.ndim - 1
    names = _CHANNELS.get(count, tuple(f"channel{i}" for i in range(count)))
    if spacing is None:
        notes = [*notes, "no pixel size in the file: 1 mm per pixel stands in, sizes are in pixels"]
    affine = spatial_affine(spacing or (1.0,) * ndim)
    channels = tuple(Channel(name) for name in names)
    return Volume(array, affine, channels, Source(paths=(path,)), calibrated=spacing is not None, notes=tuple(notes))
