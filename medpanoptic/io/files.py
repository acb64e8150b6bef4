"""One path to one volume: the format is told from folders, first bytes and file endings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medpanoptic.errors import ReadError
from medpanoptic.io.dicom import load_series
from medpanoptic.io.dicom_files import looks_like_dicom
from medpanoptic.io.dicom_series import scan_folder, select_series
from medpanoptic.io.images import read_image
from medpanoptic.io.itk import read_itk
from medpanoptic.io.nifti import read_nifti
from medpanoptic.volume import Volume

NIFTI_ENDINGS = (".nii", ".nii.gz")
ITK_ENDINGS = (".mha", ".mhd", ".nrrd")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
FILE_ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS, *IMAGE_ENDINGS, ".dcm")


def is_dicom(path: Path) -> bool:
    """Tell whether a path is read as DICOM: a folder, or a file that starts like one and has no other known ending."""
    if path.is_dir():
        return True
    name = path.name.lower()
    return path.is_file() and (name.endswith(".dcm") or (not name.endswith(FILE_ENDINGS) and looks_like_dicom(path)))


def read_file(path: Path, pixel_size_um: float | Sequence[float] | None = None) -> Volume:
    """Read one file that is not DICOM. Raises ReadError (FORMAT, NOT-FOUND and those of each format)."""
    name = path.name.lower()
    if not path.exists():
        raise ReadError("NOT-FOUND", f"{path}: no such file or folder")
    if name.endswith(NIFTI_ENDINGS):
        return check_values(read_nifti(path), path.name)
    if name.endswith(ITK_ENDINGS):
        return check_values(read_itk(path), path.name)
    if name.endswith(IMAGE_ENDINGS):
        return check_values(read_image(path, pixel_size_um), path.name)
    raise ReadError("FORMAT", f"{path.name}: unknown format; known are DICOM folders, {', '.join(FILE_ENDINGS)}")


def read_dicom(path: Path, series: str | None) -> Volume:
    """Read the one series of a folder or file, or the one named by its handle or UID."""
    scan = scan_folder(path)
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
