"""A folder of results against each layout of truth, with the answer worked out by hand."""

import re

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.errors import DataError
from medpanoptic.geometry import lps_to_ras, reverse_axes, spatial_affine
from medpanoptic.io import write_result
from medpanoptic.metrics import evaluate
from medpanoptic.result import PanopticResult, Segment

CODE = Code("85756007", "SCT", "Tissue")
BACKGROUND, NUCLEUS = 1, 2


def table(*rows):
    return ClassTable(tuple(ClassInfo(i, name, thing, (9, 9, 9), CODE, CODE) for i, name, thing in rows))


def save(folder, ids, classes, of, affine=None):
    ids = ids.astype(np.int32)
    segments = tuple(Segment(int(i), of[int(i)]) for i in np.unique(ids) if i)
    grid = spatial_affine((1.0,) * ids.ndim) if affine is None else affine
    write_result(PanopticResult(ids, segments, classes, grid), folder, formats=("csv",))


def png(path, array, dtype):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(array.astype(dtype)).save(path)


def row(frame, name):
    found = frame[frame["class"] == name]
    assert len(found) == 1
    return found.iloc[0]


def nuclei_truth(folder):
    """Two nuclei of 4 x 4 in 10 x 20; a third case that nobody predicts."""
    labels = np.zeros((10, 20), int)
    labels[1:5, 1:5], labels[1:5, 10:14] = 1, 2
    for case in ("a", "b", "unseen"):
        png(folder / "labels" / f"{case}.png", labels, np.uint16)
    return labels


def test_nuclei(tmp_path):
    labels = nuclei_truth(tmp_path / "truth")
    classes = table((BACKGROUND, "background", False), (NUCLEUS, "nucleus", True))
    perfect = np.where(labels > 0, labels + 10, 1)
    of = {1: BACKGROUND, 11: NUCLEUS, 12: NUCLEUS, 13: NUCLEUS}
    save(tmp_path / "out" / "a", perfect, classes, of)
    worse = np.where(perfect == 12, 1, perfect)  # misses a nucleus, cuts the other to 3 of 4 columns, adds a false one
    worse[1:5, 4] = 1
    worse[7:9, 7:9] = 13
    save(tmp_path / "out" / "b", worse, classes, of)

    frame = evaluate(tmp_path / "out", tmp_path / "truth", tmp_path / "scores" / "table.csv")

    nucleus = row(frame, "nucleus")
    assert tuple(nucleus[["kind", "cases", "n", "tp", "fp", "fn"]]) == ("thing", 2, 4, 3, 1, 1)
    assert nucleus["pq"] == pytest.approx(2.75 / 4)
    assert nucleus["pq_case_mean"] == pytest.approx((1 + 0.75 / 2) / 2)
    assert nucleus["sq"] == pytest.approx(2.75 / 3)
    assert nucleus["rq"] == pytest.approx(3 / 4)
    assert nucleus["ap50"] == pytest.approx((1 + 1 / 3) / 2)
    assert nucleus["ap"] == pytest.approx((1 + (5 / 10) * (1 / 3)) / 2)  # IoU 0.75 is above 0.5 to 0.7
    assert nucleus["dice"] == pytest.approx((1 + 2 * 12 / (16 + 32)) / 2)
    assert row(frame, "any thing")["pq"] == nucleus["pq"]
    assert row(frame, "background")["kind"] == "stuff"
    assert row(frame, "background")["pq"] > 0.9
    assert frame.attrs["truth_without_prediction"] == 1
    stored = pd.read_csv(tmp_path / "scores" / "table.csv")
    assert stored["pq"].to_numpy() == pytest.approx(frame["pq"].to_numpy(), rel=1e-5)


def test_nuclei_with_classes_and_weak_tissue(tmp_path):
    labels = np.zeros((8, 12), int)
    labels[0:3, 0:3], labels[0:3, 5:8] = 1, 2
    types = np.where(labels == 1, 3, np.where(labels == 2, 2, 0))  # epithelial, inflammatory
    tissue = np.ones((8, 12), int)  # epithelium
    tissue[6:], tissue[:, 10:] = 0, 255  # background; ignore
    for kind, array in (("labels", labels), ("types", types), ("tissue_weak", tissue)):
        png(tmp_path / "truth" / kind / "t.png", array, np.uint16 if kind == "labels" else np.uint8)
    classes = table(
        (1, "background", False),
        (2, "epithelium", False),
        (3, "epithelial nucleus", True),
        (4, "inflammatory nucleus", True),
    )
    ids = np.where(tissue == 0, 1, 2)
    ids[labels == 1], ids[labels == 2] = 5, 6
    ids[0:2, 10:12] = 7  # a nucleus where the tissue is unknown
    save(tmp_path / "out" / "t", ids, classes, {1: 1, 2: 2, 5: 3, 6: 3, 7: 3})  # calls both epithelial

    frame = evaluate(tmp_path / "out", tmp_path / "truth")

    assert tuple(row(frame, "epithelial nucleus")[["tp", "fp", "fn"]]) == (1, 1, 0)
    assert tuple(row(frame, "inflammatory nucleus")[["tp", "fp", "fn"]]) == (0, 0, 1)
    assert tuple(row(frame, "any thing")[["tp", "fp", "fn", "pq"]]) == (2, 0, 0, 1)
    assert row(frame, "epithelium")["pq"] == row(frame, "background")["pq"] == 1
    assert row(frame, "mean of things")["pq"] == pytest.approx((2 / 3 + 0) / 2)
    assert row(frame, "mean of stuff")["pq"] == 1


def nifti(path, array, affine):
    path.parent.mkdir(exist_ok=True, parents=True)
    nibabel.save(nibabel.Nifti1Image(array.astype(np.int16).T, reverse_axes(lps_to_ras(affine))), path)


def sarcoma(folder, air=True):
    affine = spatial_affine((3.0, 2.0, 2.0), origin=(5, 6, 7))
    semantic = np.zeros((4, 6, 6), int)
    semantic[:, 1:, :] = 2 if air else 0
    instances = np.zeros_like(semantic)
    semantic[1:3, 2:4, 2:4], instances[1:3, 2:4, 2:4] = 10, 1
    nifti(folder / "sts" / "S1_sem.nii.gz", semantic, affine)
    nifti(folder / "sts" / "S1_inst.nii.gz", instances, affine)
    ids = np.where(instances > 0, 9, np.where(semantic == 2, 2, 1))
    return ids, affine


SARCOMA = table((1, "outside the body", False), (2, "soft tissue", False), (5, "tumour", True))


@pytest.mark.parametrize("below", ["", "sts"])
def test_radiology(tmp_path, below):
    ids, affine = sarcoma(tmp_path / "truth")
    ids[1, 2:4, 2:4] = 2  # finds half of the tumour
    save(tmp_path / "out" / "S1", ids, SARCOMA, {1: 1, 2: 2, 9: 5}, affine)
    frame = evaluate(tmp_path / "out", tmp_path / "truth" / below)
    tumour = row(frame, "tumour")
    assert (tumour["tp"], tumour["fp"], tumour["fn"]) == (0, 1, 1)
    assert tumour["dice"] == pytest.approx(2 * 4 / (4 + 8))
    assert row(frame, "outside the body")["pq"] == 1


def test_air_is_unknown_where_the_body_was_not_labelled(tmp_path):
    ids, affine = sarcoma(tmp_path / "truth", air=False)
    save(tmp_path / "out" / "S1", ids, SARCOMA, {1: 1, 2: 2, 9: 5}, affine)
    frame = evaluate(tmp_path / "out", tmp_path / "truth")
    assert row(frame, "tumour")["pq"] == 1
    assert row(frame, "outside the body")["cases"] == 0


def test_results_against_results_by_name_and_not_by_id(tmp_path):
    ids, affine = sarcoma(tmp_path / "unused")
    save(tmp_path / "truth" / "S1", ids, SARCOMA, {1: 1, 2: 2, 9: 5}, affine)
    other = table((7, "tumour", True), (8, "soft tissue", False), (9, "outside the body", False))
    save(tmp_path / "out" / "S1", ids + 30, other, {31: 9, 32: 8, 39: 7}, affine)
    frame = evaluate(tmp_path / "out", tmp_path / "truth")
    assert frame["pq"].tolist() == [1] * len(frame)


@pytest.mark.parametrize("ending", ["png", "tif", "nii.gz"])
def test_plain_label_maps_of_things(tmp_path, ending):
    labels = np.zeros((2, 6, 6) if ending == "nii.gz" else (6, 6), int)
    labels[..., 1:3, 1:3], labels[..., 4:6, 4:6] = 1, 2
    affine = spatial_affine((1.0,) * labels.ndim)
    if ending == "nii.gz":
        nifti(tmp_path / "truth" / "a.nii.gz", labels, affine)
    else:
        png(tmp_path / "truth" / f"a.{ending}", labels, np.uint16)
    classes = table((1, "cell", True), (2, "tissue", False))
    save(tmp_path / "out" / "a", np.where(labels == 0, 9, labels), classes, {1: 1, 2: 1, 9: 2}, affine)
    for place in (tmp_path / "out", tmp_path / "out" / "a"):
        frame = evaluate(place, tmp_path / "truth")
        assert row(frame, "any thing")["pq"] == 1
        assert "background" not in set(frame["class"])  # the model has no such class


def test_errors_say_what_to_do(tmp_path):
    ids, _ = sarcoma(tmp_path / "truth")
    save(tmp_path / "out" / "S1", ids, SARCOMA, {1: 1, 2: 2, 9: 5})
    with pytest.raises(DataError, match="DATA-GRID"):
        evaluate(tmp_path / "out", tmp_path / "truth")
    save(tmp_path / "out" / "S2", ids, SARCOMA, {1: 1, 2: 2, 9: 5})
    with pytest.raises(DataError, match=r"DATA-CASES.*1 of 2.*S2"):
        evaluate(tmp_path / "out", tmp_path / "truth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="DATA-CASES"):
        evaluate(tmp_path / "empty", tmp_path / "truth")
    with pytest.raises(DataError, match="DATA-LAYOUT"):
        evaluate(tmp_path / "out", tmp_path / "empty")
    (tmp_path / "truth" / "sts" / "S1_sem.nii.gz").unlink()
    (tmp_path / "out" / "S2").rename(tmp_path / "S2")
    with pytest.raises(DataError, match="DATA-MISSING"):
        evaluate(tmp_path / "out", tmp_path / "truth")


def test_lesions_get_distances_volumes_and_detection(tmp_path):
    """A tumour of 2 x 2 x 2 at 3 x 2 x 2 mm; found one slice too thick, with a false alarm of 5 voxels."""
    ids, affine = sarcoma(tmp_path / "truth")
    ids[3, 2:4, 2:4] = 9
    ids[0, 5, 1:6] = 10
    save(tmp_path / "out" / "S1", ids, SARCOMA, {1: 1, 2: 2, 9: 5, 10: 5}, affine)
    frame = evaluate(tmp_path / "out", tmp_path / "truth", instances=tmp_path / "things.csv")
    tumour = row(frame, "tumour")
    assert (tumour["sensitivity"], tumour["fp_per_case"]) == (1, 1)
    assert tumour["volume_error_ml"] == pytest.approx((4 + 5) * 12 / 1000)
    assert tumour["volume_error_percent"] == pytest.approx(100 * 9 / 8)
    assert tumour["hd95_mm"] > 5
    assert tumour["pq_low"] == tumour["pq_high"] == tumour["pq"]  # one case: every draw is the same
    assert np.isnan(row(frame, "soft tissue")["hd95_mm"])
    hit, alarm = pd.read_csv(tmp_path / "things.csv").to_dict("records")
    assert (hit["case"], hit["class"], hit["outcome"], hit["size"], hit["true_size"]) == ("S1", "tumour", "tp", 12, 8)
    assert hit["iou"] == pytest.approx(8 / 12)
    assert hit["unit"] == "mm"
    assert hit["diameter"] == pytest.approx((6 * 8 * 12 / np.pi) ** (1 / 3), rel=1e-5)
    assert (alarm["outcome"], alarm["matched_id"], alarm["size"], alarm["iou"]) == ("fp", 0, 5, 0)


def test_the_page_opens_from_disk_and_says_what_it_shows(tmp_path):
    labels = nuclei_truth(tmp_path / "truth")
    classes = table((BACKGROUND, "background", False), (NUCLEUS, "nucleus", True))
    for case, ids in (("a", np.where(labels > 0, labels + 10, 1)), ("b", np.where(labels == 1, 11, 1))):
        save(tmp_path / "out" / case, ids, classes, {1: BACKGROUND, 11: NUCLEUS, 12: NUCLEUS})
    frame = evaluate(tmp_path / "out", tmp_path / "truth", report=tmp_path / "page")
    text = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "Evaluation of 2 cases" in text
    assert "<script" not in text
    for name in re.findall(r'src="([^"]+)"', text):
        with Image.open(tmp_path / "page" / name) as image:
            assert np.asarray(image.convert("L")).std() > 1
    assert text.index("<h3>b</h3>") < text.index("<h3>a</h3>")  # the worst one first
    assert "PQ 0.667: 1 found, 0 false, 1 missed" in text
    sizes = pd.read_csv(tmp_path / "page" / "sizes.csv")
    assert sizes["n"].sum() == row(frame, "nucleus")["n"] == 4
    assert pd.read_csv(tmp_path / "page" / "cases.csv")["case"].nunique() == 2
    assert pd.read_csv(tmp_path / "page" / "calibration.csv")["n"].sum() == 3
    first = {p.name: p.read_bytes() for p in (tmp_path / "page").iterdir()}
    evaluate(tmp_path / "out", tmp_path / "truth", report=tmp_path / "page")
    assert {p.name: p.read_bytes() for p in (tmp_path / "page").iterdir()} == first


def test_pooled_intervals_draw_whole_images(tmp_path):
    """Ten perfect cases and ten empty-handed ones: PQ 2/3 pooled, and an interval as wide as chance makes it."""
    labels = np.zeros((8, 8), int)
    labels[1:5, 1:5] = 1
    classes = table((BACKGROUND, "background", False), (NUCLEUS, "nucleus", True))
    for i in range(20):
        png(tmp_path / "truth" / "labels" / f"{i}.png", labels, np.uint16)
        ids = np.where(labels * (i < 10) > 0, 11, 1)
        save(tmp_path / "out" / str(i), ids, classes, {1: BACKGROUND, 11: NUCLEUS})
    nucleus = row(evaluate(tmp_path / "out", tmp_path / "truth"), "nucleus")
    assert nucleus["pq"] == pytest.approx(10 / 15)
    draws = np.random.default_rng(3).binomial(20, 0.5, 20000)
    low, high = np.percentile(draws / (draws + (20 - draws) / 2), [2.5, 97.5])
    assert nucleus["pq_low"] == pytest.approx(low, abs=0.05)
    assert nucleus["pq_high"] == pytest.approx(high, abs=0.05)
