"""Write and read result folders. A new format is one file beside this one and one row in ``FORMATS``."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medpanoptic.errors import ReadError, WriteError
from medpanoptic.io import result_files
from medpanoptic.io.coco import write_coco
from medpanoptic.io.dicom_seg import write_dicom_seg
from medpanoptic.io.overlay import write_overlay
from medpanoptic.result import PanopticResult
from medpanoptic.volume import Volume

Writer = Callable[[PanopticResult, Path, Volume | None], list[Path]]


class Format(NamedTuple):
    """One row of ``FORMATS``. ``write(result, folder, volume)`` returns the files made; ``ndims`` are 2, 3 or both."""

    description: str
    write: Writer
    ndims: tuple[int, ...]
    files: tuple[str, ...]


FORMATS: Mapping[str, Format] = {
    "json": Format(
        "table of classes, segments and provenance (always written)",
        result_files.write_table,
        (2, 3),
        ("segments.json",),
    ),
    "nifti": Format(
        "int32 id map: NIfTI for volumes, TIFF for 2D (always written)",
        result_files.write_maps,
        (2, 3),
        ("panoptic.nii.gz", "panoptic.tif", "stuff.nii.gz", "stuff.tif"),
    ),
    "csv": Format("one row per segment", result_files.write_csv, (2, 3), ("segments.csv",)),
    "png": Format("picture with segments drawn over the image", write_overlay, (2, 3), ("overlay.png",)),
    "dicom-seg": Format("DICOM Segmentation that points at the source slices", write_dicom_seg, (3,), ("seg.dcm",)),
    "coco": Format(
        "COCO panoptic JSON and PNG, one PNG per slice for volumes",
        write_coco,
        (2, 3),
        ("coco_panoptic.json", "coco_panoptic.png", "coco_panoptic"),
    ),
}
# what read_result needs
_ALWAYS = ("json", "nifti")
_ATTEMPTS = 10  # to put a folder in place while others do the same


def write_result(
    result: PanopticResult,
    folder: Path,
    *,
    formats: Sequence[str] = ("nifti", "csv", "png"),
    volume: Volume | None = None,
) -> dict[str, list[Path]]:
    """Write one case folder, whole or not at all, and return the files of each format.

    formats : names from ``FORMATS``; "json" and "nifti" (the id map) are always written.
    volume : the image, for overlay.png (drawn over black without it) and, after ``read_result``, for DICOM SEG.
    The same result gives the same bytes. A folder written earlier is replaced; files in it that are not ours are kept.
    Raises WriteError: FORMAT-UNKNOWN, FORMAT-NDIM, FORMAT-NEEDS-DICOM, FORMAT-SHAPE, FOLDER-FOREIGN, WRITE-OS.
    """
    names = _check_formats(result, formats)
    folder = Path(folder)
    if volume is not None and volume.shape != result.ids.shape:
        raise WriteError(
            "FORMAT-SHAPE", f"the image has shape {volume.shape}, the result {result.ids.shape}: not one case"
        )
    with _new_folder(folder) as draft:
        files = {name: FORMATS[name].write(result, draft, volume) for name in names}
    return {name: [folder / path.relative_to(draft) for path in paths] for name, paths in files.items()}


def read_result(path: Path) -> PanopticResult:
    """Read a case folder, or the segments.json in it.

    Equal to what was written, but for the source UIDs and the masks of dropped candidates, which are not stored.
    Raises ReadError: RESULT-MISSING, RESULT-FORMAT, RESULT-VERSION, RESULT-SHAPE, RESULT-DAMAGED; ResultError.
    """
    path = Path(path)
    table = path / result_files.TABLE if path.is_dir() else path
    data = result_files.read_json(table)
    shape = _shape(data, table)
    ids = result_files.read_map(table.parent, "panoptic", shape, np.int32)
    stuff = result_files.read_map(table.parent, "stuff", shape, np.uint8) if data.get("stuff_map") else None
    return result_files.result_from_json(data, ids, stuff)


def convert(
    source: Path, target: Path, formats: Sequence[str], *, volume: Volume | None = None
) -> dict[str, list[Path]]:
    """Write the result in folder ``source`` again to ``target`` in other formats. ``volume`` as in ``write_result``."""
    return write_result(read_result(source), target, formats=formats, volume=volume)


def _shape(data: Mapping[str, object], table: Path) -> tuple[int, ...]:
    shape = data.get("shape")
    if not isinstance(shape, list) or len(shape) not in (2, 3) or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ReadError("RESULT-FORMAT", f"{table} has no usable 'shape'")
    return tuple(shape)


def _check_formats(result: PanopticResult, formats: Sequence[str]) -> list[str]:
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise WriteError("FORMAT-UNKNOWN", f"no format {', '.join(map(repr, unknown))}; known are {', '.join(FORMATS)}")
    unfit = [name for name in formats if result.ndim not in FORMATS[name].ndims]
    if unfit:
        raise WriteError(
            "FORMAT-NDIM", f"{', '.join(unfit)} cannot hold a {result.ndim}D result; leave it out of the formats"
        )
    return [name for name in FORMATS if name in formats or name in _ALWAYS]


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Give an empty sibling of ``target`` to fill; it takes the place of ``target`` if the block ends well."""
    # mkdir, not tempfile: a temporary folder would be closed to everyone but its owner
    draft = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        _check_replaceable(target)
        draft.mkdir(parents=True)
        yield draft
        _flush(draft)
        _keep_foreign_files(target, draft)
        _swap(draft, target)
    except OSError as error:
        raise WriteError("WRITE-OS", f"{target} cannot be written: {error.strerror or type(error).__name__}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    if target.is_dir():
        if not any(target.iterdir()):
            return
        try:
            result_files.read_json(target / result_files.TABLE)
        except ReadError as error:
            if error.code != "RESULT-VERSION":
                raise WriteError(
                    "FOLDER-FOREIGN", f"{target} exists and is not a result folder: choose another"
                ) from error
    elif target.exists():
        raise WriteError("FOLDER-FOREIGN", f"{target} is a file: choose another name for the folder")


def _keep_foreign_files(target: Path, draft: Path) -> None:
    ours = {name for row in FORMATS.values() for name in row.files}
    for path in sorted(target.iterdir()) if target.is_dir() else ():
        if path.name in ours:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, draft / path.name, symlinks=True)
        else:
            shutil.copy2(path, draft / path.name, follow_symlinks=False)


def _flush(folder: Path) -> None:
    """Bring every file to the disk before the folder gets its name, so that a power cut leaves old or new."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            # as open as the folder: files that began as temporary ones are closed to all but their owner
            path.chmod(mode)
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _swap(draft: Path, target: Path) -> None:
    """Give ``draft`` the name ``target``. Of several writers at once the last wins; none leaves a mixture."""
    old = draft.with_suffix(".old")
    for attempt in range(_ATTEMPTS):
        try:
            with suppress(FileNotFoundError):
                target.rename(old)
            draft.rename(target)
        except OSError:
            if target.exists():
                # a rival's result is in place, newer than what was put aside
                shutil.rmtree(old, ignore_errors=True)
            elif old.is_dir():
                with suppress(OSError):
                    old.rename(target)
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            shutil.rmtree(old, ignore_errors=True)
            return
