"""From every format that can be read to every one that can be written: what a format claims to hold comes back."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_results import GRIDS, SHAPE, volume_of, write_series
from dicom_results import result_on as dicom_result
from hypothesis import given, settings
from hypothesis import strategies as st
from results import CLASSES, image_of, make

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.errors import MedpanopticError, ReadError
from medpanoptic.geometry import spatial_affine, voxel_spacing
from medpanoptic.io import FORMATS, convert, losses, read_result, write_result
from medpanoptic.io.formats import HOLDABLE
from medpanoptic.io.result_reader import find_result, readable
from medpanoptic.result import Dropped, PanopticResult, Segment, without_rejected


def rows_of(result, field):
    return {s.id: getattr(s, field) for s in result.segments}


def used(result):
    ids = {s.class_id for s in result.segments}
    return sorted((c for c in result.classes if c.id in ids), key=lambda c: c.name)


# each key of HOLDABLE -> what of a result it speaks of, in a form that compares
ASPECTS = {
    "map": lambda r: np.unique(r.ids, return_inverse=True)[1].tolist(),
    "ids": lambda r: r.ids.tolist(),
    "classes": lambda r: [(c.name, c.is_thing) for c in used(r)],
    "codes": lambda r: [(c.category, c.type) for c in used(r)],
    "colors": lambda r: [c.color for c in used(r)],
    "unused": lambda r: {c.name for c in r.classes},
    "scores": lambda r: {k: round(v, 6) for k, v in rows_of(r, "score").items()},
    "origin": lambda r: rows_of(r, "origin"),
    "verdicts": lambda r: rows_of(r, "verdict"),
    "rejected": lambda r: {s.id for s in r.things if s.verdict == "rejected"},
    "tracking": lambda r: {s.id: s.tracking_uid for s in r.things},
    "stuff": lambda r: {r.classes[s.class_id].name for s in r.segments if not r.classes[s.class_id].is_thing},
    "under": lambda r: None if r.stuff is None else r.stuff.tolist(),
    "dropped": lambda r: [(d.class_id, d.score, d.reason, d.box) for d in r.dropped],
    "affine": lambda r: np.round(r.affine, 4).tolist(),
    "spacing": lambda r: np.round(voxel_spacing(r.affine, r.ndim), 4).tolist(),
    "provenance": lambda r: replace(r.provenance, parameters={}),
    "parameters": lambda r: dict(r.provenance.parameters),
}
UNUSED = ClassInfo(9, "bone", True, (1, 2, 3), Code("85756007", "SCT", "Tissue"), Code("3138006", "SCT", "Bone"))


def full_3d(folder):
    """A result with something of everything, on an oblique DICOM series."""
    result = dicom_result(GRIDS["oblique"], write_series(folder, GRIDS["oblique"]))
    verdicts = ("accepted", "unread", "rejected", "unsure")
    return replace(
        result,
        segments=tuple(
            replace(s, verdict=v, tracking_uid=f"2.25.{s.id}" if s.class_id == 1 else "")
            for s, v in zip(result.segments, verdicts, strict=True)
        ),
        classes=ClassTable((*result.classes, UNUSED)),
        stuff=np.where(result.ids > 0, 2, 0).astype(np.uint8),
        dropped=(Dropped(1, 0.1, "score", ((0, 2), (0, 3), (1, 2)), np.ones((2, 3, 1), bool)),),
        provenance=replace(result.provenance, parameters={"threshold": 0.5}),
    )


def full_2d():
    result = make(2, classes=ClassTable((*CLASSES, UNUSED)))
    first, stuff, last = result.segments
    return replace(result, segments=(first, stuff, replace(last, verdict="rejected")))


@pytest.fixture(scope="module")
def case_3d(tmp_path_factory):
    result = full_3d(tmp_path_factory.mktemp("series") / "ct")
    return result, volume_of(result)


def formats_of(ndim):
    return [name for name, row in FORMATS.items() if ndim in row.ndims and name not in ("json", "nifti")]


def written_alone(result, name, folder, volume):
    """Write one format into an empty folder, so that nothing else can be read; a result folder needs its maps."""
    folder.mkdir()
    for needed in (["nifti"] if name == "json" else []) + [name]:
        files = FORMATS[needed].write(result, folder, volume)
    return folder if name == "json" else files[0]


def check_held(result, back, name):
    if "rejected" not in FORMATS[name].holds:
        result = without_rejected(result)
    for key in FORMATS[name].holds | ({"map", "ids", "under"} if name == "json" else set()):
        assert ASPECTS[key](back) == ASPECTS[key](result), f"{name} claims to hold {HOLDABLE[key]}"


def test_every_aspect_is_tested():
    assert set(ASPECTS) == set(HOLDABLE)
    assert all(row.holds <= set(HOLDABLE) for row in FORMATS.values())


@pytest.mark.parametrize("name", [n for n in readable() if 3 in FORMATS[n].ndims])
def test_what_a_format_holds_comes_back_in_3d(tmp_path, case_3d, name):
    result, volume = case_3d
    path = written_alone(result, name, tmp_path / "one", volume)
    assert find_result(path)[0] == name
    check_held(result, read_result(path, image=volume), name)
    # a folder with this one file is found as well
    assert find_result(path if path.is_dir() else path.parent)[0] == name


@pytest.mark.parametrize("name", [n for n in readable() if 2 in FORMATS[n].ndims])
def test_what_a_format_holds_comes_back_in_2d(tmp_path, name):
    result = full_2d()
    path = written_alone(result, name, tmp_path / "one", image_of(result))
    check_held(result, read_result(path, image=image_of(result)), name)


@pytest.mark.parametrize("name", [n for n in readable() if 3 in FORMATS[n].ndims])
def test_every_readable_format_converts_to_all_others(tmp_path, case_3d, name):
    result, volume = case_3d
    path = written_alone(result, name, tmp_path / "one", volume)
    wanted = [n for n in formats_of(3) if "labelmap" not in n and "deflated" not in n]
    done = convert(path, tmp_path / "all", wanted, volume=volume)
    assert set(done.files) == {"json", "nifti", *wanted}
    assert all(files and all(f.exists() for f in files) for files in done.files.values())
    # the new result folder says all that was read
    check_held(read_result(path, image=volume), read_result(tmp_path / "all"), "json")
    assert set(done.lost) == set(wanted)


def test_2d_converts_to_all_formats_that_need_no_slide(tmp_path):
    result = full_2d()
    write_result(result, tmp_path / "a")
    wanted = [n for n in formats_of(2) if n != "dicom-ann"]
    done = convert(tmp_path / "a", tmp_path / "b", wanted, volume=image_of(result))
    assert set(done.lost) == set(wanted)
    check_held(result, read_result(tmp_path / "b"), "json")


# ---- what is lost is said


def test_losses_are_what_a_result_has_and_a_format_has_not():
    full = full_2d()
    assert losses(full, "json") == ("which pixel belongs to which segment", "stuff under the things")
    assert set(losses(full, "coco")) == {
        HOLDABLE[k]
        for k in (
            "origin",
            "verdicts",
            "rejected",
            "tracking",
            "under",
            "dropped",
            "spacing",
            "provenance",
            "parameters",
        )
    }
    plain = PanopticResult(np.ones((2, 2), np.int32), (Segment(1, 1),), ClassTable((UNUSED, *CLASSES)), np.eye(4))
    assert "verdicts" not in " ".join(losses(plain, "coco"))
    assert "position and orientation" in losses(make(3), "coco")
    assert "position and orientation" not in losses(make(2), "coco")


def test_convert_returns_what_is_lost(tmp_path):
    write_result(full_2d(), tmp_path / "a")
    lost = convert(tmp_path / "a", tmp_path / "b", ["coco", "csv"]).lost
    assert lost == {"coco": losses(full_2d(), "coco"), "csv": losses(full_2d(), "csv")}


# ---- which format it is


def test_what_is_no_result_is_named(tmp_path, case_3d):
    result, volume = case_3d
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "cut.json").write_text('{"a')
    for place, code in (
        ("nowhere", "NOT-FOUND"),
        ("empty", "RESULT-MISSING"),
        ("notes.txt", "RESULT-UNKNOWN"),
        ("other.json", "RESULT-UNKNOWN"),
        ("cut.json", "RESULT-UNKNOWN"),
    ):
        with pytest.raises(ReadError, match=code):
            read_result(tmp_path / place)
    with pytest.raises(ReadError, match="RESULT-UNKNOWN"):
        read_result(result.source.paths[0])  # a CT slice
    for name, code in (("csv", "FORMAT-WRITE-ONLY"), ("gif", "FORMAT-UNKNOWN")):
        with pytest.raises(ReadError, match=code):
            read_result(tmp_path, format=name)
    both = tmp_path / "both"
    both.mkdir()
    for name in ("dicom-seg", "coco"):
        FORMATS[name].write(result, both, volume)
    with pytest.raises(ReadError, match=r"RESULT-AMBIGUOUS.*coco_panoptic.json, seg.dcm"):
        read_result(both)
    assert read_result(both / "coco_panoptic.json", image=volume).ids.shape == SHAPE


def test_a_wrong_format_is_an_error_of_ours(tmp_path, case_3d):
    result, volume = case_3d
    path = written_alone(result, "coco", tmp_path / "one", volume)
    for name in readable():
        if name != "coco":
            with pytest.raises(MedpanopticError):
                read_result(path, format=name, image=volume)


def test_every_row_names_functions_that_exist():
    from medpanoptic.io.formats import _load

    for name, row in FORMATS.items():
        assert callable(_load(row.writer)), name
        assert not row.reader or callable(_load(row.reader)), name
    files = [file for row in FORMATS.values() for file in row.files]
    assert len(files) == len(set(files))


# ---- any result


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_result_survives_coco_and_a_result_folder(tmp_path_factory, data):
    ndim = data.draw(st.sampled_from([2, 3]))
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=ndim, max_size=ndim)))
    size = int(np.prod(shape))
    numbers = data.draw(st.lists(st.sampled_from([0, 1, 2, 9, 300, 70000, 256**3 - 1]), min_size=size, max_size=size))
    ids = np.array(numbers, np.int32).reshape(shape)
    segments = tuple(Segment(int(i), 7 if i == 9 else 1, data.draw(st.floats(0, 1))) for i in np.unique(ids) if i)
    steps = data.draw(st.lists(st.floats(1e-3, 50), min_size=ndim, max_size=ndim))
    result = PanopticResult(ids, segments, CLASSES, spatial_affine(steps))
    folder = tmp_path_factory.mktemp("any")
    image = image_of(result)
    write_result(result, folder / "a")
    convert(folder / "a", folder / "b", ["coco"])
    back = read_result(folder / "b" / "coco_panoptic.json", image=image)
    assert np.array_equal(back.ids, ids)
    assert back.segments == segments
    assert back.classes == CLASSES


# ---- the page


def holds_table():
    """The table of docs/formats/index.md, from the rows."""
    keys = [key for key in HOLDABLE if key != "unused"]
    lines = ["| `--format` | 2D | 3D | in | " + " | ".join(keys) + " |", "|---" * (len(keys) + 4) + "|"]
    for name, row in FORMATS.items():
        marks = [2 in row.ndims, 3 in row.ndims, bool(row.reader), *(key in row.holds for key in keys)]
        lines.append(f"| `{name}` | " + " | ".join("x" if mark else "" for mark in marks) + " |")
    return lines


def test_the_page_on_formats_says_what_the_rows_say():
    page = (Path(__file__).resolve().parents[2] / "docs" / "formats" / "index.md").read_text(encoding="utf-8")
    start = page.index("| `--format` | 2D")
    assert page[start : page.index("\n\n", start)].splitlines() == holds_table()
    first = page[: page.index("## What each holds")]
    assert all(f"`{name}`" in first for name in FORMATS)


def test_every_code_of_the_writers_is_explained():
    root = Path(__file__).resolve().parents[2]
    page = "".join(p.read_text(encoding="utf-8") for p in (root / "docs" / "formats").glob("*.md"))
    page += (root / "docs" / "conventions.md").read_text(encoding="utf-8")
    modules = {row.writer.split(":")[0] for row in FORMATS.values()}
    modules |= {row.reader.split(":")[0] for row in FORMATS.values() if row.reader}
    modules |= {"write", "new_folder", "result_reader", "dropped", "dicom_source"}
    for module in sorted(modules):
        text = (root / "medpanoptic" / "io" / f"{module}.py").read_text(encoding="utf-8")
        codes = set(re.findall(r"(?:Write|Read|Geometry)Error\(\s*\"([A-Z0-9-]+)\"", text))
        assert not {code for code in codes if code not in page}, module
