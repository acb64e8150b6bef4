"""Studies in archives: read as the folder would be, and no member may leave it, hide, or fill the disk."""

from __future__ import annotations

import gc
import io
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from builders import axial_affine, phantom, write_nifti_file, write_series

from medpanoptic.errors import ReadError
from medpanoptic.io import find_series, read_study, read_volume
from medpanoptic.volume import ChannelSpec


@pytest.fixture
def private(tmp_path, monkeypatch):
    """The place for temporary folders, watched."""
    folder = tmp_path / "private"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def _pack(path: Path, folder: Path) -> Path:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, f"study/{file.name}")
    else:
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
            archive.add(folder, "study")
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.TGZ"])
def test_an_archive_reads_as_its_folder(tmp_path, private, name):
    folder = write_series(tmp_path / "ct", phantom(), axial_affine())
    path = _pack(tmp_path / name, folder)
    volume = read_volume(path)
    assert np.array_equal(volume.array[0], phantom())
    assert np.allclose(volume.affine, axial_affine())
    # writers of DICOM copy patient and study from the source files
    assert all(p.is_file() for p in volume.source.paths)
    assert stat.S_IMODE(os.stat(next(private.iterdir())).st_mode) & 0o077 == 0 or os.name == "nt"
    study = read_study(path, [ChannelSpec("ct", "CT")])
    assert np.array_equal(study.array, volume.array)
    assert find_series(path).series[0].code == "OK"
    del volume, study
    gc.collect()
    assert list(private.iterdir()) == []


def test_one_file_in_an_archive(tmp_path, private):
    image = write_nifti_file(tmp_path / "a.nii.gz", phantom(), np.diag([1.25, 1.5, 2.5, 1]))
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(image, "deep/in/a.nii.gz")
    assert np.array_equal(read_volume(path).array[0], phantom().transpose())
    outer = tmp_path / "outer.zip"
    with zipfile.ZipFile(outer, "w") as archive:
        archive.write(path, "a.zip")
    with pytest.raises(ReadError, match="an archive inside an archive is not opened"):
        read_volume(outer)


def _code(path: Path, private: Path) -> str:
    with pytest.raises(ReadError) as caught:
        read_volume(path)
    gc.collect()
    assert list(private.iterdir()) == []
    assert path.name in str(caught.value)
    return caught.value.code


BAD_NAMES = [
    "../evil", "a/../../evil", "/etc/evil", "\\evil", "..\\evil", "C:\\evil", "C:evil", "a/./../b", "a//b", "a/b\x07",
    "\uff0e\uff0e/evil", "a\uff0f\uff0e\uff0e\uff0fevil", "\u2025/evil", "/".join("abcdefgh" * 5),
    "x" * 300, ".. /evil",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_paths_that_lead_out_are_refused(tmp_path, private, name, kind):
    path = tmp_path / f"in.{kind}"
    _write(path, [("ok.txt", b"x"), (name, b"evil")])
    assert _code(path, private) == "ARCHIVE-PATH"
    assert not [p for p in tmp_path.rglob("*") if "evil" in p.name]


def test_a_name_that_a_zero_byte_cuts_short(tmp_path, private):
    path = tmp_path / "in.zip"
    _write(path, [("aaaa/evil", b"x")])
    path.write_bytes(path.read_bytes().replace(b"aaaa/evil", b"aaaa\0evil"))
    assert _code(path, private) in {"ARCHIVE-PATH", "ARCHIVE-DAMAGED"}


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "A"), ("a", "a/b"), ("a/b", "a"), ("\u00e9", "e\u0301"), ("d\\x", "d/x"), ("./a", "a")]
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_two_members_in_one_place_are_refused(tmp_path, private, names, kind):
    path = tmp_path / f"in.{kind}"
    _write(path, [(name, b"x") for name in names])
    assert _code(path, private) == "ARCHIVE-DUPLICATE"


def _write(path: Path, members: list[tuple[str, bytes]]) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members:
                archive.writestr(zipfile.ZipInfo(name), data)
        return
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, private, kind):
    path = tmp_path / "in.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    assert _code(path, private) == "ARCHIVE-LINK"


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, private, mode):
    path = tmp_path / "in.zip"
    member = zipfile.ZipInfo("link")
    member.create_system, member.external_attr = 3, (mode | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "/etc/passwd")
    assert _code(path, private) == "ARCHIVE-LINK"


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz"])
def test_bombs_are_refused_before_they_unpack(tmp_path, private, name):
    path = tmp_path / name
    if name.endswith("zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zeros", "w") as file:
            for _ in range(80):
                file.write(bytes(2**20))
    else:
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            member = tarfile.TarInfo("zeros")
            member.size = 80 * 2**20
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    assert _code(path, private) == "ARCHIVE-SIZE"


def test_a_size_that_lies_is_found(tmp_path, private):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(5000))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(struct.pack("<I", 5000), struct.pack("<I", 50)))
    assert _code(path, private) == "ARCHIVE-DAMAGED"


def test_a_long_name_that_claims_gigabytes(tmp_path, private):
    path = tmp_path / "in.tar"
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 2**32
    path.write_bytes(member.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    assert _code(path, private) == "ARCHIVE-SIZE"


def test_encrypted_cut_and_wrong_archives(tmp_path, private):
    path = tmp_path / "in.zip"
    _write(path, [("a", b"x" * 100)])
    raw = bytearray(path.read_bytes())
    raw[6] |= 1
    raw[raw.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(raw)
    assert _code(path, private) == "ARCHIVE-ENCRYPTED"
    path.write_bytes(raw[:60])
    assert _code(path, private) == "ARCHIVE-DAMAGED"
    for name in ("t.tar.gz", "t.tar", "t.zip"):
        (tmp_path / name).write_bytes(b"this is text and no archive" * 40)
        assert _code(tmp_path / name, private) == "ARCHIVE-DAMAGED"


def test_too_many_members(tmp_path, private, monkeypatch):
    monkeypatch.setattr("medpanoptic.io.archive.MAX_MEMBERS", 3)
    for name in ("in.zip", "in.tar"):
        _write(tmp_path / name, [(str(i), b"") for i in range(4)])
        assert _code(tmp_path / name, private) == "ARCHIVE-SIZE"
