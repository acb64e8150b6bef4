"""Write results as files, and from one format into others. The formats are the rows of ``FORMATS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medpanoptic.errors import ReadError, WriteError
from medpanoptic.io import result_files
from medpanoptic.io.dicom_files import quiet_pydicom
from medpanoptic.io.formats import FORMATS
from medpanoptic.io.losses import losses
from medpanoptic.io.new_folder import check_target, new_folder
from medpanoptic.io.result_reader import read_result
from medpanoptic.measure import DrawnAxes
from medpanoptic.result import PanopticResult
from medpanoptic.volume import Volume

# what makes a folder a result folder
_ALWAYS = ("json", "nifti")


class Conversion(NamedTuple):
    """What ``convert`` did. files : written, by format. lost : by format, what it cannot hold of this result."""

    files: dict[str, list[Path]]
    lost: dict[str, tuple[str, ...]]


def write_result(
    result: PanopticResult,
    folder: Path,
    *,
    formats: Sequence[str] = ("nifti", "csv", "png"),
    volume: Volume | None = None,
    axes: Mapping[int, DrawnAxes] | None = None,
    on_format: Callable[[str], None] | None = None,
) -> dict[str, list[Path]]:
    """Write one case folder, whole or not at all, and return the files of each format.

    formats : names from ``FORMATS``; "json" and "nifti" (the id map) are always written.
    volume : the image, for overlay.png (drawn over black without it), for intensities and, after ``read_result``, for
        DICOM objects.
    axes : thing id -> the long and the short axis that a reader drew (``Axis.of_reader``), None for the one found; they
        count in csv, dicom-sr and dicom-sc. The result folder itself does not keep them.
    on_format : called with the name of each format before it is written.
    The same result gives the same bytes. A folder written earlier is replaced; files in it that are not ours are kept.
    Raises WriteError: FORMAT-UNKNOWN, FORMAT-NDIM, FORMAT-SHAPE, FOLDER-FOREIGN, WRITE-OS, and those of each format.
    """
    names = _check_formats(result.ndim, formats)
    folder = Path(folder)
    if volume is not None and volume.shape != result.ids.shape:
        raise WriteError(
            "FORMAT-SHAPE", f"the image has shape {volume.shape}, the result {result.ids.shape}: not one case"
        )
    ours = frozenset(name for row in FORMATS.values() for name in row.files)
    # highdicom's log names the UIDs of the source
    with quiet_pydicom(), new_folder(folder, ours, _check_is_result) as draft:
        files = {}
        for name in names:
            if on_format is not None:
                on_format(name)
            files[name] = FORMATS[name].write(result, draft, volume, axes)
    return {name: [folder / path.relative_to(draft) for path in paths] for name, paths in files.items()}


def convert(
    source: Path,
    target: Path,
    formats: Sequence[str],
    *,
    source_format: str | None = None,
    volume: Volume | None = None,
) -> Conversion:
    """Write the result in ``source``, of any format that can be read, to the folder ``target`` in other formats.

    source_format : as ``format`` of ``read_result``. volume : the image, as in ``read_result`` and ``write_result``.
    ``lost`` of what is returned says, for each format asked for, what it cannot hold of this result.
    Raises the errors of ``read_result`` and of ``write_result``.
    """
    result = read_result(source, format=source_format, image=volume)
    files = write_result(result, target, formats=formats, volume=volume)
    return Conversion(files, {name: losses(result, name) for name in files if name in formats})


def check_output(folder: Path, formats: Sequence[str], ndim: int) -> None:
    """Raise what ``write_result`` would, as far as it can be told before a result of ``ndim`` axes is there.

    Raises WriteError: FORMAT-UNKNOWN, FORMAT-NDIM, FOLDER-FOREIGN, WRITE-OS.
    """
    _check_formats(ndim, formats)
    check_target(folder, _check_is_result)


def _check_formats(ndim: int, formats: Sequence[str]) -> list[str]:
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise WriteError("FORMAT-UNKNOWN", f"no format {', '.join(map(repr, unknown))}; known are {', '.join(FORMATS)}")
    unfit = [name for name in formats if ndim not in FORMATS[name].ndims]
    if unfit:
        raise WriteError("FORMAT-NDIM", f"{', '.join(unfit)} cannot hold a {ndim}D result; leave it out of the formats")
    return [name for name in FORMATS if name in formats or name in _ALWAYS]


def _check_is_result(folder: Path) -> None:
    """Let a result of any version be replaced, and nothing else."""
    try:
        result_files.read_json(folder / result_files.TABLE)
    except ReadError as error:
        if error.code != "RESULT-VERSION":
            raise WriteError("FOLDER-FOREIGN", f"{folder} exists and is not a result folder: choose another") from error
