"""TIFF: axes, channels and pixel size by its own tags, ImageJ's or OME-XML."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from medpanoptic.errors import ReadError
from medpanoptic.io.limits import check_size
from medpanoptic.io.quiet import quiet

# Pixels per inch that screens, printers, scanners and cameras write by default. They say nothing about the object.
_DEFAULT_DPI = (1, 72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 220, 240, 250, 300, 350, 360, 400, 600, 1200)
_UNIT_MM = {"m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 1e-3, "micron": 1e-3, "microns": 1e-3, "nm": 1e-6, "inch": 25.4}
# micro sign, Greek mu, and the escape that ImageJ writes
_UNIT_MM |= {"\u00b5m": 1e-3, "\u03bcm": 1e-3, "\\u00b5m": 1e-3}
_ALPHA_SAMPLES = {1, 2}
_PALETTE, _WHITE_IS_ZERO = 3, 0

Size = tuple[float, ...] | None


@dataclass(frozen=True, eq=False)
class Pixels:
    """A decoded image file.

    array : (C, row, column) or (C, slice, row, column). size_mm : per spatial axis, None if the file does not say.
    has_alpha : the last channel is transparency.
    """

    array: NDArray
    size_mm: Size
    notes: tuple[str, ...] = ()
    has_alpha: bool = False


def read_tiff(path: Path) -> Pixels:
    """Read the first image of a TIFF at full resolution.

    Pages without a named axis are channels; a stack is 3D only where OME-XML or ImageJ names its Z axis.
    Values are as stored, also where 0 means white.
    Raises ReadError: IMAGE-UNREADABLE, IMAGE-CODEC, IMAGE-AXES, IMAGE-COLOR, READ-TOO-LARGE.
    """
    try:
        # an OME, MicroManager or NDTiff file can name other files of the disk, which nobody gave us to read
        with quiet("tifffile"), tifffile.TiffFile(path, _multifile=False, is_mmstack=False, is_ndtiff=False) as file:
            series = file.series[0]
            shape = tuple(int(n) for n in series.shape)
            order, has_channel = _axis_order(series.axes, shape, path.name)
            check_size(shape, series.dtype.itemsize, path.name, path.stat().st_size)
            array = _arrange(_decode(series, path), shape, order, has_channel)
            page = file.pages.first
            alpha = "S" in series.axes and bool(_ALPHA_SAMPLES & {int(e) for e in page.extrasamples})
            pixels = Pixels(array, _size(file, array.ndim - 1), _notes(file), alpha)
            palette = int(page.photometric) == _PALETTE
    except ReadError:
        raise
    except Exception:  # on damaged tags tifffile fails with anything, from ZeroDivisionError to AssertionError
        raise ReadError("IMAGE-UNREADABLE", f"{path.name}: not a readable TIFF, damaged or truncated") from None
    if palette or array.dtype.kind not in "iuf" or array.dtype.itemsize > 4:
        raise ReadError("IMAGE-COLOR", f"{path.name}: palette or {array.dtype} pixels are not a gray or RGB image")
    return pixels


def true_resolution(x_dpi: float, y_dpi: float) -> Size:
    """Turn pixels per inch into mm (row, column), or None where they are a screen's or printer's default."""
    default = [any(abs(dpi - d) < 0.005 * d + 0.05 for d in _DEFAULT_DPI) for dpi in (x_dpi, y_dpi)]
    if any(default) or not (0 < x_dpi < 1e9 and 0 < y_dpi < 1e9):
        return None
    return 25.4 / float(y_dpi), 25.4 / float(x_dpi)


def _axis_order(axes: str, shape: tuple[int, ...], name: str) -> tuple[list[int], bool]:
    """Return the axes in the order ([channel,] [slice,] row, column) and whether there is a channel axis."""
    kept = [i for i, n in enumerate(shape) if n > 1 or axes[i] in "YX"]
    # samples (S), channels (C), and pages of no name (I, Q) are channels
    channel = [i for i in kept if axes[i] in "SCIQ"]
    depth = [i for i in kept if axes[i] == "Z"]
    plane = [axes.find("Y"), axes.find("X")]
    if len(channel) + len(depth) + 2 != len(kept) or min(plane) < 0 or len(channel) > 1:
        raise ReadError(
            "IMAGE-AXES", f"{name}: axes {axes} of size {list(shape)} are not one image; save a single time point"
        )
    return [*channel, *depth, *plane], bool(channel)


def _arrange(array: NDArray, shape: tuple[int, ...], order: list[int], has_channel: bool) -> NDArray:
    """Return the array channels first, without axes of length 1 that were not kept."""
    rest = [i for i in range(len(shape)) if i not in order]
    moved = array.reshape(shape).transpose([*rest, *order])[(0,) * len(rest)]
    return np.ascontiguousarray(moved if has_channel else moved[None])


def _decode(series: tifffile.TiffPageSeries, path: Path) -> NDArray:
    try:
        return series.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise ReadError("IMAGE-UNREADABLE", f"{path.name}: not a readable TIFF, or truncated") from None
    # LZW and JPEG need a codec that tifffile lacks here; Pillow has them, for single pages of 8 bits or gray
    single = len(series.pages) == 1 and series.axes in {"YX", "YXS"}
    if single and (series.dtype == np.uint8 or (series.dtype == np.uint16 and series.axes == "YX")):
        with Image.open(path, formats=("TIFF",)) as image:
            array = np.asarray(image.convert("RGB") if image.mode == "YCbCr" else image)
        if array.shape == tuple(series.shape):
            return array.astype(series.dtype)
    raise ReadError("IMAGE-CODEC", f"{path.name}: TIFF compression not supported; save it uncompressed or as deflate")


def _notes(file: tifffile.TiffFile) -> tuple[str, ...]:
    notes = []
    if len(file.series) > 1:
        notes.append(f"read the first of {len(file.series)} images in the file")
    if int(file.pages.first.photometric) == _WHITE_IS_ZERO:
        notes.append("0 is white in this file; values are read as stored")
    return tuple(notes)


def _size(file: tifffile.TiffFile, ndim: int) -> Size:
    """Pixel size in mm per spatial axis: OME-XML, then ImageJ, then the resolution tags."""
    if file.is_ome and file.ome_metadata:
        return _ome_size(file.ome_metadata, ndim)
    if file.is_imagej:
        return _imagej_size(file, ndim)
    return _tag_size(file.pages.first) if ndim == 2 else None


def _ome_size(xml: str, ndim: int) -> Size:
    """PhysicalSizeX, Y, Z of the first image. A pattern and no XML parser: these files come from anywhere."""
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", xml)
    text = pixels.group(0) if pixels else ""
    sizes = []
    for axis in "ZYX"[-ndim:]:
        value = re.search(rf'\bPhysicalSize{axis}="([^"]+)"', text)
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', text)
        factor = _unit_mm(unit.group(1) if unit else "\u00b5m")
        sizes.append(_positive(value.group(1)) * factor if value else 0.0)
    return tuple(sizes) if all(s > 0 for s in sizes) else None


def _imagej_size(file: tifffile.TiffFile, ndim: int) -> Size:
    """ImageJ writes pixels per unit into the resolution tags and the unit and slice spacing into its description."""
    words = file.imagej_metadata or {}
    unit, per_unit = _unit_mm(words.get("unit")), _resolution(file.pages.first)
    if not unit or per_unit is None:
        return None
    plane = (unit / per_unit[0], unit / per_unit[1])
    depth = _positive(str(words.get("spacing", ""))) * unit
    return plane if ndim == 2 else (depth, *plane) if depth > 0 else None


def _tag_size(page: tifffile.TiffPage) -> Size:
    """ResolutionUnit 2 is inch, 3 centimetre, 1 none. Source: TIFF 6.0, section 8"""
    per_unit, unit = _resolution(page), page.tags.get("ResolutionUnit")
    code = int(unit.value) if unit is not None else 2
    if per_unit is None or code not in (2, 3):
        return None
    per_inch = 1.0 if code == 2 else 2.54
    return true_resolution(per_unit[1] * per_inch, per_unit[0] * per_inch)


def _resolution(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Return pixels per unit (row, column)."""
    tags = [page.tags.get(name) for name in ("YResolution", "XResolution")]
    if any(tag is None or not tag.value[0] or not tag.value[1] for tag in tags):
        return None
    row, column = (tag.value[0] / tag.value[1] for tag in tags)
    return row, column


def _unit_mm(unit: object) -> float:
    return _UNIT_MM.get(str(unit or "").strip().lower(), 0.0)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0 < value < float("inf") else 0.0
