"""One path to one volume: the format is told from folders, first bytes and file endings; archives are unpacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medpanoptic.errors import GeometryError, ReadError
from medpanoptic.io.archive import ARCHIVE_ENDINGS, is_archive, read_unpacked
from medpanoptic.io.dicom import load_series
from medpanoptic.io.dicom_files import looks_like_dicom
from medpanoptic.io.dicom_series import scan_folder, select_series
from medpanoptic.io.dicom_slide import read_slide
from medpanoptic.io.images import read_image
from medpanoptic.io.itk import read_itk
from medpanoptic.io.nifti import read_nifti
from medpanoptic.volume import Volume

NIFTI_ENDINGS = (".nii", ".nii.gz")
ITK_ENDINGS = (".mha", ".mhd", ".nrrd")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
FILE_ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS, *IMAGE_ENDINGS, ".dcm")
# electron microscopy is above the one, a voxel in the wrong unit above the other
_SMALLEST_MM, _LARGEST_MM = 1e-7, 1e3
# what people try, and why it is not read
_REFUSED = {
    ".npy": "NumPy files hold no geometry, and their pickled objects are unsafe; use Volume.from_array",
    ".npz": "NumPy files hold no geometry, and their pickled objects are unsafe; use Volume.from_array",
    ".hdr": "a NIfTI or Analyze pair (.hdr, .img) is not one file; convert it to .nii.gz",
    ".img": "a NIfTI or Analyze pair (.hdr, .img) is not one file; convert it to .nii.gz",
} | dict.fromkeys(ARCHIVE_ENDINGS, "an archive inside an archive is not opened; unpack the outer one")


def is_dicom(path: Path) -> bool:
    """Tell whether a path is read as DICOM: a folder, or a file that starts like one and has no other known ending."""
    if path.is_dir():
        return True
    name = path.name.lower()
    return path.is_file() and (name.endswith(".dcm") or (not name.endswith(FILE_ENDINGS) and looks_like_dicom(path)))


def read_any(path: Path, series: str | None, pixel_size_um: float | Sequence[float] | None = None) -> Volume:
    """Read an archive, a DICOM folder or file, or a file of another format. See ``read_volume``."""
    if is_archive(path):
        return read_unpacked(path, lambda inside: _read_plain(inside, series, pixel_size_um))
    return _read_plain(path, series, pixel_size_um)


def _read_plain(path: Path, series: str | None, pixel_size_um: float | Sequence[float] | None) -> Volume:
    return read_dicom(path, series) if is_dicom(path) else read_file(path, pixel_size_um)


def read_file(path: Path, pixel_size_um: float | Sequence[float] | None = None, *, is_label: bool = False) -> Volume:
    """Read one file that is not DICOM.

    is_label : whole numbers with a meaning: palette indices are kept, and values are for the caller to check.
    Raises ReadError (FORMAT, NOT-FOUND, VOXEL-NAN and those of each format).
    """
    name = path.name.lower()
    if not path.exists():
        raise ReadError("NOT-FOUND", f"{path}: no such file or folder")
    if not path.is_file():
        # a pipe or a device would be read for ever
        raise ReadError("FORMAT", f"{path.name}: not a regular file")
    if name.endswith(NIFTI_ENDINGS):
        volume = read_nifti(path, is_label=is_label)
    elif name.endswith(ITK_ENDINGS):
        volume = read_itk(path)
    elif name.endswith(IMAGE_ENDINGS):
        volume = read_image(path, pixel_size_um, is_label=is_label)
    else:
        why = next((text for ending, text in _REFUSED.items() if name.endswith(ending)), "unknown format")
        known = ", ".join((*FILE_ENDINGS, *ARCHIVE_ENDINGS))
        raise ReadError("FORMAT", f"{path.name}: {why}; known are DICOM folders, {known}")
    if np.any(volume.spacing < _SMALLEST_MM) or np.any(volume.spacing > _LARGEST_MM):
        what = f"voxels of {' x '.join(f'{v:.3g}' for v in volume.spacing)} mm"
        raise GeometryError("GEO-PIXEL-SPACING", f"{path.name}: {what} are no size of an image; check spacing and unit")
    return volume if is_label else check_values(volume, path.name)


def read_dicom(path: Path, series: str | None) -> Volume:
    """Read the one series of a folder or file, or the one named by its handle or UID; without one, a slide's level."""
    scan = scan_folder(path)
    slide = None if scan.series else read_slide(path, series)
    if slide is not None:
        return note_constant(slide)
    return note_constant(load_series(select_series(scan, series), scan.notes))


def check_values(volume: Volume, name: str) -> Volume:
    """Refuse NaN and infinity (VOXEL-NAN), which spread through every filter; note an empty image."""
    if volume.array.dtype.kind == "f" and not np.all(np.isfinite(volume.array)):
        count = int(np.sum(~np.isfinite(volume.array)))
        raise ReadError("VOXEL-NAN", f"{name}: {count} voxels are NaN or infinite; set them to a number first")
    return note_constant(volume)


def note_constant(volume: Volume) -> Volume:
    """Say so if every voxel has one value: an empty export reads without an error otherwise."""
    if volume.array.min() < volume.array.max():
        return volume
    return replace(volume, notes=(*volume.notes, "all voxels have the same value: the image is empty"))
