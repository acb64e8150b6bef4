"""Which lesion is which: balls in known places at two times."""

import math

import numpy as np
import pytest

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.errors import ReviewError
from medpanoptic.geometry import spatial_affine
from medpanoptic.match import FollowUp, Registration, lesions_of, match_lesions
from medpanoptic.result import PanopticResult, Segment

CODE = Code("108369006", "SCT", "Neoplasm")
CLASSES = ClassTable(tuple(ClassInfo(i, n, True, (255, 0, 0), CODE, CODE) for i, n in ((1, "tumour"), (2, "node"))))
SHAPE = (30, 40, 40)


def balls(*specs):
    """A result of balls (centre in mm from the corner, radius mm[, class]); spacing 2 mm; ids 1, 2 ..."""
    grid = np.indices(SHAPE) * 2.0
    ids = np.zeros(SHAPE, np.int32)
    for number, (centre, radius, *_) in enumerate(specs, 1):
        ids[((grid - np.array(centre)[:, None, None, None]) ** 2).sum(0) <= radius**2] = number
    segments = [Segment(i, (s[2:] or (1,))[0], tracking_uid=f"2.25.{i}") for i, s in enumerate(specs, 1)]
    return PanopticResult(ids, tuple(segments), CLASSES, spatial_affine((2, 2, 2)))


def follow(prior, current, **options):
    return match_lesions(lesions_of(balls(*prior)), lesions_of(balls(*current)), **options)


def summary(found):
    return [(k.relation, k.prior_ids, k.current_ids) for k in found.links]


def test_same_new_and_gone_with_growth_and_doubling_time():
    found = follow(
        [((20, 20, 20), 6), ((40, 60, 60), 8)], [((22, 20, 20), 6 * 2 ** (1 / 3)), ((20, 60, 20), 5)], days=50
    )
    assert summary(found) == [("same", (1,), (1,)), ("gone", (2,), ()), ("new", (), (2,))]
    same, gone, new = found.links
    assert same.distance_mm == pytest.approx(2)
    assert same.volume_change == pytest.approx(1.0, abs=0.1)
    assert same.trend == "grown"
    assert same.doubling_days == pytest.approx(50, rel=0.1)
    assert gone.volume_change == -1
    assert math.isnan(new.volume_change)


def test_the_best_pairs_overall_count_not_the_first_nearest():
    found = follow([((20, 20, 20), 5), ((20, 20, 36), 5)], [((20, 20, 34), 5), ((20, 20, 50), 5)])
    assert summary(found) == [("same", (1,), (1,)), ("same", (2,), (2,))]


def test_gates_of_distance_ratio_and_class():
    assert [r for r, *_ in summary(follow([((10, 10, 10), 4)], [((50, 70, 70), 4)]))] == ["gone", "new"]
    assert [r for r, *_ in summary(follow([((20, 20, 20), 4)], [((20, 20, 34), 12)]))] == ["gone", "new"]
    assert [r for r, *_ in summary(follow([((20, 20, 20), 4, 1)], [((20, 20, 20), 4, 2)]))] == ["gone", "new"]


def test_split_and_merged_lesions():
    whole, parts = [((30, 40, 40), 12)], [((30, 40, 33), 6.6), ((30, 40, 47), 6.3)]
    assert summary(follow(whole, parts)) == [("split", (1,), (1, 2))]
    assert summary(follow(parts, whole, max_ratio=20)) == [("merged", (1, 2), (1,))]
    assert follow(parts, whole, max_ratio=20).links[0].volume_change > 1


def test_a_registration_moves_the_prior_lesions():
    matrix = np.eye(4)
    matrix[:3, 3] = 0, 0, 30  # LPS mm: 15 slices up
    found = follow([((10, 20, 20), 6)], [((40, 20, 20), 6)], registration=Registration(matrix, "rigid"))
    assert summary(found) == [("same", (1,), (1,))]
    assert found.links[0].distance_mm == pytest.approx(0, abs=1e-9)


def test_a_reader_confirms_parts_and_joins_and_uids_carry_on():
    found = follow([((20, 20, 20), 6), ((40, 60, 60), 8)], [((22, 20, 20), 6), ((20, 60, 20), 5)])
    assert found.tracking_uids() == {}
    found = found.confirm(1, 1)
    assert found.tracking_uids() == {1: "2.25.1"}
    assert found.links[0].confirmed
    found = found.confirm(2, 2)
    assert summary(found) == [("same", (1,), (1,)), ("same", (2,), (2,))]
    found = found.confirm(1, 2)
    assert summary(found) == [("regrouped", (2, 1), (1, 2))]
    found = found.part(1, 2).part(1, 1)
    assert summary(found) == [("gone", (1,), ()), ("same", (2,), (2,)), ("new", (), (1,))]
    with pytest.raises(ReviewError, match="MATCH-ID"):
        found.confirm(9, 1)


def test_nothing_on_one_side():
    empty = balls()
    assert match_lesions([], lesions_of(empty)).links == []
    assert [k.relation for k in match_lesions([], lesions_of(balls(((20, 20, 20), 6)))).links] == ["new"]


def test_lesions_without_a_tracking_uid_get_that_of_the_dicom_outputs():
    result = balls(((20, 20, 20), 6))
    bare = PanopticResult(result.ids, (Segment(1, 1),), CLASSES, result.affine)
    from medpanoptic.identity import identify

    assert lesions_of(bare)[0].tracking_uid == identify(bare, bare.source).tracking_uid(bare.segments[0])


def test_lesions_chosen_on_both_sides_mean_their_pairs_or_all():
    follow_up = FollowUp((), (), frozenset({(1, 5), (1, 6), (2, 6)}))
    assert follow_up.among((1, 2), (5, 6)) == [(1, 5), (1, 6), (2, 6)]
    assert follow_up.among((2,), (5,)) == [(2, 5)]
    assert follow_up.among((2,), (7, 8)) == [(2, 7), (2, 8)]
    assert follow_up.among((), (5,)) == []
