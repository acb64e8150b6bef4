"""MetaImage and NRRD: what ITK would take for 1 mm, 0 or identity, or print to the terminal, is refused or said."""

from __future__ import annotations

import re

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from builders import phantom

from medpanoptic.errors import ReadError
from medpanoptic.io.read import read_volume


def written(path, *edits, compress=False):
    """Write the phantom by SimpleITK, then change its header by (pattern, replacement) pairs."""
    image = sitk.GetImageFromArray(phantom())
    image.SetSpacing((1.25, 1.5, 2.5))
    image.SetOrigin((11, -7, 5))
    sitk.WriteImage(image, str(path), useCompression=compress)
    for pattern, replacement in edits:
        changed, count = re.subn(pattern, replacement, path.read_bytes(), count=1)
        assert count == 1
        path.write_bytes(changed)
    return path


META = {
    "negative spacing": ("ElementSpacing = 1.25", "ElementSpacing = -1.25", "GEO-PIXEL-SPACING"),
    "no spacing": ("ElementSpacing = .*\n", "", "GEO-PIXEL-SPACING"),
    "NaN origin": ("Offset = 11", "Offset = nan", "GEO-AFFINE"),
    "garbled origin": ("Offset = 11", "Offset = here", "GEO-AFFINE"),
    "singular": ("TransformMatrix = 1 0 0 0 1 0", "TransformMatrix = 1 0 0 1 0 0", "GEO-AFFINE"),
    "text in the size": ("DimSize = 7", "DimSize = x", "ITK-UNREADABLE"),
    "negative size": ("DimSize = 7", "DimSize = -7", "ITK-UNREADABLE"),
    "unknown type": ("MET_SHORT", "MET_BOGUS", "ITK-UNREADABLE"),
    "axes": ("NDims = 3", "NDims = 9", "ITK-UNREADABLE"),
    "4D": ("NDims = 3(?s:.*)DimSize = 7 6 5", "NDims = 4\nDimSize = 7 6 5 1", "SHAPE"),
    "fewer slices than stored": ("DimSize = 7 6 5", "DimSize = 7 6 4", "ITK-UNREADABLE"),
    "more slices than stored": ("DimSize = 7 6 5", "DimSize = 7 6 6", "ITK-UNREADABLE"),
    "a header in the pixel file": ("ElementDataFile", "HeaderSize = 100\nElementDataFile", "ITK-UNREADABLE"),
    "pixels as text": ("BinaryData = True", "BinaryData = False", "ITK-UNREADABLE"),
}


@pytest.mark.parametrize("name", META)
@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_metaimages_are_refused_by_name_and_nothing_is_printed(tmp_path, capfd, name, suffix):
    pattern, replacement, code = META[name]
    path = written(tmp_path / f"a{suffix}", (pattern.encode(), replacement.encode()))
    with pytest.raises(ReadError) as caught:
        read_volume(path)
    assert caught.value.code == code
    assert capfd.readouterr() == ("", "")


NRRD = {
    "no spacing": ("space directions: .*\n", "", "GEO-PIXEL-SPACING"),
    "NaN": (r"\(1.25,0,0\)", "(nan,0,0)", "GEO-AFFINE"),
    "singular": (r"\(1.25,0,0\)", "(0,1.5,0)", "GEO-AFFINE"),
    "no patient's space": ("left-posterior-superior", "scanner-xyz", "GEO-ORIENTATION"),
    "units differ": ("encoding", 'space units: "mm" "um" "mm"\nencoding', "ITK-UNITS"),
    "fewer slices than stored": ("sizes: 7 6 5", "sizes: 7 6 4", "ITK-UNREADABLE"),
    "more slices than stored": ("sizes: 7 6 5", "sizes: 7 6 6", "ITK-UNREADABLE"),
}


@pytest.mark.parametrize("name", NRRD)
def test_nrrds_are_refused_by_name(tmp_path, capfd, name):
    pattern, replacement, code = NRRD[name]
    path = written(tmp_path / "a.nrrd", (pattern.encode(), replacement.encode()))
    with pytest.raises(ReadError) as caught:
        read_volume(path)
    assert caught.value.code == code
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd"])
@pytest.mark.parametrize("compress", [False, True])
def test_good_files_stay_good(tmp_path, suffix, compress):
    volume = read_volume(written(tmp_path / f"a{suffix}", compress=compress))
    assert np.array_equal(volume.array[0], phantom())
    assert volume.notes == ()


def test_pixels_behind_a_header_of_their_own(tmp_path):
    path = written(tmp_path / "a.mhd", (b"ElementDataFile", b"HeaderSize = 9\nElementDataFile"))
    raw = tmp_path / "a.raw"
    raw.write_bytes(b"123456789" + raw.read_bytes())
    assert np.array_equal(read_volume(path).array[0], phantom())


def test_units_of_an_nrrd_are_honoured(tmp_path):
    path = written(tmp_path / "a.nrrd", (b"encoding", b'space units: "um" "um" "um"\nencoding'))
    volume = read_volume(path)
    assert volume.spacing == pytest.approx([2.5e-3, 1.5e-3, 1.25e-3])
    assert volume.affine[:3, 3] == pytest.approx([11e-3, -7e-3, 5e-3])
    assert "not mm" in volume.notes[0]


@pytest.mark.parametrize(
    ("name", "edits"),
    [
        ("a.mha", [(b"Offset = .*\n", b"")]),
        ("a.mha", [(b"TransformMatrix = .*\n", b"")]),
        ("a.nrrd", [(b"space: .*\n", b"space dimension: 3\n")]),
        (
            "a.nrrd",
            [(b"space: .*\n", b""), (b"space directions: .*\n", b"spacings: 1 1 1\n"), (b"space origin.*\n", b"")],
        ),
    ],
)
def test_an_unknown_place_in_the_patient_is_said(tmp_path, name, edits):
    volume = read_volume(written(tmp_path / name, *edits))
    assert "does not say how it lies in the patient" in volume.notes[0]


def test_shear_is_kept_and_said(tmp_path):
    volume = read_volume(written(tmp_path / "a.nrrd", (rb"\(0,0,2.5\)", b"(0,0.67,2.5)")))
    assert volume.affine[:3, 0] == pytest.approx([0, 0.67, 2.5])
    assert "sheared" in volume.notes[0]


def test_a_picture_without_a_spacing_has_pixels_of_unknown_size(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(phantom()[0]), str(tmp_path / "a.mha"))
    path = tmp_path / "a.mha"
    path.write_bytes(re.sub(rb"ElementSpacing = .*\n", b"", path.read_bytes()))
    volume = read_volume(path)
    assert (volume.calibrated, volume.shape) == (False, (6, 7))
    assert "no pixel size" in volume.notes[0]
