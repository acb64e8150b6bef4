"""Finding studies: by header, across folders, whatever lies beside them."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from closed import closed
from PIL import Image
from tiny_batch import study_uid, write_study

from medpanoptic.batch import run_batch
from medpanoptic.batch.keys import study_handle
from medpanoptic.batch.scan import StudyIndex, scan_inputs
from medpanoptic.batch.stage import InputChangedError, staged
from medpanoptic.errors import ReadError

KEY = b"k" * 32


def scan(*places: Path, excluded: Path = Path("nowhere")) -> StudyIndex:
    return scan_inputs(places, KEY, excluded)


def test_studies_are_grouped_across_folders_and_apart_within_one(tmp_path: Path) -> None:
    write_study(tmp_path / "a" / "ct", 1)
    write_study(tmp_path / "b", 2)
    for path in (tmp_path / "a" / "ct").iterdir():
        path.rename(tmp_path / ("a" if path.name.endswith("0.dcm") else "b") / path.name)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "b" / "picture.png")
    (tmp_path / "b" / "notes.txt").write_text("x")
    with closing(scan(tmp_path)) as index:
        one, two = (index.study(study_handle(KEY, study_uid(n))) for n in (1, 2))
        assert {Path(f[0]).parent.name for f in one.files} == {"a", "b"}
        assert [len(s.files) for s in (one, two)] == [4, 4]
        assert index.count() == 3
        picture = index.study(study_handle(KEY, str((tmp_path / "b" / "picture.png").resolve())))
        assert (picture.kind, len(picture.files)) == ("image", 1)
        assert index.skipped == {"neither DICOM nor an image": 1}
        assert str(tmp_path) not in repr(one)


def test_the_same_input_twice_is_one_study(tmp_path: Path) -> None:
    write_study(tmp_path / "a", 1)
    with closing(scan(tmp_path, tmp_path / "a", tmp_path / "a" / "1_000.dcm")) as index:
        assert [len(index.study(h).files) for h in index.handles()] == [4]


def test_our_own_output_is_no_input(tmp_path: Path) -> None:
    write_study(tmp_path / "in", 1)
    for folder in (tmp_path / "out" / "deep", tmp_path / "earlier"):
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "overlay.png")
    (tmp_path / "earlier" / "segments.json").write_text("{}")
    with closing(scan(tmp_path, excluded=tmp_path / "out")) as index:
        assert index.count() == 1


def test_a_damaged_file_belongs_to_the_studies_beside_it_or_is_one(tmp_path: Path) -> None:
    write_study(tmp_path / "a", 1)
    for folder in ("a", "alone"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "broken").write_bytes(bytes(128) + b"DICM" + b"\xff" * 2000)
    with closing(scan(tmp_path)) as index:
        assert sorted(len(index.study(h).files) for h in index.handles()) == [1, 5]
        assert {index.study(h).kind for h in index.handles()} == {"dicom"}


def test_what_may_not_be_read_is_not_passed_over(tmp_path: Path) -> None:
    write_study(tmp_path / "a", 1)
    write_study(tmp_path / "closed", 2)
    with (
        closed(tmp_path / "a" / "1_003.dcm", tmp_path / "closed"),
        closing(scan(tmp_path)) as index,
    ):
        (handle,) = index.handles()
        # the closed slice stays with its study: it is not segmented without it
        assert len(index.study(handle).files) == 4
        assert index.skipped == {"folder that cannot be opened, with all that is in it": 1}


def test_odd_names_survive(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff"))
    try:
        write_study(folder, 1)
    except OSError:
        pytest.skip("this disk takes only names in UTF-8")
    with closing(scan(tmp_path)) as index:
        (handle,) = index.handles()
        assert all(Path(f[0]).is_file() for f in index.study(handle).files)


def test_an_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="NOT-FOUND"):
        scan(tmp_path / "gone")
    # and nothing is made that would be in the way of the words put right
    with pytest.raises(ReadError, match="NOT-FOUND"):
        run_batch([tmp_path, tmp_path / "gone"], tmp_path / "out", model="nuclei")
    assert not (tmp_path / "out").exists()


def test_a_study_is_laid_out_under_neutral_names_without_second_copies(tmp_path: Path) -> None:
    write_study(tmp_path / "in", 1)
    (tmp_path / "in" / "Doe copy.dcm").write_bytes((tmp_path / "in" / "1_000.dcm").read_bytes())
    with closing(scan(tmp_path / "in")) as index:
        study = index.study(next(index.handles()))
        with staged(study, tmp_path / "work") as (folder, digest):
            assert sorted(p.suffix for p in folder.iterdir()) == [".dcm"] * 4
            assert not [p for p in folder.iterdir() if "Doe" in p.name]
        assert not list((tmp_path / "work").iterdir())
        (tmp_path / "in" / "Doe copy.dcm").unlink()
        with pytest.raises(InputChangedError), staged(study, tmp_path / "work"):
            pass
    with closing(scan(tmp_path / "in")) as index, staged(index.study(study.handle), tmp_path / "work") as (_, again):
        assert again == digest
