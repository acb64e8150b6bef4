"""MHA, MHD and NRRD through SimpleITK, which speaks LPS."""

from __future__ import annotations

import re
import zlib
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from medpanoptic.errors import ReadError
from medpanoptic.geometry import Affine, reverse_axes
from medpanoptic.io.limits import check_size
from medpanoptic.volume import Channel, Source, Volume

_HEADER_BYTES = 65536
_META_KEYS = ("NDims", "DimSize", "ElementType")


def read_itk(path: Path) -> Volume:
    """Read one file into a (C, *S) volume; vector components become channels.

    Raises ReadError: NOT-FOUND, ITK-UNREADABLE, ITK-EXTERNAL (the header points at a file elsewhere), READ-TOO-LARGE,
    SHAPE.
    """
    pixels, start = _find_pixels(path)
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
        check_size(sizes, itemsize, path.name, pixels.stat().st_size)
        if path.suffix.lower() != ".nrrd":
            _check_length(path, pixels, start, prod(sizes) * itemsize)
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
    return Volume(np.ascontiguousarray(array), itk_affine(image), names, Source(paths=(path,)))


def itk_affine(image: sitk.Image) -> Affine:
    """Return index (slice, row, column) or (row, column) -> LPS mm of a SimpleITK image."""
    ndim = image.GetDimension()
    step = np.reshape(image.GetDirection(), (ndim, ndim)) * np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:ndim, :ndim] = step
    affine[:ndim, 3] = image.GetOrigin()
    return affine[:, [1, 0, 2, 3]] if ndim == 2 else reverse_axes(affine)


def _find_pixels(path: Path) -> tuple[Path, int]:
    """Return the file that holds the pixels, and the byte where they start in it.

    Refuses headers that name a file outside the folder: they could name any file of the machine.
    """
    if not path.is_file():
        raise ReadError("NOT-FOUND", f"{path}: no such file")
    start = _header(path)
    meta = path.suffix.lower() in {".mha", ".mhd"}
    if not meta:
        # an NRRD header ends at the first empty line; pixels follow, or the "data file" field names their place
        start, end, _ = start.replace("\r\n", "\n").partition("\n\n")
        if not end:
            raise ReadError("ITK-UNREADABLE", f"{path.name}: not an NRRD file, or its header is damaged")
    key = r"^ElementDataFile\s*=\s*(.+)$" if meta else r"^data ?file:\s*(.+)$"
    found = re.search(key, start, re.MULTILINE | re.IGNORECASE)
    # ITK prints its complaints to the terminal
    if meta and not (found and all(re.search(rf"^{key}\s*=\s*\S", start, re.MULTILINE) for key in _META_KEYS)):
        raise ReadError("ITK-UNREADABLE", f"{path.name}: not a MetaImage file, or its header is damaged")
    target = found.group(1).strip() if found else "LOCAL"
    if target.upper() == "LOCAL":
        return path, found.end() + 1 if found else 0
    plain = re.fullmatch(r"[^/\\%\x00-\x1f]+", target) and not target.upper().startswith("LIST")
    beside = path.parent / target
    if not plain or beside.resolve().parent != path.parent.resolve():
        raise ReadError("ITK-EXTERNAL", f"{path.name}: its pixels lie in other files or folders; save it as one file")
    if not beside.is_file():
        raise ReadError("ITK-UNREADABLE", f"{path.name}: the file that holds its pixels is not beside it")
    return beside, 0


def _header(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES).decode("latin-1")


def _check_length(path: Path, pixels: Path, start: int, decoded: int) -> None:
    """Refuse a MetaImage whose pixels are cut off or damaged: ITK allocates for all, and prints to the terminal."""
    compressed = re.search(r"^CompressedData\s*=\s*T", _header(path), re.MULTILINE | re.IGNORECASE)
    length = _inflated(pixels, start, decoded) if compressed else pixels.stat().st_size - start
    if length < decoded:
        raise ReadError("ITK-UNREADABLE", f"{path.name}: truncated or damaged, fewer pixels than its header says")


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
