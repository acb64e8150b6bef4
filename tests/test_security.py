"""Patient data stays in DICOM: names planted in every tag of a study are looked for in everything else that we make."""

from __future__ import annotations

import zipfile

import pytest
from planted import (
    BROKEN,
    DATE,
    MARK,
    UID_MARK,
    blank_result,
    command,
    contents,
    leaks,
    model,
    spoil,
    study,
    told,
)

from medpanoptic.io import FORMATS, find_series, inspect, read_result, read_study, read_volume, write_result
from medpanoptic.volume import ChannelSpec

__all__ = ["model", "study", "told"]


def test_the_marks_are_there(study):
    text = (study / "one_000.dcm").read_bytes().lower()
    assert text.count(b"qqsecret") > 300
    assert all(mark.encode() in text for mark in (DATE, UID_MARK))


def test_no_command_says_or_writes_what_tags_hold(study, model, tmp_path, told):
    out = tmp_path / "out"
    said = told(command("segment", study, "-o", out, "--model", model, "--device", "cpu"))
    assert (out / "case" / "segments.json").is_file(), said
    said += told(command("inspect", study)) + told(command("inspect", study, "--json"))
    others = sorted(set(FORMATS) - {n for n in FORMATS if "dicom" in n})
    words = ("--format", ",".join(others), "--image", study)
    said += told(command("convert", out / "case", "-o", tmp_path / "converted", *words))
    said += told(command("evaluate", out, out, "-o", tmp_path / "scores.csv"))
    assert [line for line in said.splitlines() if leaks(line)] == []
    assert len(list(tmp_path.rglob("*.csv"))) >= 2
    assert leaks("\n".join(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*"))) == []
    for name, raw in contents(tmp_path):
        assert leaks(raw.decode("latin-1")) == [], name
        assert leaks(raw.decode("utf-16-le", "ignore")) == [], name


def test_a_result_holds_what_its_dicom_needs_and_prints_none_of_it(study, tmp_path, told):
    volume = read_study(study, [ChannelSpec("ct", "CT")])
    assert leaks(repr(volume.notes)) == []
    assert leaks(" ".join(c.name for c in volume.channels)) == []
    assert leaks(repr(find_series(study)) + repr(inspect(study))) == []
    assert told(lambda: read_volume(study)).strip() == ""


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_inputs_are_refused_without_their_values(study, model, tmp_path, told, kind):
    folder = tmp_path / "case"
    folder.mkdir()
    for path in study.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    BROKEN[kind](folder / "one_003.dcm")
    with zipfile.ZipFile(tmp_path / "case.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    out = tmp_path / "out"
    segmented = (
        command("segment", folder, "-o", out, "--model", model, "--device", "cpu", "--format", "csv"),
        command("evaluate", out, out, "-o", tmp_path / "scores.csv"),
    )
    said = "".join(
        told(work)
        for work in (
            lambda: read_volume(folder),
            lambda: read_study(folder, [ChannelSpec("ct", "CT", "HU")]),
            lambda: read_volume(tmp_path / "case.zip"),
            lambda: print(find_series(folder)),
            command("inspect", folder),
            # a model takes a while to load: once where the input is refused, once where it is not
            *(segmented if kind in {"ImagePositionPatient", "SpecificCharacterSet"} else ()),
        )
    )
    assert [line for line in said.splitlines() if leaks(line)] == []
    assert said.strip()
    assert leaks("\n".join(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*"))) == []
    for name, raw in contents(out):
        assert leaks(raw.decode("latin-1")) == [], name


def test_writers_refuse_without_values(study, tmp_path, told):
    """A source that has changed or gone since it was read: what writers say of it holds no value either."""
    folder = tmp_path / "case"
    folder.mkdir()
    for path in study.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    volume = read_volume(folder)
    result = blank_result(volume)
    spoil("ImagePositionPatient", MARK * 9)(folder / "one_003.dcm")
    (folder / "one_004.dcm").unlink()
    said = ""
    for name in FORMATS:
        said += told(lambda name=name: write_result(result, tmp_path / name, formats=[name], volume=volume))
    assert [line for line in said.splitlines() if leaks(line)] == []
    assert leaks("\n".join(p.name for p in tmp_path.rglob("*"))) == []


def test_results_read_back_hold_nothing_of_the_source(study, tmp_path):
    write_result(blank_result(read_volume(study)), tmp_path / "r", formats=["csv"], volume=read_volume(study))
    assert leaks(repr(read_result(tmp_path / "r").source)) == []
