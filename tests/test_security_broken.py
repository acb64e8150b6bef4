"""Broken input to every command that reads: nothing that is said or written holds what tags and headers held."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from builders import write_nifti_file
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from planted import BROKEN, DATE, MARK, MARKS, blank_result, command, contents, leaks, model, study, told
from pydicom import dcmread

from medpanoptic.batch import Limits, run_batch
from medpanoptic.batch.report import write_report
from medpanoptic.io import find_series, inspect, read_labels, read_result, read_volume, write_result
from medpanoptic.review import ReviewSession, find_unsaved
from medpanoptic.review.follow_up import days_between

__all__ = ["model", "study", "told"]


@pytest.fixture(scope="module")
def case(study, tmp_path_factory) -> Path:
    """A result of the planted study in every format that is read back, and more."""
    volume = read_volume(study)
    folder = tmp_path_factory.mktemp("case") / "case"
    formats = ["csv", "png", "dicom-seg", "dicom-seg-labelmap", "dicom-sr", "rtstruct", "coco"]
    write_result(blank_result(volume), folder, formats=formats, volume=volume)
    return folder


def nothing_leaks(said: str, *folders: Path) -> None:
    assert [line for line in said.splitlines() if leaks(line)] == []
    for folder in folders:
        assert leaks("\n".join(p.relative_to(folder).as_posix() for p in folder.rglob("*"))) == []
        for name, raw in contents(folder):
            assert leaks(raw.decode("latin-1")) == [], name


def swap(old: bytes, new: bytes = MARK.encode()):
    """Put the mark in the place of some bytes, as long as they were."""

    def edit(raw: bytes) -> bytes:
        assert old in raw
        return raw.replace(old, new.ljust(len(old))[: len(old)])

    return edit


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) * 2 // 3]


DAMAGE = {
    "seg.dcm": {
        "cut": cut,
        "algorithm type": swap(b"AUTOMATIC"),
        "spacing": swap(b"1.5\\1.25"),
        "description": swap(b"id=1", b"id=Q"),
        "meta": swap(b"DICM", b"Qqse"),
    },
    "seg_labelmap.dcm": {"cut": cut, "spacing": swap(b"1.5\\1.25")},
    "rtstruct.dcm": {"cut": cut, "contours": swap(b"CLOSED_PLANAR"), "facts": swap(b'{"class"')},
    "sr.dcm": {"cut": cut},
}
CASES = [(name, kind) for name, kinds in DAMAGE.items() for kind in kinds]


@pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{n}-{k}" for n, k in CASES])
def test_damaged_dicom_results(case, study, tmp_path, told, name, kind):
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(DAMAGE[name][kind]((case / name).read_bytes()))
    out = tmp_path / "out"
    image = read_volume(study)
    said = "".join(
        told(work)
        for work in (
            lambda: read_result(path, image=image),
            lambda: read_result(path.parent),
            lambda: inspect(path),
            lambda: find_series(path.parent),
            command("convert", path, "-o", out / "a", "--format", "csv,coco,png"),
            command("convert", path, "-o", out / "b", "--format", "dicom-seg,dicom-sr,json", "--image", study),
            command("evaluate", path.parent, case.parent, "-o", tmp_path / "scores.csv"),
            command("inspect", path, "--json"),
            command("fuse", path.parent),
        )
    )
    assert "error [" in said
    nothing_leaks(said, tmp_path)


@pytest.mark.parametrize("kind", ["ImagePositionPatient", "SOPClassUID", "PatientID", "cut header", "transfer syntax"])
def test_results_whose_image_is_broken(case, study, tmp_path, told, kind):
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    BROKEN[kind](folder / "one_003.dcm")
    volume = read_volume(study)
    source = replace_paths(volume, folder)
    formats = "dicom-seg,dicom-sr,dicom-sc,rtstruct,png"
    said = "".join(
        told(work)
        for work in (
            command("convert", case, "-o", tmp_path / "out", "--format", formats, "--image", folder),
            command("convert", case / "seg.dcm", "-o", tmp_path / "out2", "--format", formats, "--image", folder),
            command("convert", case / "rtstruct.dcm", "-o", tmp_path / "out3", "--format", "csv", "--image", folder),
            command("fuse", case, "-o", tmp_path / "out4", "--image", folder),
            lambda: ReviewSession.open(case, read_volume(folder), reader="R"),
            lambda: days_between(source, source),
        )
    )
    assert "error [" in said
    nothing_leaks(said, tmp_path / "study" / "none")
    for name in ("out", "out2", "out3", "out4"):
        nothing_leaks("", tmp_path / name)


def replace_paths(volume, folder):
    from dataclasses import replace

    return replace(volume.source, paths=tuple(folder / p.name for p in volume.source.paths))


def test_a_date_that_is_none_is_not_told(study, tmp_path, told):
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(DATE.encode(), MARK.encode()))
    source = replace_paths(read_volume(study), folder)
    nothing_leaks(told(lambda: print(days_between(source, source))))


def garbled(data, change):
    change(data)
    return json.dumps(data)


TABLES = {
    "ids": lambda d: d["segments"][0].update(id=MARK),
    "affine": lambda d: d.update(affine_lps=MARK),
    "score": lambda d: d["segments"][0].update(score=MARK),
    "classes": lambda d: d["classes"][0].update(color=MARK),
    "no classes": lambda d: d.pop("classes"),
    "classes of another kind": lambda d: d.update(classes=[MARK]),
    "shape": lambda d: d.update(shape=[MARK]),
    "version": lambda d: d.update(version=MARK),
    "provenance": lambda d: d.update(provenance=MARK),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_garbled_table(case, tmp_path, told, kind):
    folder = tmp_path / "in" / "case"
    shutil.copytree(case, folder)
    path = folder / "segments.json"
    path.write_text(garbled(json.loads(path.read_text()), TABLES[kind]))
    said = "".join(
        told(work)
        for work in (
            lambda: read_result(folder),
            command("convert", folder, "-o", tmp_path / "out", "--format", "csv"),
            command("evaluate", folder.parent, case.parent, "-o", tmp_path / "scores.csv"),
            command("fuse", folder),
            lambda: ReviewSession.open(folder, reader="R"),
            lambda: find_unsaved(folder),
        )
    )
    assert "error [" in said
    assert "[INTERNAL]" not in said
    nothing_leaks(said)


def test_a_garbled_journal(case, tmp_path, told):
    folder = tmp_path / "case"
    shutil.copytree(case, folder)
    (folder / "review").mkdir()
    for text in (f'{{"{MARK}', f'{{"seq": "{MARK}", "action": "{MARK}"}}\n', f"{MARK}\n" * 3):
        (folder / "review" / "journal.jsonl").write_text(text)
        nothing_leaks(
            "".join(
                told(work) for work in (lambda: find_unsaved(folder), lambda: ReviewSession.open(folder, reader="R"))
            )
        )


def nifti(path: Path) -> None:
    write_nifti_file(path, np.ones((4, 4, 4), np.int16), np.diag([-1.0, -1, 1, 1]))
    image = nibabel.load(path)
    image.header["descrip"] = image.header["aux_file"] = MARK
    image.header["intent_name"] = MARK
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", MARK.encode()))
    image.header["srow_x"] = [9, 9, 9, 9]  # sform and qform disagree
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)


def png(path: Path) -> None:
    info = PngInfo()
    for key in ("Title", "Author", MARK):
        info.add_text(key, MARK)
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)).save(path, pnginfo=info)
    path.write_bytes(cut(path.read_bytes()))


def tiff(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), description=f"<OME {MARK}", software=MARK)
    path.write_bytes(path.read_bytes()[:-3000])


def nrrd(path: Path) -> None:
    fields = f"type: {MARK}\ndimension: 3\nsizes: 2 2 {MARK}\nspace: {MARK}\nencoding: raw\n# {MARK}\n{MARK}:={MARK}"
    path.write_bytes(f"NRRD0004\n{fields}\n\n".encode() + bytes(16))


def mha(path: Path) -> None:
    fields = f"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = {MARK}\nComment = {MARK}\n"
    path.write_bytes(f"{fields}ElementSpacing = {MARK}\nElementDataFile = LOCAL\n".encode() + bytes(16))


@pytest.mark.parametrize(
    ("make", "name"), [(nifti, "a.nii"), (png, "a.png"), (tiff, "a.tif"), (nrrd, "a.nrrd"), (mha, "a.mha")]
)
def test_broken_files_of_other_formats(case, tmp_path, told, make, name):
    path = tmp_path / "in" / name
    path.parent.mkdir()
    make(path)
    said = "".join(
        told(work)
        for work in (
            lambda: read_volume(path),
            lambda: read_labels(path),
            lambda: inspect(path.parent),
            command("inspect", path),
            command("inspect", path.parent, "--json"),
            command("convert", path, "-o", tmp_path / "out", "--format", "csv"),
            command("convert", case, "-o", tmp_path / "out", "--format", "png", "--image", path),
            command("evaluate", case.parent, path.parent, "-o", tmp_path / "scores.csv"),
        )
    )
    assert "error [" in said
    nothing_leaks(said)


def test_a_batch_of_broken_studies(study, model, tmp_path, told):
    """All at once, at DEBUG: in no log, ledger, report, marker or name."""
    for number, (kind, spoil) in enumerate(BROKEN.items()):
        folder = tmp_path / "in" / str(number)
        shutil.copytree(study, folder)
        for path in folder.iterdir():
            dataset = dcmread(path)
            with suppress(Exception):
                dataset.StudyInstanceUID = f"1.2.777777777.{number}"
                dataset.save_as(path)
        spoil(folder / "one_003.dcm")
        del kind
    out = tmp_path / "out"

    def work() -> None:
        limits = Limits(backoff_s=0.05, min_free_mb=1)
        options = {"model": model, "workers": 1, "threads": 1, "formats": ("csv", "json")}
        run_batch([tmp_path / "in"], out, limits=limits, log_level="DEBUG", **options)
        write_report(out)

    said = told(work) + told(command("status", out)) + told(command("status", out, "--json"))
    assert "refused" in said
    nothing_leaks(said, out)
    assert all(mark.encode() not in (out / "ledger.sqlite").read_bytes().lower() for mark in MARKS)
