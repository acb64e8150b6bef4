"""A study as a .zip, .tar or .tar.gz: unpacked into a private folder, by our own check of every member.

No member may leave the folder, be a link or a device, or share its place with another; sizes are capped before a
byte is written. Archives inside an archive stay closed.
Source: APPNOTE.TXT 4.4 (ZIP), POSIX.1-2017 pax (tar); the attacks: CWE-22, CWE-59, CWE-409.
"""

from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from medpanoptic.errors import ReadError
from medpanoptic.io.limits import MAX_DECODED_BYTES, max_unpacked
from medpanoptic.volume import Volume

ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_MEMBERS = 50_000
_MAX_DEPTH, _MAX_PART_BYTES = 32, 200
# a directory of 50,000 members with long names; zipfile reads it whole
_MAX_DIRECTORY_BYTES = 16 * 2**20
_MAX_TAR_NAME_BYTES = 2**16
_CHUNK = 2**20
_DAMAGE = (
    OSError, EOFError, ValueError, OverflowError, zlib.error, zipfile.BadZipFile, tarfile.TarError, NotImplementedError,
)  # fmt: skip


def is_archive(path: Path) -> bool:
    """Tell by the name whether a file is read as an archive."""
    return path.is_file() and path.name.lower().endswith(ARCHIVE_ENDINGS)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Unpack into a private temporary folder, removed at the end; gives the folder, or the one file that is inside.

    Raises ReadError: ARCHIVE-PATH, ARCHIVE-LINK, ARCHIVE-DUPLICATE, ARCHIVE-SIZE, ARCHIVE-ENCRYPTED, ARCHIVE-DAMAGED.
    """
    with tempfile.TemporaryDirectory(prefix="medpanoptic-", ignore_cleanup_errors=True) as private:
        yield _unpack(path, Path(private))


def read_unpacked(path: Path, read: Callable[[Path], Volume]) -> Volume:
    """Unpack an archive, read what is inside, and keep the files for as long as the volume's source is in use.

    DICOM outputs copy patient and study from the source files, so these must outlive this call.
    Raises ReadError as ``unpacked``, and what ``read`` raises.
    """
    private = Path(tempfile.mkdtemp(prefix="medpanoptic-"))
    try:
        volume = read(_unpack(path, private))
    except BaseException:
        shutil.rmtree(private, ignore_errors=True)
        raise
    weakref.finalize(volume.source, shutil.rmtree, private, ignore_errors=True)
    return replace(volume, notes=("read from an archive, unpacked into a temporary folder", *volume.notes))


def _unpack(path: Path, private: Path) -> Path:
    # messages name the folder that is read: it is called like the archive
    root = private / path.name
    root.mkdir()
    damage = ""
    try:
        if path.name.lower().endswith(".zip"):
            _unpack_zip(path, root)
        elif path.name.lower().endswith(".tar"):
            _unpack_tar(path, path, root)
        else:
            _unpack_tar(_gunzip(path, private / "plain.tar"), path, root)
    except _DAMAGE as error:  # their texts quote member names
        damage = type(error).__name__
    if damage:
        raise ReadError("ARCHIVE-DAMAGED", f"{path.name}: not a readable archive, damaged or truncated ({damage})")
    files = [p for p in root.rglob("*") if p.is_file()]
    return files[0] if len(files) == 1 else root


def _unpack_zip(path: Path, root: Path) -> None:
    _check_directory(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_sizes(path, [m.file_size for m in members])
        places = _Places(root, path.name)
        for number, member in enumerate(members, start=1):
            where = f"{path.name}: member {number} of {len(members)}"
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ReadError("ARCHIVE-LINK", f"{where} is a link or device, which is unsafe; pack plain files only")
            if member.flag_bits & 1:
                raise ReadError("ARCHIVE-ENCRYPTED", f"{where} is encrypted; unpack the archive yourself")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ReadError("ARCHIVE-DAMAGED", f"{where} has an unsupported compression; use deflate")
            # orig_filename: zipfile cuts a name at its first zero byte
            target = places.add(member.orig_filename, member.is_dir(), where)
            if target is not None:
                with archive.open(member) as source:
                    _copy(source, target, member.file_size, where)


def _check_directory(path: Path) -> None:
    """Refuse a directory of members that would fill the memory. Source: APPNOTE.TXT 4.3.16"""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**16 - 22))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end >= 0 and int.from_bytes(tail[end + 12 : end + 16], "little") > _MAX_DIRECTORY_BYTES:
        raise ReadError("ARCHIVE-SIZE", f"{path.name}: too many members, the limit is {MAX_MEMBERS}")


def _unpack_tar(plain: Path, path: Path, root: Path) -> None:
    """Unpack ``plain``; ``path`` is the file that the user gave."""
    _check_tar_headers(plain, path.name)
    with tarfile.open(plain, "r:") as archive:
        members = archive.getmembers()
        _check_sizes(path, [m.size for m in members])
        places = _Places(root, path.name)
        for number, member in enumerate(members, start=1):
            where = f"{path.name}: member {number} of {len(members)}"
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise ReadError("ARCHIVE-LINK", f"{where} is a link or device, which is unsafe; pack plain files only")
            target = places.add(member.name, member.isdir(), where)
            source = archive.extractfile(member) if target is not None else None
            if source is not None and target is not None:
                with source:
                    _copy(source, target, member.size, where)


def _check_tar_headers(plain: Path, name: str) -> None:
    """Walk the headers: tarfile reads long names and pax records whole, whatever size they claim."""
    with plain.open("rb") as file:
        count = 0
        while len(block := file.read(tarfile.BLOCKSIZE)) == tarfile.BLOCKSIZE and any(block):
            # octal; the binary form of other tools is for members of 8 GiB and more
            size = int(block[124:136].strip(b"\0 ") or b"0", 8)
            count += 1
            long_name = block[156:157] in b"xgLKX" and size > _MAX_TAR_NAME_BYTES
            if long_name or count > 3 * MAX_MEMBERS:
                raise ReadError("ARCHIVE-SIZE", f"{name}: a member's header is too large, or there are too many")
            file.seek(-(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, 1)


def _gunzip(path: Path, plain: Path) -> Path:
    limit = max_unpacked(path.stat().st_size)
    size = 0
    with gzip.open(path, "rb") as source, plain.open("xb") as target:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise _too_large(path.name, limit)
            target.write(chunk)
    return plain


def _check_sizes(path: Path, sizes: list[int]) -> None:
    limit = max_unpacked(path.stat().st_size)
    if len(sizes) > MAX_MEMBERS:
        raise ReadError("ARCHIVE-SIZE", f"{path.name}: {len(sizes)} members, the limit is {MAX_MEMBERS}")
    if sum(sizes) > limit:
        raise _too_large(path.name, limit)


def _too_large(name: str, limit: int) -> ReadError:
    return ReadError(
        "ARCHIVE-SIZE",
        f"{name}: unpacks to more than the limit of {limit >> 20} MiB, its size or ratio is that of a bomb; "
        f"unpack it yourself if you trust it (never over {MAX_DECODED_BYTES >> 30} GiB here)",
    )


def _copy(source: IO[bytes], target: Path, size: int, where: str) -> None:
    """Copy a member; its header's size is the limit that was checked."""
    written = 0
    with target.open("xb") as file:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > size:
                raise ReadError("ARCHIVE-SIZE", f"{where} is larger than its header says")
            file.write(chunk)
    if written < size:
        raise ReadError("ARCHIVE-DAMAGED", f"{where} is truncated")


class _Places:
    """The places that members have taken under ``root``; two names that some disk takes for one are duplicates."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self.files: set[tuple[str, ...]] = set()
        self.folders: set[tuple[str, ...]] = set()

    def add(self, member: str, is_folder: bool, where: str) -> Path | None:
        """Return where to write a file, None for a folder. Raises ReadError: ARCHIVE-PATH, ARCHIVE-DUPLICATE."""
        parts = _safe_parts(member, where)
        key = tuple(unicodedata.normalize("NFC", p).casefold() for p in parts)
        parents = {key[:i] for i in range(1, len(key))}
        if key in self.files or self.files & parents or (not is_folder and key in self.folders):
            raise ReadError("ARCHIVE-DUPLICATE", f"{where} takes the place of another member; pack each file once")
        self.folders |= parents | ({key} if is_folder else set())
        if is_folder:
            return None
        self.files.add(key)
        target = self.root.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target


def _safe_parts(member: str, where: str) -> list[str]:
    """Cut a member's name at / and \\; refuse what any system could take for a way out (ARCHIVE-PATH)."""
    # compatibility forms too: some disks and tools turn a full-width slash or dots into plain ones
    plain = unicodedata.normalize("NFKC", member).replace("\\", "/")
    parts = member.replace("\\", "/").removesuffix("/").removeprefix("./").split("/")
    unsafe = (
        plain.startswith("/")
        or plain.count("/") != member.replace("\\", "/").count("/")
        or any(p.strip(" .") == "" for p in plain.removesuffix("/").removeprefix("./").split("/"))
        or any(c == ":" or unicodedata.category(c) in {"Cc", "Cs"} for c in plain)
        or len(parts) > _MAX_DEPTH
        or any(len(p.encode("utf-8", "replace")) > _MAX_PART_BYTES for p in parts)
    )
    if unsafe and plain.rstrip("/") not in ("", "."):
        raise ReadError("ARCHIVE-PATH", f"{where} has an unsafe path (outside the archive's folder, or not portable)")
    return parts
