"""MHA, MHD and NRRD through SimpleITK, which speaks LPS."""

from __future__ import annotations

import zlib
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medpanoptic.errors import ReadError
from medpanoptic.geometry import Affine, is_rigid, reverse_axes
from medpanoptic.io.itk_header import ItkHeader, read_itk_header
from medpanoptic.io.limits import check_size
from medpanoptic.volume import Channel, Source, Volume

if TYPE_CHECKING:
    import SimpleITK

_UNCALIBRATED = "no pixel size in the file: 1 mm per pixel stands in, sizes are in pixels"


def read_itk(path: Path) -> Volume:
    """Read one file into a (C, *S) volume; vector components become channels.

    Raises ReadError: NOT-FOUND, ITK-UNREADABLE, ITK-EXTERNAL (the header points at a file elsewhere), READ-TOO-LARGE,
    SHAPE; GeometryError: GEO-PIXEL-SPACING, GEO-AFFINE, GEO-ORIENTATION, ITK-UNITS.
    """
    import SimpleITK as sitk  # noqa: N813

    header = read_itk_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        shape = reader.GetSize()
        if len(shape) not in (2, 3):
            raise ReadError("SHAPE", f"{path.name}: {len(shape)} axes; an image has 2 or 3 (give one volume per file)")
        sizes = (*shape, reader.GetNumberOfComponents())
        itemsize = sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
        check_size(sizes, 8, path.name)
        check_size(sizes, itemsize, path.name, header.pixels.stat().st_size)
        if path.suffix.lower() != ".nrrd" or (header.start >= 0 and not header.compressed):
            _check_length(path, header, prod(sizes) * itemsize)
        image = reader.Execute()
    except RuntimeError:
        raise ReadError("ITK-UNREADABLE", f"{path.name}: not a readable {path.suffix} file, or truncated") from None
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind not in "iuf":
        raise ReadError("ITK-UNREADABLE", f"{path.name}: complex values are no image")
    array = array.astype(np.float32) if array.dtype.kind == "f" else array
    parts = image.GetNumberOfComponentsPerPixel()
    array = np.moveaxis(array, -1, 0) if parts > 1 else array[None]
    names = tuple(Channel("image" if parts == 1 else f"channel{i}") for i in range(parts))
    affine = itk_affine(image)
    affine[:3, : image.GetDimension()] *= header.scale
    affine[:3, 3] *= header.scale
    notes = header.notes if header.calibrated else (*header.notes, _UNCALIBRATED)
    if not is_rigid(affine):
        notes = (*notes, "the affine is sheared (a tilted acquisition), kept as it is")
    source = Source(paths=(path,))
    return Volume(np.ascontiguousarray(array), affine, names, source, header.calibrated, notes)


def itk_affine(image: SimpleITK.Image) -> Affine:
    """Return index (slice, row, column) or (row, column) -> LPS mm of a SimpleITK image."""
    ndim = image.GetDimension()
    step = np.reshape(image.GetDirection(), (ndim, ndim)) * np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:ndim, :ndim] = step
    affine[:ndim, 3] = image.GetOrigin()
    return affine[:, [1, 0, 2, 3]] if ndim == 2 else reverse_axes(affine)


def _check_length(path: Path, header: ItkHeader, decoded: int) -> None:
    """Refuse pixels that are cut off, damaged or too many: ITK allocates for all, and prints to the terminal."""
    if header.compressed:
        length = _inflated(header.pixels, header.start, decoded)
    else:
        length = header.pixels.stat().st_size - header.start
    if length < decoded:
        raise ReadError("ITK-UNREADABLE", f"{path.name}: truncated or damaged, fewer pixels than its header says")
    if length > decoded:
        raise ReadError("ITK-UNREADABLE", f"{path.name}: damaged header, more data than the size it says")


def _inflated(pixels: Path, start: int, enough: int) -> int:
    """Return how many bytes a zlib or gzip stream gives up to its end, which must be sound; stop at ``enough``."""
    unpacker, size = zlib.decompressobj(32 + zlib.MAX_WBITS), 0
    with pixels.open("rb") as file:
        file.seek(start)
        data = file.read(2**20)
        while data and not unpacker.eof and size <= enough:
            try:
                size += len(unpacker.decompress(data, 2**22))
            except zlib.error:
                return 0
            data = unpacker.unconsumed_tail or file.read(2**20)
    return size if unpacker.eof else 0
