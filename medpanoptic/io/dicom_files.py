"""DICOM files on disk: walk a folder, never leave it, and read data sets without letting tag values out.

Exceptions and warnings of pydicom quote tag values, which are patient data: they are caught at this border and
replaced by texts without values.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import get_decoder
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medpanoptic.errors import ReadError
from medpanoptic.io.quiet import quiet

# why walk_files gives a folder, or a file of which it sees the name alone
CLOSED = "folder that cannot be opened, with all that is in it"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
# deflate packs 1000 : 1 at best; images pack 2-30 : 1
_DEFLATED_BYTES, _DEFLATED_RATIO = 2**26, 200
# masks pack as well as deflate can; the meta header, which is not deflated, names the Segmentation
_SEGMENTATION, _SEGMENTATION_BYTES = b"1.2.840.10008.5.1.4.1.1.66.", 2**30


def quiet_pydicom() -> AbstractContextManager[None]:
    """Keep pydicom's warnings and log lines, which quote tag values, away from the user's log."""
    return quiet("pydicom", "pylibjpeg", "highdicom")


def walk_files(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield (path, name inside root, reason to skip or "") for each file, sorted, never following a link out.

    Folders that this user may not look into come last, with the reason CLOSED: what lies in them is not known.
    """
    inside = root.resolve()
    closed: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=closed.append, followlinks=False):
        folders.sort()
        for name in sorted(files) + [d for d in folders if os.path.islink(Path(folder) / d)]:
            path = Path(folder) / name
            yield path, path.relative_to(root).as_posix(), _why_not(path, inside)
    for error in closed:
        path = Path(error.filename)
        yield path, path.relative_to(root).as_posix(), CLOSED


def _why_not(path: Path, inside: Path) -> str:
    try:
        path.lstat()  # a folder may give its names and nothing more
    except OSError:
        return CLOSED
    if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(inside)):
        return "link that leads out of the folder or to a folder"
    return "" if path.is_file() else "not a regular file"


def looks_like_dicom(path: Path) -> bool:
    """Tell by the first bytes: ``DICM`` at 128, or a group 0002 or 0008 element first (old files, no preamble)."""
    with path.open("rb") as file:
        start = file.read(132)
    old = len(start) > 8 and start[:2] in (b"\x08\x00", b"\x02\x00") and start[3:4] in (b"\x00", b"\x01")
    return start[128:132] == b"DICM" or old


def read_dataset(path: Path, name: str, header_tags: list[str] | None = None, *, pixels: bool = True) -> Dataset:
    """Read one file with pydicom: whole, without its pixels, or only some elements before them.

    Files without preamble and meta header, as old archives hold them, are read too: their syntax is found out.
    Raises ReadError: DICOM-UNREADABLE, READ-TOO-LARGE; no tag value is in their texts.
    """
    _check_deflated(path, name)
    try:
        with quiet_pydicom():
            stop = header_tags is not None or not pixels
            dataset = pydicom.dcmread(path, stop_before_pixels=stop, force=True, specific_tags=header_tags)
            _complete_syntax(dataset)
            return dataset
    except Exception as error:  # pydicom raises nearly any type on a damaged file, and its texts quote values
        kind = type(error).__name__
    raise ReadError("DICOM-UNREADABLE", f"{name}: unreadable DICOM file, damaged or truncated ({kind})")


def has_decoder(syntax: UID) -> bool:
    """Tell whether pixels of a transfer syntax can be decoded here."""
    # an exception that quotes the UID must not hang on ours
    try:
        with quiet_pydicom():
            get_decoder(syntax)
    except NotImplementedError:
        return False
    return True


def header_if_dicom(path: Path) -> Dataset | None:
    """Return a file's elements before its pixels; None where it cannot be read or is no DICOM.

    For what is good to have and spared where it is not there, such as a date or a stored window.
    """
    try:
        return read_dataset(path, "the file", pixels=False) if looks_like_dicom(path) else None
    except (OSError, ReadError):
        return None


def _check_deflated(path: Path, name: str) -> None:
    """Refuse a deflated file that would unpack to far more than any image: pydicom unpacks it whole, header or not.

    Source: DICOM PS3.10 7.1 (the group length of the meta header gives the start), PS3.5 A.5
    """
    with path.open("rb") as file:
        start = file.read(1024)
        if _DEFLATED not in start or start[128:136] != b"DICM\x02\0\0\0":
            return
        file.seek(144 + int.from_bytes(start[140:144], "little"))
        unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        is_mask = _SEGMENTATION in start[: 144 + int.from_bytes(start[140:144], "little")]
        limit = max(_SEGMENTATION_BYTES if is_mask else _DEFLATED_BYTES, _DEFLATED_RATIO * path.stat().st_size)
        data = file.read(2**20)
        while data and size <= limit:
            try:
                size += len(unpacker.decompress(data, 2**22))
            except zlib.error:
                return
            data = unpacker.unconsumed_tail or file.read(2**20)
    if size > limit:
        raise ReadError("READ-TOO-LARGE", f"{name}: a deflated file that unpacks to over {limit >> 20} MiB")


def _complete_syntax(dataset: Dataset) -> None:
    """Name the transfer syntax of files without a meta header: pydicom has found out how they are encoded."""
    if getattr(dataset, "file_meta", None) is None:
        dataset.file_meta = FileMetaDataset()
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
