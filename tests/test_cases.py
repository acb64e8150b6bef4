"""Which cases a command line names, and what their output folders are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpanoptic.cases import case_name, channel_case, find_cases
from medpanoptic.errors import ReadError, SelectionError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def dicom(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("scan.nii.gz", "scan"),
        ("a.b.nii", "a.b"),
        ("tile.OME.TIF", "tile"),
        ("cell.png", "cell"),
        ("slice.dcm", "slice"),
        ("IM0001.17", "IM0001.17"),
        (".png", ".png"),
    ],
)
def test_a_file_gives_its_stem(tmp_path: Path, file: str, name: str) -> None:
    touch(tmp_path, file)
    assert case_name(tmp_path / file) == name


def test_a_folder_gives_its_whole_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tmp_path / "patient.png"
    study.mkdir()
    assert case_name(study) == "patient.png"
    monkeypatch.chdir(study)
    assert case_name(Path(".")) == "patient.png"
    assert case_name(Path("..")) == tmp_path.name


def test_the_root_of_a_disk_has_no_name() -> None:
    with pytest.raises(SelectionError, match="CASE-NAME"):
        case_name(Path("/").resolve())


def test_a_folder_of_images_is_many_cases_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.tif", "notes.txt", ".hidden.png")
    assert [(c.name, c.source) for c in find_cases([tmp_path])] == [
        ("a", tmp_path / "a.tif"),
        ("b", tmp_path / "b.png"),
    ]


def test_a_folder_with_dicom_is_one_case_whatever_else_lies_there(tmp_path: Path) -> None:
    study = tmp_path / "study"
    touch(study, "preview.jpg")
    dicom(study / "CT" / "1")
    assert [c.name for c in find_cases([study])] == ["study"]


def test_a_folder_without_images_is_one_case_for_the_reader_to_judge(tmp_path: Path) -> None:
    touch(tmp_path / "old", "IM1", "IM2")
    assert [c.source for c in find_cases([tmp_path / "old"])] == [tmp_path / "old"]


@pytest.mark.parametrize("names", [("scan.png", "scan.tif"), ("Scan.png", "scan.nii.gz")])
def test_two_cases_of_one_name_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(SelectionError, match=r"CASE-TWICE.*rename one"):
        find_cases([tmp_path / name for name in names])


def test_the_same_input_twice_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    with pytest.raises(SelectionError, match="CASE-TWICE"):
        find_cases([tmp_path / "a.png", tmp_path])


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"NOT-FOUND.*gone\.png"):
        find_cases([tmp_path / "gone.png"])


def test_channels_make_one_case_called_after_the_first(tmp_path: Path) -> None:
    touch(tmp_path, "p1_ct.nii.gz", "p1_pet.nii.gz")
    case = channel_case({"ct": tmp_path / "p1_ct.nii.gz", "pet": tmp_path / "p1_pet.nii.gz"})
    assert case.name == "p1_ct"
    assert case.source == {"ct": tmp_path / "p1_ct.nii.gz", "pet": tmp_path / "p1_pet.nii.gz"}


def test_our_own_output_is_no_input(tmp_path: Path) -> None:
    touch(tmp_path / "case", "segments.json", "overlay.png")
    with pytest.raises(SelectionError, match="CASE-RESULT"):
        find_cases([tmp_path / "case"])
