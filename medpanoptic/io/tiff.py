"""TIFF: axes, channels and pixel size by its own tags, ImageJ's or OME-XML."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from medpanoptic.errors import ReadError
from medpanoptic.io.limits import check_size

# Pixels per inch that screens, printers, scanners and cameras write by default. They say nothing about the object.
_DEFAULT_DPI = (1, 72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 220, 240, 250, 300, 350, 360, 400, 600, 1200)
_UNIT_MM = {"m": 1000.0, "cm": 10.0, "mm": 1.0, "µm": 1e-3, "um": 1e-3, "micron": 1e-3, "microns": 1e-3, "nm": 1e-6}
_UNIT_MM |= {"μm": 1e-3, "\\u00b5m": 1e-3, "inch": 25.4}

Size = tuple[float, ...] | None


def read_tiff(path: Path) -> tuple[NDArray, Size, list[str]]:
    """Return (C, row, column) or (C, slice, row, column), the size in mm per axis or None, and notes.

    Pages without a named axis are channels; a stack is 3D only where OME-XML or ImageJ names its Z axis.
    Raises ReadError: IMAGE-UNREADABLE, IMAGE-CODEC, IMAGE-AXES, READ-TOO-LARGE.
    """
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            axes = _Axes(series.axes, tuple(int(n) for n in series.shape), path.name)
            check_size(series.shape, series.dtype.itemsize, path.name)
            array = axes.arrange(_decode(series, path))
            size = _size(file, array.ndim - 1)
            more = len(file.series) - 1
    except (tifffile.TiffFileError, OSError, IndexError, KeyError, TypeError):
        raise ReadError("IMAGE-UNREADABLE", f"{path.name}: not a readable TIFF, damaged or truncated") from None
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 4:
        raise ReadError("IMAGE-COLOR", f"{path.name}: {array.dtype} pixels are not a gray or colour image")
    return array, size, [f"read the first of {more + 1} images in the file"] if more else []


def true_resolution(x_dpi: float, y_dpi: float) -> Size:
    """Turn pixels per inch into mm (row, column), or None where they are a screen's or printer's default."""
    default = [any(abs(dpi - d) < 0.005 * d + 0.05 for d in _DEFAULT_DPI) for dpi in (x_dpi, y_dpi)]
    if any(default) or not (0 < x_dpi < 1e9 and 0 < y_dpi < 1e9):
        return None
    return 25.4 / float(y_dpi), 25.4 / float(x_dpi)


class _Axes:
    """How the axes of a TIFF series map to (C, [slice,] row, column)."""

    def __init__(self, axes: str, shape: tuple[int, ...], name: str) -> None:
        self.shape = shape
        kept = [i for i, (axis, n) in enumerate(zip(axes, shape, strict=True)) if n > 1 or axis in "YX"]
        letters = "".join(axes[i] for i in kept)
        # samples (S), channels (C), and pages of no name (I, Q) are channels
        channel = [i for i, axis in zip(kept, letters, strict=True) if axis in "SCIQ"]
        depth = [i for i, axis in zip(kept, letters, strict=True) if axis == "Z"]
        plane = [axes.find("Y"), axes.find("X")]
        if set(letters) - set("SCIQZYX") or min(plane) < 0 or len(channel) > 1:
            raise ReadError(
                "IMAGE-AXES",
                f"{name}: axes {axes} of size {list(shape)} are not one image; save a single time point",
            )
        self.order = [*channel, *depth, *plane]
        self.has_channel = bool(channel)

    def arrange(self, array: NDArray) -> NDArray:
        """Return the array channels first."""
        rest = [i for i in range(len(self.shape)) if i not in self.order]
        moved = array.reshape(self.shape).transpose([*rest, *self.order])[(0,) * len(rest)]
        return np.ascontiguousarray(moved if self.has_channel else moved[None])


def _decode(series: tifffile.TiffPageSeries, path: Path) -> NDArray:
    try:
        return series.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise ReadError("IMAGE-UNREADABLE", f"{path.name}: not a readable TIFF, damaged or truncated") from None
    # LZW and JPEG need a codec that tifffile lacks here; Pillow has them, for single pages of 8 bits or gray
    depth = series.dtype.itemsize
    if len(series.pages) == 1 and (depth == 1 or (depth == 2 and series.ndim == 2)):
        with Image.open(path) as image:
            array = np.asarray(image)
        if array.size == np.prod(series.shape):
            return array
    raise ReadError("IMAGE-CODEC", f"{path.name}: TIFF compression not supported; save it uncompressed or as deflate")


def _size(file: tifffile.TiffFile, ndim: int) -> Size:
    """Pixel size in mm per spatial axis: OME-XML, then ImageJ, then the resolution tags."""
    if file.is_ome and file.ome_metadata:
        return _ome_size(file.ome_metadata, ndim)
    page = file.pages.first
    if file.is_imagej:
        plane = _imagej_size(file, page)
        depth = (file.imagej_metadata or {}).get("spacing")
        unit = _unit_mm((file.imagej_metadata or {}).get("unit"))
        if ndim == 3:
            return (float(depth) * unit, *plane) if plane and depth and unit else None
        return plane
    return _tag_size(page) if ndim == 2 else None


def _ome_size(xml: str, ndim: int) -> Size:
    """PhysicalSizeX, Y, Z of the first image. A pattern and no XML parser: these files come from anywhere."""
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", xml)
    sizes = []
    for axis in "ZYX"[-ndim:]:
        text = pixels.group(0) if pixels else ""
        value = re.search(rf'\bPhysicalSize{axis}="([^"]+)"', text)
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', text)
        factor = _unit_mm(unit.group(1) if unit else "µm")
        sizes.append(_positive(value.group(1)) * factor if value and factor else 0.0)
    return tuple(sizes) if all(s > 0 for s in sizes) else None


def _imagej_size(file: tifffile.TiffFile, page: tifffile.TiffPage) -> Size:
    unit = _unit_mm((file.imagej_metadata or {}).get("unit"))
    per_unit = _resolution(page)
    return (unit / per_unit[0], unit / per_unit[1]) if unit and per_unit else None


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
