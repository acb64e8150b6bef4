"""``inspect``: what was found, what is usable, and why not."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from builders import axial_affine, phantom, write_nifti_file, write_series
from PIL import Image
from typer.testing import CliRunner

from medpanoptic.cli import app
from medpanoptic.errors import ReadError
from medpanoptic.io import inspect, read_volume


def _mixed(folder):
    write_series(folder / "ct", phantom(), axial_affine())
    write_series(folder / "mr", phantom(), axial_affine(), "MR", series="two")
    write_series(folder / "hole", phantom((7, 6, 7)), axial_affine(), series="three")
    (folder / "hole" / "three_003.dcm").unlink()
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(folder / "cells.png")
    (folder / "broken.nii.gz").write_bytes(b"no image")
    (folder / "notes.txt").write_text("x")
    return folder


def test_every_series_and_image_has_the_verdict_that_reading_has(tmp_path):
    report = inspect(_mixed(tmp_path))
    verdicts = {row.folder: row.code for row in report.series}
    assert verdicts == {"ct": "OK", "mr": "OK", "hole": "GEO-GAP", "cells.png": "OK", "broken.nii.gz": "NOT-NIFTI"}
    for row in report.series:
        if row.code != "OK":
            with pytest.raises(ReadError) as caught:
                read_volume(tmp_path / row.folder)
            assert (caught.value.code, caught.value.message) == (row.code, row.reason.replace("hole/", ""))
    assert [s.name for s in report.skipped] == ["notes.txt"]


def test_one_file_and_an_archive(tmp_path):
    path = write_nifti_file(tmp_path / "a.nii.gz", phantom(), np.diag([1.25, 1.5, 2.5, 1]))
    (row,) = inspect(path).series
    assert (row.modality, row.shape, row.spacing, row.code) == ("NII", (7, 6, 5), (2.5, 1.5, 1.25), "OK")
    write_series(tmp_path / "ct", phantom(), axial_affine())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in (tmp_path / "ct").iterdir():
            archive.write(file, file.name)
    assert inspect(tmp_path / "a.zip") == inspect(tmp_path / "ct")
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(ReadError, match="unknown format"):
        inspect(tmp_path / "a.xyz")


def test_the_command_prints_one_row_each_and_json(tmp_path):
    folder = _mixed(tmp_path)
    done = CliRunner().invoke(app, ["inspect", str(folder)])
    assert done.exit_code == 0
    (hole,) = [line for line in done.output.splitlines() if "hole" in line]
    assert "GEO-GAP slice spacing is not uniform, 1 slice(s) seem to be missing" in hole
    assert "skipped 1: not DICOM: notes.txt" in done.output
    data = json.loads(CliRunner().invoke(app, ["inspect", str(folder), "--json"]).output)
    assert {row["code"] for row in data["series"]} == {"OK", "GEO-GAP", "NOT-NIFTI"}
    assert data["skipped"] == [{"name": "notes.txt", "reason": "not DICOM", "damaged": False}]
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "empty")])
    assert done.exit_code == 1
    assert "nothing here" in done.output
