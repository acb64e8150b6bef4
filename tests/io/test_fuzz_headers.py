"""Random damage to headers: an error of ours or a right volume, never a hang, another exception or a wrong place.

CI runs a fixed sample. A long search: MEDPANOPTIC_FUZZ=20000 pytest tests/io/test_fuzz_headers.py
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from builders import PATIENT_NAME, axial_affine, phantom, save, write_enhanced, write_nifti_file, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement

from medpanoptic.errors import MedpanopticError
from medpanoptic.io import find_series, inspect, read_volume
from medpanoptic.volume import Volume

LONG = int(os.environ.get("MEDPANOPTIC_FUZZ", "0"))
FUZZ = settings(
    max_examples=LONG or 60,
    derandomize=not LONG,
    database=None,
    deadline=20_000,
    suppress_health_check=list(HealthCheck),
)
VALUES = [
    b"", b"0", b"-1", b"1", b"nan", b"inf", b"1e400", b"-1e30", b"65536", b"99999999999999999999", b"x", b"1\\2\\3",
    b"0\\0\\0\\0\\0\\0", b"1\\0\\0\\0\\1\\0", b"\xff\xfe\x00\x01", b"A" * 70, b"\x00" * 8, b"1.5", b"1,5", b"$(reboot)",
    struct.pack("<H", 0), struct.pack("<H", 1), struct.pack("<H", 8), struct.pack("<H", 65535), b"ISO_IR 999", b"1.2.3",
    b"MONOCHROME1", b"RGB", b"LOCALIZER", b"DERIVED\\SECONDARY\\LOCALIZER", b"CT", b"US", b"HU", b"2147483647",
]  # fmt: skip
# they change values of one slice, and a volume may well have other values in one slice
ABOUT_VALUES = {
    "RescaleSlope", "RescaleIntercept", "PixelData", "PixelRepresentation", "BitsStored", "HighBit",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "BitsAllocated",
}  # fmt: skip
EXTRA = ["PixelPaddingValue", "NumberOfFrames", "RescaleType", "SpecificCharacterSet", "GantryDetectorTilt"]
# of another kind than what stands in its place
LONG_VRS = {"OB", "OW", "OF", "SQ", "UT", "UN", "UC", "UR", "OD", "OL", "SV", "UV", "OV"}


def _encode(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """Explicit VR little endian, whatever the value is worth. Source: DICOM PS3.5 7.1.2"""
    value += b"\0" * (len(value) % 2)
    size = len(value) if length is None else length
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    return start + (struct.pack("<HI", 0, size) if vr in LONG_VRS else struct.pack("<H", size % 65536)) + value


def _elements(path: Path) -> tuple[bytes, list[tuple[int, str, bytes]]]:
    """The meta header of a file, and its elements as (tag, VR, bytes)."""
    raw = path.read_bytes()
    start = 144 + int.from_bytes(raw[140:144], "little")
    found = []
    for tag, element in sorted(dcmread(path)._dict.items()):
        assert isinstance(element, RawDataElement)
        found.append((int(tag), str(element.VR), bytes(element.value or b"")))
    return raw[:start], found


@st.composite
def damage(draw: st.DrawFn, elements: list[tuple[int, str, bytes]]) -> tuple[bytes, set[str]]:
    """Drop, double, retype, fill and cut elements of a data set; return it with the keywords touched."""
    from pydicom.tag import Tag

    parts = [(tag, vr, value, None) for tag, vr, value in elements]
    touched = set()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(parts) - 1))
        tag, vr, value, length = parts[at]
        kind = draw(st.sampled_from(["drop", "double", "retype", "fill", "fill", "fill", "length", "add"]))
        if kind == "add":
            name = draw(st.sampled_from(EXTRA))
            tag, vr = int(Tag(name)), dictionary_VR(name).split(" ")[0]
            parts.append((tag, vr, draw(st.sampled_from(VALUES)), None))
        elif kind == "drop":
            parts.pop(at)
        elif kind == "double":
            parts.insert(at, (tag, vr, draw(st.sampled_from([value, *VALUES])), None))
        elif kind == "retype":
            parts[at] = (tag, draw(st.sampled_from(["UN", "SQ", "DS", "US", "OB", "ZZ", "LO", "FD"])), value, length)
        elif kind == "length":
            parts[at] = (tag, vr, value, draw(st.sampled_from([0, 1, 3, 6, 5000, 65534, 2**31, 0xFFFFFFFF])))
        else:
            parts[at] = (tag, vr, draw(st.sampled_from(VALUES)), length)
        touched.add(keyword_for_tag(tag))
    return b"".join(_encode(*part) for part in sorted(parts, key=lambda p: p[0])), touched


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Five slices; the middle one is damaged, so that a volume without it has a gap."""
    folder = write_series(tmp_path_factory.mktemp("fuzz") / "ct", phantom(), axial_affine())
    meta, elements = _elements(folder / "one_002.dcm")
    return folder, meta, elements


@FUZZ
@given(data=st.data())
def test_damage_to_one_slice_never_moves_or_drops_it_in_silence(series, data):
    folder, meta, elements = series
    raw, touched = data.draw(damage(elements))
    (folder / "one_002.dcm").write_bytes(meta + raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = repr(find_series(folder))
        volume, error = _read(folder)
    assert _is_clean(f"{report} {error} {volume.notes if volume else ''}")
    if volume is None:
        return
    assert volume.shape == (5, 6, 7), touched
    assert np.allclose(volume.affine, axial_affine(), atol=0.02), touched
    if not touched & ABOUT_VALUES:
        assert np.array_equal(volume.array[0], phantom()), touched


def _read(path: Path) -> tuple[Volume | None, MedpanopticError | None]:
    try:
        return read_volume(path), None
    except MedpanopticError as error:
        return None, error


def _is_clean(text: str) -> bool:
    return "Secret" not in text and PATIENT_NAME not in text and "reboot" not in text and "AAAA" not in text


def _ours_or_volume(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume, error = _read(path)
    if volume is None:
        assert path.name in str(error)
        return
    assert np.isfinite(volume.affine).all()
    assert np.isfinite(volume.array).all()
    assert min(volume.shape) > 0


def _spoil(data: st.DataObject, raw: bytes, upto: int) -> bytes:
    spoiled = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(upto, len(raw)) - 1))
        what = data.draw(st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80", b"\x01", b"\0\0\xc0\x7f", b"\0\0\x80\xff"]))
        what = what if data.draw(st.booleans()) else data.draw(st.binary(min_size=1, max_size=4))
        spoiled[at : at + len(what)] = what
    return bytes(spoiled[: data.draw(st.sampled_from([len(raw)] * 4 + [len(raw) // 2, 100, 0]))])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One small valid file of each kind: {name: (path, bytes, where the header ends)}."""
    folder = tmp_path_factory.mktemp("files")
    write_nifti_file(folder / "a.nii", phantom(), np.diag([1.25, 1.5, 2.5, 1]))
    (folder / "b.nii").write_bytes((folder / "a.nii").read_bytes())
    (folder / "c.nii.gz").write_bytes(gzip.compress((folder / "a.nii").read_bytes()))
    flat = (phantom((6, 7)) * 6).astype(np.uint8)
    Image.fromarray(np.stack([flat] * 3, -1)).save(folder / "a.png", dpi=(25400, 25400))
    Image.fromarray(np.stack([flat] * 3, -1)).save(folder / "a.jpg")
    tifffile.imwrite(folder / "a.tif", phantom().astype(np.uint16), imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(folder / "b.ome.tif", phantom().astype(np.uint16), metadata={"axes": "CYX", "PhysicalSizeX": 0.5})
    image = sitk.GetImageFromArray(phantom())
    sitk.WriteImage(image, str(folder / "a.nrrd"))
    write_enhanced(folder / "e.dcm", phantom((3, 4, 5)), axial_affine())
    headers = {"a.nii": 352, "e.dcm": 10_000}
    return {p.name: (p, p.read_bytes(), headers.get(p.name, 600)) for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", ["a.nii", "c.nii.gz", "a.png", "a.jpg", "a.tif", "b.ome.tif", "a.nrrd", "e.dcm"])
@FUZZ
@given(data=st.data())
def test_damage_to_a_file_is_an_error_of_ours_or_a_sound_volume(files, name, data):
    path, raw, header = files[name]
    path.write_bytes(_spoil(data, raw, header))
    _ours_or_volume(path)


@FUZZ
@given(raw=st.binary(max_size=400), start=st.sampled_from([b"", b"DICM", b"PK\3\4", b"\x1f\x8b", b"\x89PNG\r\n\x1a\n"]))
def test_noise_by_any_name_is_an_error_of_ours(tmp_path_factory, raw, start):
    folder = tmp_path_factory.getbasetemp() / "noise"
    folder.mkdir(exist_ok=True)
    for name in ("a.dcm", "a.zip", "a.tar.gz", "a.nii.gz", "a.png", "a.tif", "a.mha", "a.nrrd"):
        (folder / name).write_bytes((bytes(128) if start == b"DICM" else b"") + start + raw)
        with pytest.raises(MedpanopticError):
            read_volume(folder / name)
    inspect(folder)


def test_the_encoder_of_this_test_writes_what_was_there(tmp_path):
    path = write_series(tmp_path, phantom()[:1], axial_affine()) / "one_000.dcm"
    meta, elements = _elements(path)
    raw = meta + b"".join(_encode(*element) for element in elements)
    assert dcmread(io.BytesIO(raw)) == dcmread(path)
    save(dcmread(io.BytesIO(raw)), path)
