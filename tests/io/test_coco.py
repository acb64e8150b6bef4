"""COCO panoptic: valid for panopticapi, scored as by our own metrics, and read back."""

import importlib.util
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from results import CLASSES, image_of, make

from medpanoptic.errors import MedpanopticError, WriteError
from medpanoptic.io import read_result, write_result
from medpanoptic.io.coco import ids_to_rgb, rgb_to_ids, write_coco
from medpanoptic.metrics import panoptic_quality
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.volume import Volume


@given(st.lists(st.integers(0, 256**3 - 1), min_size=1, max_size=20))
def test_colours_hold_every_id(values):
    ids = np.array([values], np.int32)
    rgb = ids_to_rgb(ids)
    assert np.array_equal(rgb_to_ids(rgb), ids)
    assert [int(r) + 256 * int(g) + 65536 * int(b) for r, g, b in rgb[0]] == values


def written(result, folder):
    table, *pictures = write_result(result, folder, formats=("coco",))["coco"]
    return json.loads(table.read_text(encoding="utf-8")), pictures


def test_2d(tmp_path):
    result = make()
    data, (picture,) = written(result, tmp_path / "case")
    assert np.array_equal(rgb_to_ids(np.asarray(Image.open(picture))), result.ids)
    lesion = data["annotations"][0]["segments_info"][0]
    standard = {"id": 3, "category_id": 1, "area": 6, "bbox": [2, 1, 3, 2], "iscrowd": 0}
    assert standard.items() <= lesion.items()
    assert [(c["id"], c["isthing"], c["supercategory"]) for c in data["categories"]] == [
        (1, 1, "Morphologically Abnormal Structure"),
        (7, 0, "Tissue"),
    ]
    assert data["images"][0]["id"] == data["annotations"][0]["image_id"]
    # nobody shall take the map of ids for the picture
    assert data["images"][0]["file_name"] != data["annotations"][0]["file_name"] == picture.name


def test_a_volume_has_one_picture_per_slice(tmp_path):
    result = make(3)
    data, pictures = written(result, tmp_path / "case")
    assert np.array_equal(np.stack([rgb_to_ids(np.asarray(Image.open(p))) for p in pictures]), result.ids)
    assert [a["file_name"] for a in data["annotations"]] == [f"panoptic_{k:04d}.png" for k in range(4)]


def test_ids_that_do_not_fit_are_refused(tmp_path):
    ids = np.full((2, 2), 256**3, np.int32)
    result = make(ids=ids, segments=(Segment(256**3, 1),), stuff=None)
    with pytest.raises(WriteError, match="FORMAT-ID-RANGE"):
        write_coco(result, tmp_path)


# ---- scored by others


def random_result(seed, shape=(40, 50)):
    """Blobs of two thing classes on stuff and void; another seed moves some and misses some."""
    where, change = np.random.default_rng(0), np.random.default_rng(seed)
    ids = np.zeros(shape, np.int32)
    ids[:, : 30 + seed] = 1
    segments = [Segment(1, 7)]
    for i in range(2, 20):
        row, column = where.integers(0, [shape[0] - 6, shape[1] - 6]) + change.integers(0, 3, 2)
        if change.random() < 0.85:
            ids[row : row + 6, column : column + 6] = i
            segments.append(Segment(i, 1))
    there = set(np.unique(ids).tolist())
    return PanopticResult(ids, tuple(s for s in segments if s.id in there), CLASSES, np.eye(4))


def slow_pq(true, pred):
    """PQ per class from files, pair by pair, as COCO defines it. Source: Kirillov et al. 2019, section 4.2"""
    iou, tp, fp, fn = Counter(), Counter(), Counter(), Counter()
    for t, p in zip(true["annotations"], pred["annotations"], strict=True):
        t_ids, p_ids = t["ids"], p["ids"]
        matched = set()
        for a in t["segments_info"]:
            c = a["category_id"]
            for b in p["segments_info"]:
                mask = (p_ids == b["id"]) & (t_ids != 0)  # void of the truth leaves the union
                both, either = np.sum((t_ids == a["id"]) & mask), np.sum((t_ids == a["id"]) | mask)
                if b["category_id"] == c and both / either > 0.5:
                    iou[c] += both / either
                    matched |= {("t", a["id"]), ("p", b["id"])}
            tp[c] += ("t", a["id"]) in matched
            fn[c] += ("t", a["id"]) not in matched
        for b in p["segments_info"]:
            void = np.sum((p_ids == b["id"]) & (t_ids == 0)) / b["area"]
            fp[b["category_id"]] += ("p", b["id"]) not in matched and void <= 0.5
    return {c: iou[c] / (tp[c] + fp[c] / 2 + fn[c] / 2) for c in set(tp) | set(fp)}


@pytest.fixture
def pair(tmp_path):
    """Truth and prediction as results and as the case folders that hold them."""
    results = random_result(1), random_result(2)
    folders = tmp_path / "true", tmp_path / "pred"
    for result, folder in zip(results, folders, strict=True):
        write_result(result, folder, formats=("coco",))
    return results, folders


def our_pq(true, pred):
    (a, b) = ({s.id: s.class_id for s in r.segments} for r in (pred, true))
    return {c: q.pq for c, q in panoptic_quality(pred.ids, a, true.ids, b, (1, 7)).items()}


def test_the_files_score_as_our_own_metrics_say(pair):
    (true, pred), folders = pair
    tables = []
    for folder in folders:
        table = json.loads((folder / "coco_panoptic.json").read_text(encoding="utf-8"))
        for annotation in table["annotations"]:
            picture = folder / "coco_panoptic" / annotation["file_name"]
            annotation["ids"] = rgb_to_ids(np.asarray(Image.open(picture)))
        tables.append(table)
    found = slow_pq(*tables)
    assert 0.2 < found[1] < 0.9
    assert found == pytest.approx(our_pq(true, pred), abs=1e-6)


@pytest.mark.skipif(
    importlib.util.find_spec("panopticapi") is None,
    reason="panopticapi-lite asks for numpy < 2; pip install --no-deps panopticapi-lite runs this test",
)
def test_panopticapi_takes_the_files_and_gives_our_scores(pair, capsys):
    from panopticapi.evaluation import pq_compute

    (true, pred), folders = pair
    found = pq_compute(*(str(folder / "coco_panoptic.json") for folder in folders))
    capsys.readouterr()
    scores = {c: v["pq"] for c, v in found["per_class"].items()}
    assert scores == pytest.approx(our_pq(true, pred), abs=1e-6)


# ---- back


@pytest.mark.parametrize("ndim", [2, 3])
def test_what_coco_holds_comes_back(tmp_path, ndim):
    result = make(ndim)
    table = write_result(result, tmp_path / "case", formats=("coco",))["coco"][0]
    back = read_result(table, image=image_of(result))
    assert np.array_equal(back.ids, result.ids)
    assert back.classes == result.classes
    assert [(s.id, s.class_id, s.score) for s in back.segments] == [
        (s.id, s.class_id, s.score) for s in result.segments
    ]
    assert np.array_equal(back.affine, result.affine)
    assert back.provenance.parameters == {"calibrated": True}
    alone = read_result(table)
    assert np.array_equal(alone.ids, result.ids)
    assert alone.provenance.parameters == {"calibrated": False}


def foreign(folder, planes, rows, **more):
    """Write a COCO set of others: no codes, no colours, no shape."""
    (folder / "set").mkdir(parents=True)
    names = [f"{k}.png" for k in range(len(planes))]
    for plane, name in zip(planes, names, strict=True):
        Image.fromarray(ids_to_rgb(np.array(plane, np.int32))).save(folder / "set" / name)
    height, width = np.array(planes[0]).shape
    data = {
        "images": [{"id": n, "file_name": n, "height": height, "width": width} for n in names],
        "annotations": [{"image_id": n, "file_name": n, "segments_info": r} for n, r in zip(names, rows, strict=True)],
        "categories": [{"id": 1, "name": "cell", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}],
    }
    path = folder / "set.json"
    path.write_text(json.dumps({**data, **more}), encoding="utf-8")
    return path


def row(number, category, **more):
    return {"id": number, "category_id": category, **more}


def test_crowds_and_split_stuff_of_others(tmp_path):
    path = foreign(tmp_path, [[[5, 6, 7, 9]]], [[row(5, 1), row(6, 2), row(7, 2), row(9, 1, iscrowd=1)]])
    result = read_result(path)
    assert result.ids.tolist() == [[5, 6, 6, 0]]
    assert [(s.id, s.class_id) for s in result.segments] == [(5, 1), (6, 2)]
    assert len(result.provenance.parameters["notes"]) == 2


def test_many_images_are_slices_only_of_a_volume_that_is_given(tmp_path):
    path = foreign(tmp_path, [[[5, 6]], [[5, 8]]], [[row(5, 1), row(6, 2)], [row(5, 1), row(8, 2)]])
    with pytest.raises(MedpanopticError, match="RESULT-AMBIGUOUS"):
        read_result(path)
    result = read_result(path, image=Volume.from_array(np.zeros((1, 2, 1, 2)), np.eye(4)))
    assert result.ids.tolist() == [[[5, 6]], [[5, 6]]]
    with pytest.raises(MedpanopticError, match="RESULT-SHAPE"):
        read_result(path, image=Volume.from_array(np.zeros((1, 3, 1, 2)), np.eye(4)))


@pytest.mark.parametrize(
    ("rows", "more", "code"),
    [
        ([row(5, 1)], {}, "RESULT-IDS.*6"),
        ([row(5, 1), row(6, 3)], {}, "CLASS-ID"),
        ([row(5, 1), {"id": 6}], {}, "RESULT-FORMAT"),
        ([row(5, 1), row(6, 2)], {"categories": [{"id": 1, "name": "cell"}]}, "RESULT-FORMAT"),
        ([row(5, 1), row(6, 2)], {"images": [{"id": "0.png", "height": 1, "width": 3}]}, "RESULT-SHAPE"),
        ([row(5, 1), row(6, 2)], {"images": [{"id": "0.png", "height": 10**6, "width": 10**6}]}, "READ-TOO-LARGE"),
        (
            [],
            {"annotations": [{"image_id": "0.png", "file_name": "../../0.png", "segments_info": []}]},
            "RESULT-FORMAT.*outside",
        ),
        (
            [],
            {"annotations": [{"image_id": "0.png", "file_name": "9.png", "segments_info": []}]},
            "RESULT-MISSING.*9.png",
        ),
    ],
)
def test_damaged_sets_are_refused_by_name(tmp_path, rows, more, code):
    path = foreign(tmp_path, [[[5, 6]]], [rows], **more)
    with pytest.raises(MedpanopticError, match=code):
        read_result(path)


def test_a_damaged_png_is_refused(tmp_path):
    path = foreign(tmp_path, [[[5, 6]]], [[row(5, 1), row(6, 2)]])
    picture = tmp_path / "set" / "0.png"
    for data in (picture.read_bytes()[:40], b"no PNG"):
        picture.write_bytes(data)
        with pytest.raises(MedpanopticError, match="RESULT-DAMAGED"):
            read_result(path)
