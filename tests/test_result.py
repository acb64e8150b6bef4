"""A result is valid once made, and what it tells comes from the map."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.errors import GeometryError, ResultError
from medpanoptic.geometry import spatial_affine
from medpanoptic.result import PanopticResult, Segment, count_ids

CODE = Code("85756007", "SCT", "Tissue")
CLASSES = ClassTable(
    (ClassInfo(4, "cell", True, (200, 40, 40), CODE, CODE), ClassInfo(9, "tissue", False, (40, 40, 200), CODE, CODE))
)
IDS = np.array([[0, 5, 5], [8, 8, 5]], np.int32)
SEGMENTS = (Segment(5, 4, 0.5), Segment(8, 9))


def make(ids=IDS, segments=SEGMENTS, **fields):
    return PanopticResult(
        **{"ids": ids, "segments": segments, "classes": CLASSES, "affine": spatial_affine((0.5, 2.0)), **fields}
    )


def test_measures_come_from_the_map():
    result = make()
    assert result.boxes == {5: ((0, 2), (1, 3)), 8: ((1, 2), (0, 2))}
    assert result.sizes == {5: 3, 8: 2}
    assert result.voxel_size == 1.0
    assert result.things == SEGMENTS[:1]
    assert result.class_map().tolist() == [[0, 4, 4], [9, 9, 4]]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"ids": IDS.astype(np.int64)}, "RESULT-DTYPE"),
        ({"ids": IDS.reshape(1, 1, 2, 3)}, "RESULT-SHAPE"),
        ({"stuff": np.zeros((3, 2), np.uint8)}, "RESULT-SHAPE"),
        ({"segments": SEGMENTS[:1]}, "RESULT-IDS"),
        ({"segments": (*SEGMENTS, Segment(6, 4))}, "RESULT-IDS"),
        ({"segments": (*SEGMENTS, Segment(5, 4))}, "RESULT-IDS"),
        ({"segments": (Segment(5, 9), Segment(8, 9))}, "RESULT-STUFF"),
        ({"segments": (Segment(5, 1), Segment(8, 9))}, "CLASS-ID"),
    ],
)
def test_an_invalid_result_cannot_be_made(fields, code):
    with pytest.raises(ResultError, match=code):
        make(**fields)


def test_a_singular_affine_is_refused():
    with pytest.raises(GeometryError, match="GEO-AFFINE"):
        make(affine=np.zeros((4, 4)))


def test_nothing_at_all_is_a_result():
    empty = make(ids=np.zeros((2, 3), np.int32), segments=())
    assert (empty.boxes, empty.sizes, empty.things) == ({}, {}, ())
    assert not empty.class_map().any()


@given(st.integers(1, 2**31 - 1))
def test_colours_are_fixed_valid_and_near_their_class(number):
    result = make()
    red, green, blue = result.segment_color(Segment(number, 4))
    assert (red, green, blue) == result.segment_color(Segment(number, 4))
    assert all(0 <= v <= 255 for v in (red, green, blue))
    assert red > max(green, blue)
    assert result.segment_color(Segment(number, 9)) == (40, 40, 200)


def test_neighbouring_things_differ_in_colour():
    result = make()
    colours = [result.segment_color(Segment(i, 4)) for i in range(1, 20)]
    assert all(a != b for a, b in itertools.pairwise(colours))


# ids that index tables as they are, ids that do not, and one beyond the size of any map here
SOME_IDS = st.sampled_from([0, 1, 2, 3, 700, 100_000, 2**31 - 1])


@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=3, max_side=5), elements=SOME_IDS), st.booleans())
def test_sizes_boxes_and_classes_are_those_of_plain_numpy(ids, turned):
    ids = ids.T if turned else ids
    present = [int(i) for i in np.unique(ids) if i]
    result = make(ids, tuple(Segment(i, 4) for i in present))
    assert result.sizes == count_ids(ids) == {i: int((ids == i).sum()) for i in present}
    spans = {i: np.argwhere(ids == i) for i in present}
    assert result.boxes == {
        i: tuple(zip(p.min(0).tolist(), (p.max(0) + 1).tolist(), strict=True)) for i, p in spans.items()
    }
    assert (result.class_map() == np.where(ids > 0, 4, 0)).all()
    assert result.class_map().dtype == np.uint8


def test_counting_goes_on_over_its_blocks():
    ids = np.arange(2**18 + 5, dtype=np.int32).reshape(1, -1) % 7
    assert count_ids(ids) == {i: int((ids == i).sum()) for i in range(1, 7)}
    assert count_ids(np.arange(2**19, dtype=np.int32)[None]) == dict.fromkeys(range(1, 2**19), 1)
