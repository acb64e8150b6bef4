"""From a signed prior case to the same tracking UID in the current one."""

import numpy as np
import pytest
from builders import axial_affine, write_series
from tiny_case import Clock, tiny_result, tiny_volume

from medpanoptic.io import read_result, read_volume, write_result
from medpanoptic.match import Registration, match_lesions, propose_targets, sum_of_diameters
from medpanoptic.match.pairs import lesions_of
from medpanoptic.review import (
    Prior,
    ReviewSession,
    carry_over,
    check_signed,
    findings,
    latest_result,
    open_prior,
    prior_regions,
    sign,
)
from medpanoptic.review.follow_up import days_between


@pytest.fixture
def cases(tmp_path):
    """A prior case, signed, in which lesion 5 was rejected, and a current one with the same lesions."""
    for name in ("prior", "current"):
        write_result(tiny_result(), tmp_path / name, formats=["csv"])
    prior = ReviewSession.open(tmp_path / "prior", reader="A. Reader", clock=Clock())
    for lesion in prior.things:
        prior.accept(lesion)
    prior.reject(5)
    sign(prior)
    return tmp_path / "prior", tmp_path / "current"


def test_the_tracking_uid_carries_on_from_a_signed_prior_into_the_signed_current_result(cases):
    prior_case, current_case = cases
    session = ReviewSession.open(current_case, tiny_volume(tiny_result()), reader="B. Reader", clock=Clock())
    prior = open_prior(session, prior_case)
    assert [(k.relation, k.prior_ids, k.current_ids) for k in prior.follow_up.links] == [
        ("same", (3,), (3,)),
        ("same", (4,), (4,)),
        ("new", (), (5,)),
    ]
    wanted = "2.25.4711"
    assert carry_over(session, prior.follow_up) == []
    follow = prior.follow_up.confirm(3, 3).confirm(4, 4)
    uid_of = {s.id: s.tracking_uid for s in latest_result(prior_case).things}
    session.match(3, wanted)
    assert len(carry_over(session, follow)) == 1  # 4 has its UID already: both cases are of one model and image
    session.set_verdicts(session.things, "accepted")
    folder = sign(session)
    signed = {s.id: s.tracking_uid for s in read_result(folder).things}
    assert (signed[3], signed[4]) == (uid_of[3], uid_of[4])
    assert check_signed(folder)["reader"] == "B. Reader"


def test_findings_are_what_recist_needs(cases):
    session = ReviewSession.open(cases[1], reader="A. Reader", clock=Clock())
    session.set_recist(3, organ="liver", is_target=True)
    session.set_recist(5, is_node=True)
    session.set_axes(3, ((0, 0, 0), (30, 0, 0)), ((0, 0, 0), (0, 20, 0)))
    session.reject(4)
    found = {f.id: f for f in findings(session)}
    assert set(found) == {3, 5}
    assert (found[3].organ, found[3].diameter_mm) == ("liver", 30)
    assert found[5].diameter_mm == session.measures(5).short_axis.length_mm
    assert propose_targets(list(found.values())) == [3]
    assert sum_of_diameters([found[3], found[5]]) == pytest.approx(30 + found[5].short_axis_mm)


def test_days_come_from_the_headers_and_from_nowhere_else(tmp_path):
    def dated(day):
        return lambda index, dataset: setattr(dataset, "StudyDate", day)

    volumes = [
        read_volume(write_series(tmp_path / day, np.zeros((3, 4, 4), np.int16), axial_affine(), edit=dated(day)))
        for day in ("20250101", "20250302")
    ]
    assert days_between(volumes[0].source, volumes[1].source) == 60
    assert days_between(volumes[0].source, tiny_volume(tiny_result()).source) is None


def prior_of(result, matrix):
    registration = Registration(matrix, "rigid")
    return Prior(result, registration, match_lesions(lesions_of(result), [], registration))


def test_prior_lesions_are_shown_as_they_were_drawn(cases):
    session = ReviewSession.open(cases[1], tiny_volume(tiny_result()), reader="A. Reader", clock=Clock())
    found = prior_regions(open_prior(session, cases[0]), session.affine, session.ids.shape)
    assert set(found) == {3, 4}  # 5 was rejected then
    for lesion, region in found.items():
        shown = np.zeros(session.ids.shape, bool)
        shown[tuple(slice(*axis) for axis in region.box)] = region.mask
        assert np.array_equal(shown, latest_result(cases[0]).ids == lesion)


def test_prior_lesions_are_moved_as_their_study_was_registered():
    result = tiny_result()
    angle = np.deg2rad(30)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = (4, -2, 5)
    affine, shape = np.diag([1.0, 0.5, 0.5, 1]), (60, 120, 120)
    affine[:3, :3] = affine[[2, 1, 0], :3]  # slices along z
    affine[:3, 3] = (-30.13, -30.17, -20.21)  # no middle on the rim of a voxel
    for lesion, region in prior_regions(prior_of(result, matrix), affine, shape).items():
        at = np.argwhere(region.mask) + [start for start, _ in region.box]
        there = np.c_[at @ affine[:3, :3].T + affine[:3, 3], np.ones(len(at))] @ np.linalg.inv(matrix).T
        index = np.rint(there @ np.linalg.inv(result.affine).T)[:, :3].astype(int)
        assert (result.ids[tuple(index.T)] == lesion).all()
        volume = len(at) * abs(np.linalg.det(affine[:3, :3]))
        assert volume == pytest.approx(result.sizes[lesion] * result.voxel_size, rel=0.05)


def test_prior_lesions_of_a_coarser_grid_or_outside_it():
    result = tiny_result()
    coarse = np.diag([30.0, 30, 30, 1])
    coarse[:3, 3] = result.affine[:3, 3]
    found = prior_regions(prior_of(result, np.eye(4)), coarse, (4, 4, 4))
    assert set(found) == {3, 4, 5}
    assert all(region.mask.any() for region in found.values())
    away = np.eye(4)
    away[:3, 3] = 1000
    assert prior_regions(prior_of(result, away), result.affine, result.ids.shape) == {}
