"""From a signed prior case to the same tracking UID in the current one."""

import numpy as np
import pytest
from builders import axial_affine, write_series
from tiny_case import Clock, tiny_result, tiny_volume

from medpanoptic.io import read_result, read_volume, write_result
from medpanoptic.match import propose_targets, sum_of_diameters
from medpanoptic.review import ReviewSession, carry_over, check_signed, findings, latest_result, open_prior, sign
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
