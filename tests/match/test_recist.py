"""RECIST 1.1 against tables worked out by hand."""

import math

import pytest

from medpanoptic.errors import ReviewError
from medpanoptic.match import (
    Finding,
    check_targets,
    doubling_time_days,
    is_measurable,
    overall_response,
    propose_targets,
    sum_of_diameters,
    target_response,
)


def lesion(number, mm, organ="liver", evaluable=True):
    return Finding(number, organ, False, mm, mm / 2, evaluable)


def node(number, short_mm):
    return Finding(number, "", True, short_mm * 2, short_mm)


def lesions(*sizes):
    return [lesion(i, mm) for i, mm in enumerate(sizes)]


@pytest.mark.parametrize(
    ("finding", "slice_mm", "expected"),
    [
        (lesion(1, 9.9), 1, False),
        (lesion(1, 10.0), 5, True),
        (lesion(1, 13), 7, False),  # twice the slice distance
        (lesion(1, 14), 7, True),
        (node(1, 14.9), 1, False),
        (node(1, 15.0), 1, True),
    ],
)
def test_what_is_measurable(finding, slice_mm, expected):
    assert is_measurable(finding, slice_mm) is expected


def test_targets_are_the_largest_two_of_an_organ_and_five_in_all():
    found = [
        *(lesion(i, 50 - i) for i in range(3)),  # liver: only two
        lesion(10, 40, "Lung"),
        lesion(11, 12, "lung "),
        lesion(12, 11, "LUNG"),
        node(20, 16),
        node(21, 30),
        node(22, 17),
        lesion(30, 90, "bone", evaluable=False),
        lesion(31, 8, "brain"),
    ]
    assert propose_targets(found) == [0, 1, 10, 21, 22]
    assert check_targets([f for f in found if f.id in (0, 1, 10, 21, 22)]) == []
    assert check_targets(found[:3]) == ["3 targets in one organ (liver); at most 2 are allowed"]
    assert check_targets([lesion(31, 8, "brain")]) == ["lesion 31 is too small to be a target"]
    assert "6 targets; at most 5 are allowed" in check_targets([lesion(i, 20, f"organ {i}") for i in range(6)])


def test_the_sum_takes_short_axes_of_nodes():
    assert sum_of_diameters([lesion(1, 30), node(2, 18), lesion(3, 0)]) == 48
    assert math.isnan(sum_of_diameters([lesion(1, 30, evaluable=False)]))


@pytest.mark.parametrize(
    ("baseline", "earlier", "now", "expected"),
    [
        ((50, 50), (), (50, 50), "SD"),
        ((50, 50), (), (35, 35), "PR"),  # exactly 30 % less
        ((50, 50), (), (35, 35.2), "SD"),
        ((50, 50), (), (0, 0), "CR"),
        ((50, 50), (), (0, 5), "PR"),  # seen but too small to measure
        ((50, 50), (), (60, 60), "PD"),  # exactly 20 % more
        ((50, 50), (), (60, 59.8), "SD"),
        ((10, 10), (), (12, 12), "SD"),  # 20 %, but only 4 mm
        ((10, 10), (), (12, 13), "PD"),  # 25 % and 5 mm
        ((50, 50), (40,), (24, 24), "PD"),  # 20 % and 8 mm over the nadir, though 52 % below the baseline
        ((50, 50), (40,), (23, 22), "PR"),  # 5 mm over the nadir, but 12.5 %
        ((50, 50), (40, 90), (24, 24), "PD"),  # the nadir is the smallest, not the last
        ((50, 50), (math.nan, 40), (24, 24), "PD"),
        ((50, 50), (0,), (0, 6), "PD"),  # back after a complete response
        ((0.1, 0.2), (), (0.1, 0.2), "SD"),
    ],
)
def test_response_of_targets(baseline, earlier, now, expected):
    assert target_response(lesions(*baseline), earlier, lesions(*now)) == expected


def test_a_node_is_gone_below_ten_millimetres():
    before = [lesion(1, 20), node(2, 20)]
    assert target_response(before, [], [lesion(1, 0), node(2, 9.9)]) == "CR"
    assert target_response(before, [], [lesion(1, 0), node(2, 10.0)]) == "PR"


def test_a_target_that_cannot_be_evaluated():
    before = lesions(50, 50)
    assert target_response(before, [], [lesion(0, 50), lesion(1, 0, evaluable=False)]) == "NE"
    assert target_response(before, [], [lesion(0, 130), lesion(1, 0, evaluable=False)]) == "PD"


def test_both_times_need_the_same_targets():
    with pytest.raises(ReviewError, match="RECIST-TARGETS"):
        target_response(lesions(50, 50), [], lesions(50))
    with pytest.raises(ReviewError, match="RECIST-TARGETS"):
        target_response([], [], [])


@pytest.mark.parametrize(
    ("target", "non_target", "new", "expected"),
    [  # table 1 of the paper, and "none" for patients with targets only
        ("CR", "CR", False, "CR"),
        ("CR", "none", False, "CR"),
        ("CR", "non-CR/non-PD", False, "PR"),
        ("CR", "NE", False, "PR"),
        ("PR", "non-CR/non-PD", False, "PR"),
        ("PR", "NE", False, "PR"),
        ("SD", "none", False, "SD"),
        ("SD", "NE", False, "SD"),
        ("NE", "non-CR/non-PD", False, "NE"),
        ("PD", "CR", False, "PD"),
        ("SD", "PD", False, "PD"),
        ("CR", "CR", True, "PD"),
        ("NE", "NE", True, "PD"),
    ],
)
def test_overall_response(target, non_target, new, expected):
    assert overall_response(target, non_target, new) == expected


def test_doubling_time():
    assert doubling_time_days(100, 200, 60) == pytest.approx(60)
    assert doubling_time_days(100, 800, 90) == pytest.approx(30)
    assert doubling_time_days(200, 100, 60) == pytest.approx(-60)
    assert doubling_time_days(100, 100, 60) == math.inf
    with pytest.raises(ReviewError, match="MATCH-GROWTH"):
        doubling_time_days(100, 0, 60)
