"""Result folders: what is written comes back, is whole, repeats to the byte, and lies where other readers see it."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK
import tifffile
from closed import closed
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from results import CLASSES, SHEARED, assert_same, image_of, make

from medpanoptic.errors import MedpanopticError, ReadError, WriteError
from medpanoptic.geometry import spatial_affine, to_world
from medpanoptic.identity import array_digest, result_digest, uid_from
from medpanoptic.io import segments_csv
from medpanoptic.io.write import check_output, convert, read_result, write_result
from medpanoptic.result import PanopticResult, Provenance, Segment
from medpanoptic.volume import Channel, Volume

EVERYWHERE = ("nifti", "csv", "png", "coco")


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("stuff", [True, False])
def test_what_is_written_is_read_back(tmp_path, ndim, stuff):
    result = make(ndim) if stuff else make(ndim, stuff=None)
    write_result(result, tmp_path / "case", formats=EVERYWHERE, volume=image_of(result))
    assert_same(result, read_result(tmp_path / "case"))
    assert_same(result, read_result(tmp_path / "case" / "segments.json"))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_result_is_read_back(tmp_path_factory, data):
    ndim = data.draw(st.sampled_from([2, 3]))
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=ndim, max_size=ndim)))
    numbers = np.array(
        data.draw(st.lists(st.integers(0, 2000), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    )
    ids = numbers.reshape(shape).astype(np.int32)
    scores = st.floats(0, 1)
    segments = tuple(Segment(int(i), 1, data.draw(scores)) for i in np.unique(ids) if i)
    steps = data.draw(st.lists(st.floats(1e-3, 50), min_size=ndim, max_size=ndim))
    result = PanopticResult(ids, segments, CLASSES, spatial_affine(steps))
    folder = tmp_path_factory.mktemp("any") / "case"
    write_result(result, folder, formats=("csv", "coco"))
    assert_same(result, read_result(folder))


def test_an_empty_result_is_a_result(tmp_path):
    result = make(ids=np.zeros((8, 10), np.int32), segments=(), stuff=None, dropped=())
    write_result(result, tmp_path / "case", formats=EVERYWHERE)
    assert_same(result, read_result(tmp_path / "case"))


def test_other_readers_see_the_ids_in_their_place(tmp_path):
    result = make(3)
    path = write_result(result, tmp_path / "case")["nifti"][0]
    image = nibabel.load(path)
    assert image.get_data_dtype() == np.int32
    assert np.array_equal(np.asarray(image.dataobj).T, result.ids)
    lps = image.affine @ [3, 2, 1, 1] * [-1, -1, 1, 1]
    assert lps[:3] == pytest.approx(to_world([[1, 2, 3]], result.affine)[0], abs=1e-5)


def test_simpleitk_agrees_on_an_axis_aligned_grid(tmp_path):
    result = make(3, affine=spatial_affine((2.5, 0.9, 0.7), origin=(1, 2, 3)))
    image = SimpleITK.ReadImage(str(write_result(result, tmp_path / "case")["nifti"][0]))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), result.ids)
    assert image.GetSpacing() == pytest.approx((0.7, 0.9, 2.5))
    assert image.TransformIndexToPhysicalPoint((3, 2, 1)) == pytest.approx((1 + 2.1, 2 + 1.8, 3 + 2.5))


def test_tiff_holds_int32_and_the_pixel_size(tmp_path):
    result = make()
    path = write_result(result, tmp_path / "case")["nifti"][0]
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages[0].tags
        across, up = (tags[name].value for name in ("XResolution", "YResolution"))
        assert (across[0] / across[1], up[0] / up[1]) == (40, 20)  # pixels per cm: 0.25 and 0.5 mm
        assert tags["ResolutionUnit"].value == 3
        assert tiff.pages[0].dtype == np.int32
    assert np.array_equal(np.asarray(Image.open(path)), result.ids)


def test_the_table_says_what_the_map_holds(tmp_path):
    write_result(make(3), tmp_path / "case")
    data = json.loads((tmp_path / "case" / "segments.json").read_text(encoding="utf-8"))
    assert (data["format"], data["version"], data["shape"]) == ("medpanoptic-result", 1, [4, 8, 10])
    lesion = data["segments"][0]
    assert lesion["box"] == [[0, 4], [1, 3], [2, 5]]
    assert lesion["size"] == 4 * 2 * 3
    assert lesion["volume_mm3"] == pytest.approx(24 * abs(np.linalg.det(SHEARED[:3, :3])))
    assert data["dropped"] == [{"class_id": 1, "score": 0.2, "reason": "score", "box": [[0, 4], [0, 8], [0, 10]]}]
    assert data["classes"][1]["name"] == "Gewebe µ"
    assert data["affine_lps"] == SHEARED.tolist()


def test_csv_opens_in_pandas(tmp_path):
    write_result(make(), tmp_path / "case")
    table = pd.read_csv(tmp_path / "case" / "segments.csv")
    assert table["id"].tolist() == [3, 9, 300]
    row = table.iloc[0]
    assert (row["class"], row["size"], row["area_mm2"]) == ("lesion", 6, 0.75)
    assert (row["centroid_x_mm"], row["centroid_y_mm"]) == (0.75, 0.75)
    assert (row["row_start"], row["row_stop"], row["column_start"], row["column_stop"]) == (1, 3, 2, 5)
    assert row["long_axis_mm"] >= row["short_axis_mm"] > 0


def test_without_a_pixel_size_there_are_no_millimetres(tmp_path):
    result = make(provenance=Provenance(parameters={"calibrated": False}))
    write_result(result, tmp_path / "case")
    data = json.loads((tmp_path / "case" / "segments.json").read_text(encoding="utf-8"))
    assert data["calibrated"] is False
    assert {s["area_mm2"] for s in data["segments"]} == {None}
    assert pd.read_csv(tmp_path / "case" / "segments.csv")["area_mm2"].isna().all()
    with tifffile.TiffFile(tmp_path / "case" / "panoptic.tif") as tiff:
        assert tiff.pages[0].tags["ResolutionUnit"].value == 1
    assert_same(result, read_result(tmp_path / "case"))


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_same_result_gives_the_same_bytes(tmp_path, ndim):
    for name in ("a", "b"):
        write_result(make(ndim), tmp_path / name, formats=EVERYWHERE, volume=image_of(make(ndim)))
    files = [sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*") if p.is_file()) for n in ("a", "b")]
    assert files[0] == files[1]
    for path in files[0]:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path


def test_nothing_of_the_source_gets_out(tmp_path):
    result = make(3)
    write_result(result, tmp_path / "case", formats=EVERYWHERE, volume=image_of(result))
    for path in (tmp_path / "case").rglob("*.*"):
        assert b"1.2.840" not in path.read_bytes()


# ---- whole or not at all


def test_an_older_result_is_replaced_whole_and_foreign_files_stay(tmp_path):
    case = tmp_path / "case"
    write_result(make(3), case, formats=EVERYWHERE)
    (case / "notes.txt").write_text("mine")
    (case / "mine").mkdir()
    (case / "mine" / "a.txt").write_text("mine too")
    write_result(make(2), case, formats=("csv",))
    names = sorted(p.name for p in case.iterdir())
    assert names == ["dropped.bin", "mine", "notes.txt", "panoptic.tif", "segments.csv", "segments.json", "stuff.tif"]
    assert (case / "mine" / "a.txt").read_text() == "mine too"
    assert [p.name for p in tmp_path.iterdir()] == ["case"]


def test_a_foreign_folder_or_file_is_refused(tmp_path):
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "holiday.jpg").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("case", "file"):
        with pytest.raises(WriteError, match="FOLDER-FOREIGN"):
            write_result(make(), tmp_path / name)
    assert (tmp_path / "case" / "holiday.jpg").read_text() == "x"
    (tmp_path / "empty").mkdir()
    write_result(make(), tmp_path / "empty")


def test_a_closed_folder_is_named_before_there_is_a_result(tmp_path):
    (tmp_path / "closed").mkdir()
    check_output(tmp_path / "closed" / "deep" / "case", ("csv",), 2)
    with (
        closed(tmp_path / "closed", mode=0o555),
        pytest.raises(WriteError, match=r"\[WRITE-OS\].*no permission, or the disk is read-only"),
    ):
        check_output(tmp_path / "closed" / "deep" / "case", ("csv",), 2)
    assert not list((tmp_path / "closed").iterdir())


def test_a_failure_leaves_the_older_result(tmp_path, monkeypatch):
    write_result(make(2), tmp_path / "case")
    before = (tmp_path / "case" / "panoptic.tif").read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segments_csv, "write_csv", full_disk)
    with pytest.raises(WriteError, match=r"WRITE-OS.*No space left"):
        write_result(make(3), tmp_path / "case", formats=("csv",))
    assert (tmp_path / "case" / "panoptic.tif").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["case"]


def test_many_writers_of_one_case_leave_one_whole_result(tmp_path):
    def work(ndim):
        with suppress(WriteError):  # another one was first
            write_result(make(ndim), tmp_path / "case", formats=("csv",))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [2, 3] * 8))
    found = read_result(tmp_path / "case")
    assert_same(found, make(found.ndim))
    assert [p.name for p in tmp_path.iterdir()] == ["case"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_the_folder_is_as_open_as_any_other(tmp_path):
    write_result(make(3), tmp_path / "case", formats=EVERYWHERE)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    assert (tmp_path / "case").stat().st_mode == (tmp_path / "plain").stat().st_mode
    modes = {p.stat().st_mode for p in (tmp_path / "case").rglob("*") if p.is_file()}
    assert modes == {(tmp_path / "plain" / "file").stat().st_mode}


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"formats": ("nifti", "gif")}, "FORMAT-UNKNOWN.*'gif'.*json, nifti, csv, png, dicom-seg, .*coco"),
        ({"formats": ("dicom-seg",)}, "FORMAT-NDIM"),
        ({"volume": Volume.from_array(np.zeros((1, 3, 3)))}, "FORMAT-SHAPE"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(tmp_path, arguments, code):
    with pytest.raises(WriteError, match=code):
        write_result(make(), tmp_path / "case", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_parameters_that_json_cannot_hold_are_refused(tmp_path, value):
    with pytest.raises(WriteError, match="JSON-VALUE"):
        write_result(make(provenance=Provenance(parameters={"x": value})), tmp_path / "case")
    assert not list(tmp_path.iterdir())


def edit(folder, **changes):
    path = folder / "segments.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**data, **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda f: (f / "segments.json").unlink(), "RESULT-MISSING"),
        (lambda f: (f / "segments.json").write_text("{"), "RESULT-FORMAT"),
        (lambda f: (f / "segments.json").write_text("[]"), "RESULT-FORMAT"),
        (lambda f: edit(f, format="other"), "RESULT-FORMAT"),
        (lambda f: edit(f, version=99), "RESULT-VERSION"),
        (lambda f: edit(f, shape=[4, 8, "x"]), "RESULT-FORMAT"),
        (lambda f: edit(f, shape=[4, 8, 11]), "RESULT-SHAPE"),
        (lambda f: edit(f, segments=[{"id": 3}]), "RESULT-FORMAT"),
        (lambda f: edit(f, segments=[]), "RESULT-IDS"),
        (lambda f: (f / "panoptic.nii.gz").unlink(), "RESULT-MISSING"),
        (lambda f: (f / "stuff.nii.gz").unlink(), "RESULT-MISSING"),
        (lambda f: (f / "panoptic.nii.gz").write_bytes(b"\x1f\x8bnonsense"), "RESULT-DAMAGED"),
        (lambda f: (f / "panoptic.nii.gz").write_bytes((f / "panoptic.nii.gz").read_bytes()[:-20]), "RESULT-DAMAGED"),
    ],
)
def test_damaged_results_are_refused_by_name(tmp_path, damage, code):
    write_result(make(3), tmp_path / "case")
    damage(tmp_path / "case")
    with pytest.raises(MedpanopticError, match=code):
        read_result(tmp_path / "case")


def test_a_damaged_tiff_is_refused(tmp_path):
    write_result(make(2), tmp_path / "case")
    path = tmp_path / "case" / "panoptic.tif"
    for data in (b"II*\0", path.read_bytes()[:60], b""):
        path.write_bytes(data)
        with pytest.raises(ReadError, match="RESULT-DAMAGED"):
            read_result(tmp_path / "case")


def test_convert_writes_other_formats(tmp_path):
    write_result(make(2), tmp_path / "a")
    files = convert(tmp_path / "a", tmp_path / "b", ["coco"])
    assert files.files["coco"][0].name == "coco_panoptic.json"
    assert_same(read_result(tmp_path / "a"), read_result(tmp_path / "b"))


# ---- identity


def test_uids_depend_on_their_parts_alone():
    assert uid_from("a", "b") == uid_from("a", "b")
    assert len({uid_from("a", "b"), uid_from("ab"), uid_from("b", "a"), uid_from("a", "b", ""), uid_from()}) == 5
    assert uid_from("x").startswith("2.25.")
    assert len(uid_from("x")) <= 64


def test_digests_see_values_and_not_layout_or_time():
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    assert array_digest(array) == array_digest(np.asfortranarray(array)) == array_digest(array.astype(">i4"))
    assert array_digest(array) != array_digest(array.reshape(3, 2, 4))
    assert array_digest(array) != array_digest(array.astype(np.int64))
    result = make()
    assert result_digest(result) == result_digest(
        make(provenance=Provenance(**{**vars(result.provenance), "created": "2026"}))
    )
    assert result_digest(result) != result_digest(make(segments=(*result.segments[:2], Segment(300, 1, 0.5))))


def test_csv_carries_the_grey_values_of_each_channel(tmp_path):
    result = make(3)
    array = np.stack([np.full(result.ids.shape, v, np.float32) for v in (40.0, 2.5)])
    volume = Volume(array, result.affine, (Channel("ct", "CT", "HU"), Channel("pet", "PT", "SUV")))
    write_result(result, tmp_path / "case", formats=("csv",), volume=volume)
    table = pd.read_csv(tmp_path / "case" / "segments.csv").set_index("id")
    lesion = table.loc[3]
    assert (lesion["ct_mean_HU"], lesion["pet_max_SUV"], lesion["pet_peak_SUV"]) == (40, 2.5, 2.5)
    assert "ct_peak_HU" not in table
    assert table.loc[~table["is_thing"].astype(bool), ["ct_mean_HU", "long_axis_mm"]].isna().all(axis=None)
    assert (table["volume_mm3"] > 0).all()
