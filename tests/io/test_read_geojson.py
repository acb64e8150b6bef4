"""GeoJSON back from QuPath: as it was written, edited, or drawn there."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from results import CLASSES, image_of, make

from medpanoptic.cli import main
from medpanoptic.errors import ReadError
from medpanoptic.geometry import spatial_affine
from medpanoptic.io import FORMATS, read_result, write_result
from medpanoptic.io.geojson_read import read_geojson
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.volume import Source


@pytest.fixture
def written(tmp_path):
    """A result, its image, and the features it was written as: stuff 9, then the things 3 and 300."""
    result = make()
    (path,) = FORMATS["geojson"].write(result, tmp_path)
    return result, image_of(result), json.loads(path.read_text(encoding="utf-8"))["features"]


@pytest.fixture
def back(written, tmp_path):
    """Save features as QuPath does and read them."""

    def read(features, **changes):
        path = tmp_path / "edited.geojson"
        path.write_text(json.dumps(features), encoding="utf-8")
        return read_geojson(path, replace(written[1], **changes))

    return read


def notes(result):
    return result.provenance.parameters.get("notes", [])


def box(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def drawn(rings, **properties):
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {"objectType": "annotation", **properties},
    }


@settings(max_examples=60, deadline=None)
@given(arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 3, 5, 9])))
def test_any_map_comes_back(tmp_path_factory, ids):
    classes = {3: 1, 5: 1, 9: 7}
    table = tuple(Segment(i, classes[i], i / 7) for i in (3, 5) if (ids == i).any())
    table += tuple(Segment(9, 7) for _ in range(int((ids == 9).any())))
    table = tuple(replace(s, score=min(s.score, 1.0)) for s in table)
    result = PanopticResult(ids, table, CLASSES, spatial_affine((0.5, 0.25)), Source(downsample=3.0))
    folder = tmp_path_factory.mktemp("map")
    for name in ("geojson", "geojson-detections"):
        (path,) = FORMATS[name].write(result, folder)
        image = replace(image_of(result), source=result.source)
        again = read_result(path, image=image)
        assert np.array_equal(again.ids, ids)
        assert again.segments == result.segments
        assert notes(again) == []
        assert again.source.downsample == 3.0
        assert {c.id: c for c in again.classes} == {s.class_id: CLASSES[s.class_id] for s in table}


def test_a_shape_that_was_changed_is_edited_and_the_others_are_not(written, back):
    result, _, (stuff, thing, other) = written
    other["geometry"]["coordinates"][0][0][1] += 1  # one corner of thing 300 moved
    again = back({"type": "FeatureCollection", "features": [stuff, thing, other]})
    rows = {s.id: s for s in again.segments}
    assert rows[300].origin == "edited"
    assert (rows[3], rows[9]) == (result.segments[0], result.segments[1])
    assert (again.ids == 3).sum() == (result.ids == 3).sum()


def test_another_class_a_new_class_and_none(written, back):
    _, _, (stuff, thing, other) = written
    thing["properties"]["classification"] = {"name": "Tumor", "color": [200, 0, 0]}
    other["properties"]["classification"] = {"names": ["Immune cells", "CD3"], "color": [1, 2, 3]}
    again = back([stuff, thing, other, drawn([box(0, 6, 2, 8)])])
    named = {s.id: again.classes[s.class_id].name for s in again.segments}
    assert named == {9: "Gewebe µ", 3: "Tumor", 300: "Immune cells: CD3", 301: "region"}
    assert again.classes.named("Tumor").color == (200, 0, 0)
    assert again.classes.named("Gewebe µ") == CLASSES[7]
    assert {s.id: s.origin for s in again.segments} == {9: "predicted", 3: "edited", 300: "edited", 301: "added"}
    assert again.classes.named("region").is_thing
    assert np.array_equal(np.argwhere(again.ids == 301), [[6, 0], [6, 1], [7, 0], [7, 1]])


def test_a_copy_is_another_thing(written, back):
    _, _, (stuff, thing, other) = written
    twin = copy.deepcopy(thing)
    twin["geometry"]["coordinates"] = [box(0, 6, 2, 8)]
    again = back([stuff, thing, other, twin])
    assert {s.id: (s.origin, s.tracking_uid) for s in again.things} == {
        3: ("edited", "2.25.1"),
        300: ("predicted", ""),
        301: ("added", ""),
    }


def test_what_was_deleted_leaves_void(written, back):
    result, _, (stuff, thing, _) = written
    again = back([stuff, thing])
    assert [s.id for s in again.segments] == [3, 9]
    assert (again.ids[result.ids == 300] == 0).all()


def test_overlaps_go_to_the_smaller_thing_and_are_counted(written, back):
    _, _, (stuff, thing, _) = written
    thing["geometry"]["coordinates"] = [box(0, 0, 10, 8)]
    small = drawn([box(1, 1, 4, 4), box(2, 2, 3, 3)], classification={"name": "lesion"})
    again = back([small, thing, stuff])
    assert (again.ids == 10).sum() == 8  # its hole stays with the large one
    assert again.ids[2, 2] == 3
    assert notes(again) == [
        "1 object(s) that others cover are left out",
        "8 pixel(s) in several things: the smaller thing has them",
    ]


def test_what_encloses_nothing_or_lies_outside_is_left_out(written, back):
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}}
    far, rim = drawn([box(50, 50, 60, 60)]), drawn([box(-5, -5, 2, 1)], objectType="detection")
    again = back([point, far, rim])
    assert [(s.id, s.origin) for s in again.segments] == [(1, "predicted")]
    assert (again.ids == 1).sum() == 2
    assert notes(again) == [
        "1 object(s) that enclose nothing (points, lines) are left out",
        "1 object(s) without a pixel in the image are left out",
    ]


def test_two_pieces_of_one_stuff_are_one_segment(written, back):
    _, _, (stuff, *_) = written
    piece = copy.deepcopy(stuff)
    piece["geometry"] = {"type": "Polygon", "coordinates": [box(0, 6, 2, 8)]}
    again = back([stuff, piece])
    assert [s.id for s in again.segments] == [9]
    assert again.ids[7, 0] == again.ids[0, 0] == 9


def test_an_empty_collection_is_an_empty_result(back):
    assert back({"type": "FeatureCollection", "features": []}).segments == ()


def garble(path, value):
    def work(feature):
        *way, last = path
        for key in way:
            feature = feature[key]
        feature[last] = value

    return work


GARBLED = {
    "no numbers": garble(["geometry", "coordinates"], [[["a", "b"]]]),
    "flat": garble(["geometry", "coordinates"], [1, 2]),
    "not finite": garble(["geometry", "coordinates"], [[[0, 0], [1e999, 0], [1, 1]]]),
    "no ring": garble(["geometry", "coordinates"], []),
    "an id that is none": garble(["properties", "metadata", "id"], "x"),
    "an id of another type": garble(["properties", "metadata", "id"], str(2**40)),
    "a score": garble(["properties", "measurements", "Score"], 7),
    "an origin": garble(["properties", "metadata", "origin"], "elsewhere"),
    "a class": garble(["properties", "metadata", "class"], "{}"),
    "a class that is no JSON": garble(["properties", "metadata", "class"], "{"),
    "a colour": garble(["properties", "classification"], {"name": "x", "color": 7}),
    "properties": garble(["properties"], None),
    "geometry": garble(["geometry"], 3),
}


@pytest.mark.parametrize("kind", GARBLED)
def test_what_is_garbled_is_refused_with_its_number(written, back, kind):
    _, _, features = written
    GARBLED[kind](features[1])
    with pytest.raises(ReadError, match="object 2 is not as QuPath writes it") as caught:
        back(features)
    assert caught.value.code == "RESULT-FORMAT"


@pytest.mark.parametrize("text", ["", "[", "3", '"x"', '{"features": 3}'])
def test_what_is_no_geojson_is_refused(written, tmp_path, text):
    path = tmp_path / "x.geojson"
    path.write_text(text)
    with pytest.raises(ReadError, match="RESULT-FORMAT"):
        read_result(path, format="geojson", image=written[1])


def test_it_needs_its_image(written, tmp_path):
    (path,) = FORMATS["geojson"].write(written[0], tmp_path)
    with pytest.raises(ReadError, match="GEOJSON-IMAGE"):
        read_result(path)
    with pytest.raises(ReadError, match="GEOJSON-IMAGE"):
        read_result(path, image=image_of(make(3)))


def test_the_command_line_takes_it_back(tmp_path, capsys):
    from PIL import Image

    Image.fromarray(np.zeros((8, 10), np.uint8)).save(tmp_path / "tile.png")
    result = make()
    write_result(result, tmp_path / "case", formats=("geojson",))
    edited = tmp_path / "QuPath export.geojson"
    edited.write_bytes((tmp_path / "case" / "annotations.geojson").read_bytes())
    words = ["convert", edited, "-o", tmp_path / "new", "--format", "csv", "--image", tmp_path / "tile.png"]
    with pytest.raises(SystemExit) as end:
        main([str(w) for w in words])
    assert end.value.code == 0, capsys.readouterr().err
    assert np.array_equal(read_result(tmp_path / "new").ids, result.ids)
