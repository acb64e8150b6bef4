"""GeoJSON for QuPath: shapes that fill back to the map, members that QuPath reads, bounded memory."""

import json
import tracemalloc
import uuid

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from results import CLASSES, make
from skimage.draw import polygon2mask

from medpanoptic.geometry import spatial_affine
from medpanoptic.io import losses, write_result
from medpanoptic.io.geojson import uuid_of
from medpanoptic.io.outline import outlines, signed_area
from medpanoptic.result import PanopticResult, Provenance, Segment
from medpanoptic.volume import Source


def fill(rings, shape):
    """Rasterise rings of (row, column) corners by scikit-image: pixels whose centre is inside an odd number of them."""
    mask = np.zeros(shape, bool)
    for ring in rings:
        mask ^= polygon2mask(shape, np.asarray(ring, float) - 0.5)
    return mask


@settings(max_examples=150, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_outlines_fill_back_and_are_simple(mask):
    parts = outlines(mask)
    found = np.zeros(mask.shape, int)
    for part in parts:
        rings = (part.outer, *part.holes)
        found += fill(rings, mask.shape)
        # simple: no corner twice in a ring
        assert all(len({tuple(p) for p in ring.tolist()}) == len(ring) for ring in rings)
        assert signed_area(part.outer) > 0
        assert all(signed_area(hole) < 0 for hole in part.holes)
    assert np.array_equal(found, mask.astype(int))  # and no two parts overlap


def features(result, folder, name="geojson"):
    (path,) = write_result(result, folder, formats=(name,))[name]
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["type"] == "FeatureCollection"
    return data["features"]


def rings_of(feature):
    geometry = feature["geometry"]
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    return [np.array(ring)[:, ::-1] for polygon in polygons for ring in polygon]


def test_filling_the_features_gives_the_map_back(tmp_path):
    result = make()
    found = np.zeros(result.ids.shape, int)
    for feature in features(result, tmp_path / "case"):
        rings = rings_of(feature)
        assert all(np.array_equal(r[0], r[-1]) for r in rings)
        found += int(feature["properties"]["metadata"]["id"]) * fill([r[:-1] for r in rings], found.shape)
    assert np.array_equal(found, result.ids)


def test_members_are_those_of_qupath(tmp_path):
    stuff, thing, other = features(make(), tmp_path / "case")
    # (0, 0) is the corner of the first pixel: columns 2 to 4 and rows 1 to 2 span x 2 to 5, y 1 to 3
    assert thing == {
        "type": "Feature",
        "id": str(uuid.UUID(int=1)),
        "geometry": {"type": "Polygon", "coordinates": [[[2, 1], [5, 1], [5, 3], [2, 3], [2, 1]]]},
        "properties": {
            "objectType": "annotation",
            "name": "lesion 3",
            "classification": {"name": "lesion", "color": [220, 60, 50]},
            "measurements": {"Area µm^2": 0.75e6, "Score": 0.1 + 0.2},
            "metadata": {
                "id": "3",
                "origin": "edited",
                "verdict": "accepted",
                "tracking_uid": "2.25.1",
                "class": json.dumps(CLASSES[1].to_json(), separators=(",", ":")),
                "pixels": thing["properties"]["metadata"]["pixels"],
            },
        },
    }
    assert (stuff["properties"]["objectType"], stuff["properties"]["isLocked"]) == ("annotation", True)
    assert len(stuff["geometry"]["coordinates"]) == 2  # the lesion inside is a hole; the other one lies at the rim
    assert len({uuid.UUID(f["id"]) for f in (stuff, thing, other)}) == 3


def test_detections_are_for_many_cells(tmp_path):
    kinds = [f["properties"]["objectType"] for f in features(make(), tmp_path / "case", "geojson-detections")]
    assert kinds == ["annotation", "detection", "detection"]


def test_parts_that_meet_at_a_corner_and_holes(tmp_path):
    ids = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]], np.int32)
    result = PanopticResult(ids, (Segment(1, 1),), CLASSES, spatial_affine((1, 1)))
    (feature,) = features(result, tmp_path / "case")
    assert feature["geometry"]["type"] == "MultiPolygon"
    assert [len(polygon) for polygon in feature["geometry"]["coordinates"]] == [2, 1]


def test_a_coarse_level_is_written_in_pixels_of_the_finest(tmp_path):
    result = make(source=Source(downsample=4.0))
    _, thing, _ = features(result, tmp_path / "case")
    assert thing["geometry"]["coordinates"] == [[[8, 4], [20, 4], [20, 12], [8, 12], [8, 4]]]
    # and still after the result was read back without its slide
    from medpanoptic.io import read_result

    again = read_result(tmp_path / "case")
    assert features(again, tmp_path / "again")[1]["geometry"] == thing["geometry"]


def test_without_a_pixel_size_areas_are_in_pixels(tmp_path):
    _, thing, _ = features(make(provenance=Provenance(parameters={"calibrated": False})), tmp_path / "case")
    assert thing["properties"]["measurements"] == {"Area px^2": 6, "Score": 0.1 + 0.2}


def test_an_empty_result_is_an_empty_collection(tmp_path):
    result = make(ids=np.zeros((8, 10), np.int32), segments=(), stuff=None, dropped=())
    assert features(result, tmp_path / "case") == []


def test_uuids_come_from_uids():
    assert uuid_of("2.25.255") == uuid.UUID(int=255)
    assert uuid_of("1.2.3") == uuid_of("1.2.3") != uuid_of("1.2.4")


def test_what_it_cannot_hold_is_said():
    assert "dropped candidates" in losses(make(), "geojson")
    assert "scores" not in losses(make(), "geojson")


def test_many_cells_are_streamed(tmp_path):
    """1,024 cells in bounded memory, far below what their features take as objects."""
    from medpanoptic.io.geojson import write_detections

    tile = np.zeros((16, 16), np.int32)
    tile[3:13, 4:12] = 1
    grid = np.arange(1, 32 * 32 + 1).reshape(32, 32)
    ids = np.kron(grid, tile).astype(np.int32)
    result = PanopticResult(ids, tuple(Segment(int(i), 1) for i in grid.flat), CLASSES, spatial_affine((5e-4, 5e-4)))
    _ = result.boxes, result.sizes
    tracemalloc.start()
    (path,) = write_detections(result, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.read_bytes().count(b'"Feature"') == 1024
    assert peak < 2 * 2**20
