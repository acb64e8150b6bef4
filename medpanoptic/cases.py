"""What a person names on a command line -> the cases to segment, each with a name for its output folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medpanoptic.errors import ReadError, SelectionError

# longest first: "scan.nii.gz" is the case "scan"; those of medpanoptic.io.files, and ".ome" as a part of TIFF endings
IMAGE_SUFFIXES = (
    ".nii.gz", ".ome.tiff", ".ome.tif", ".nii", ".mha", ".mhd", ".nrrd", ".tiff", ".tif", ".png", ".jpeg", ".jpg",
    ".tar.gz", ".tgz", ".tar", ".zip",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One input. ``source`` is a file, a DICOM folder, or {channel: path}; ``name`` never comes from a DICOM tag."""

    name: str
    source: Path | Mapping[str, Path]


def case_name(path: Path) -> str:
    """Return the name of a case: the folder's name, or the file's without its image suffix.

    Raises SelectionError (CASE-NAME) for a path without a name, such as the root of a disk.
    """
    # "." and ".." are names only once resolved
    name = path.name if path.name not in ("", "..") else path.resolve().name
    if not name:
        raise SelectionError("CASE-NAME", f"{path} has no name to call its output by; name a folder or file in it")
    suffix = _image_suffix(name)
    return name if path.is_dir() or len(suffix) == len(name) else name[: len(name) - len(suffix)]


def find_cases(inputs: Iterable[Path]) -> list[Case]:
    """Turn files, folders of images and DICOM folders into cases, in the order given.

    A folder is one DICOM study, unless image files (PNG, TIFF, NIfTI ...) lie in it and no DICOM file does: then each
    is a case. Raises ReadError (NOT-FOUND); SelectionError: CASE-NAME, CASE-RESULT (our own output), CASE-TWICE (two
    cases of one name, also where only upper and lower case differ: they would share a folder on some disks).
    """
    cases = [case for path in inputs for case in _cases_of(path)]
    seen: dict[str, Case] = {}
    for case in cases:
        other = seen.setdefault(case.name.casefold(), case)
        if other is not case:
            raise SelectionError(
                "CASE-TWICE",
                f"{other.source} and {case.source} would both be called {case.name!r}; rename one or run them apart",
            )
    return cases


def channel_case(channels: Mapping[str, Path]) -> Case:
    """Make the one case of {channel: path}; it is called after the first path. Raises ReadError (NOT-FOUND)."""
    for path in channels.values():
        _must_exist(path)
    return Case(case_name(next(iter(channels.values()))), dict(channels))


def _cases_of(path: Path) -> Iterator[Case]:
    _must_exist(path)
    if os.path.isfile(path / "segments.json"):
        raise SelectionError("CASE-RESULT", f"{path} is a result folder, not an image; convert and evaluate take it")
    images: list[Path] = []
    with suppress(PermissionError):  # the reader will say so, for this case
        images = sorted(p for p in path.iterdir() if p.is_file() and _is_image(p)) if path.is_dir() else []
    if images and not _holds_dicom(path):
        yield from (Case(case_name(image), image) for image in images)
    else:
        yield Case(case_name(path), path)


def _must_exist(path: Path) -> None:
    if not path.exists():
        raise ReadError("NOT-FOUND", f"{path} does not exist")


def _image_suffix(name: str) -> str:
    lower = name.lower()
    own = Path(name).suffix
    return next((s for s in IMAGE_SUFFIXES if lower.endswith(s)), own if own.lower() == ".dcm" else "")


def _is_image(path: Path) -> bool:
    return bool(_image_suffix(path.name)) and path.suffix.lower() != ".dcm" and not path.name.startswith(".")


def _holds_dicom(folder: Path) -> bool:
    """Tell whether any file in a folder or below is DICOM; images are not opened, and what is closed does not count."""
    # pydicom comes with it
    from medpanoptic.io.dicom_files import looks_like_dicom, walk_files

    for path, _, reason in walk_files(folder):
        with suppress(OSError):
            if not reason and not _is_image(path) and looks_like_dicom(path):
                return True
    return False
