"""MHA, MHD and NRRD through SimpleITK, which speaks LPS."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from medpanoptic.errors import ReadError
from medpanoptic.geometry import Affine, reverse_axes
from medpanoptic.io.limits import check_size
from medpanoptic.volume import Channel, Source, Volume

_HEADER_BYTES = 65536


def read_itk(path: Path) -> Volume:
    """Read one file into a (C, *S) volume; vector components become channels.

    Raises ReadError: NOT-FOUND, ITK-UNREADABLE, ITK-EXTERNAL (the header points at a file elsewhere), READ-TOO-LARGE,
    SHAPE.
    """
    _check_data_file(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        shape = reader.GetSize()
        if len(shape) not in (2, 3):
            raise ReadError("SHAPE", f"{path.name}: {len(shape)} axes; an image has 2 or 3 (give one volume per file)")
        check_size((*shape, reader.GetNumberOfComponents()), 8, path.name)
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


def _check_data_file(path: Path) -> None:
    """Refuse headers whose pixels lie in a file outside the folder: they could name any file of the machine."""
    if not path.is_file():
        raise ReadError("NOT-FOUND", f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES).decode("latin-1")
    meta = path.suffix.lower() in {".mha", ".mhd"}
    if not meta:
        # an NRRD header ends at the first empty line; pixels follow, or the "data file" field names their place
        start, end, _ = start.replace("\r\n", "\n").partition("\n\n")
        if not end:
            raise ReadError("ITK-UNREADABLE", f"{path.name}: not an NRRD file, or its header is damaged")
    key = r"^ElementDataFile\s*=\s*(.+)$" if meta else r"^data ?file:\s*(.+)$"
    found = re.search(key, start, re.MULTILINE | re.IGNORECASE)
    if meta and not found:
        raise ReadError("ITK-UNREADABLE", f"{path.name}: not a MetaImage file, or its header is damaged")
    target = found.group(1).strip() if found else "LOCAL"
    if target.upper() == "LOCAL":
        return
    plain = re.fullmatch(r"[^/\\%\x00-\x1f]+", target) and not target.upper().startswith("LIST")
    if not plain or (path.parent / target).resolve().parent != path.parent.resolve():
        raise ReadError("ITK-EXTERNAL", f"{path.name}: its pixels lie in other files or folders; save it as one file")
