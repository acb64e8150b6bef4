"""What a reader may not open: named, and never taken for something that is not there."""

from __future__ import annotations

import numpy as np
import pytest
from builders import axial_affine, phantom, write_series
from closed import closed
from PIL import Image

from medpanoptic.cases import find_cases
from medpanoptic.cli import main
from medpanoptic.errors import ReadError
from medpanoptic.io import inspect, read_volume
from medpanoptic.io.dicom_files import walk_files

SHAPE = (4, 6, 5)


@pytest.fixture
def study(tmp_path):
    write_series(tmp_path / "study", phantom(SHAPE), axial_affine())
    (tmp_path / "study" / "more").mkdir()
    (tmp_path / "study" / "one_003.dcm").rename(tmp_path / "study" / "more" / "one_003.dcm")
    (tmp_path / "other.png").write_bytes(b"")
    return tmp_path / "study"


def test_slices_in_a_closed_folder_are_missed(study, capsys):
    assert read_volume(study).shape == SHAPE
    with closed(study / "more"):
        with pytest.raises(ReadError, match=r"first more;") as caught:
            read_volume(study)
        report = inspect(study)
        with pytest.raises(SystemExit):
            main(["inspect", str(study)])
    assert caught.value.code == "DICOM-DAMAGED"
    assert [s.code for s in report.series] == ["DICOM-DAMAGED"]
    assert [(s.name, s.damaged) for s in report.skipped] == [("more", True)]
    assert "skipped 1: folder that cannot be opened, with all that is in it: more" in capsys.readouterr().out


def test_a_folder_that_shows_names_alone(study):
    """Its owner may list it and not go in: each file is missed."""
    read_volume(study)
    with closed(study / "more", mode=0o444):
        found = [(name, reason) for _, name, reason in walk_files(study) if reason]
        with pytest.raises(ReadError, match="DICOM-DAMAGED"):
            read_volume(study)
    assert found == [("more/one_003.dcm", "folder that cannot be opened, with all that is in it")]


def test_the_folder_itself_is_closed(study):
    with closed(study):
        with pytest.raises(ReadError, match=r"NO-SERIES.*1 folder that cannot be opened"):
            read_volume(study)
        # it fails when it is read, as one case of many
        assert [case.source for case in find_cases([study, study.parent / "other.png"])] == [
            study,
            study.parent / "other.png",
        ]


def test_a_folder_of_images_beside_closed_things_is_still_one(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "closed").mkdir()
    (tmp_path / "notes").write_text("x")
    with closed(tmp_path / "closed", tmp_path / "notes"):
        assert [case.name for case in find_cases([tmp_path])] == ["a"]
