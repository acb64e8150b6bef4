"""RECIST of a review beside its prior case, and why the fusion kept or dropped something: pure, no screen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs napari: pip install medpanoptic[viewer]")

from napari_medpanoptic.about import why_dropped, why_kept
from napari_medpanoptic.prior_marks import match_again
from napari_medpanoptic.recist import baseline_of, evaluate, proposed

from medpanoptic.io import read_result, write_result
from medpanoptic.result import Dropped, PanopticResult, Provenance, Segment
from medpanoptic.review import ReviewSession, open_prior, sign
from medpanoptic.samples import PHANTOM_CLASSES

A, B, C = (10, 10, 15), (10, 40, 15), (10, 25, 45)  # middles of cubes


def case(folder, cubes, **more):
    """Write a case of cubes {id: (middle, half)} of 1 mm voxels."""
    ids = np.ones((20, 60, 60), np.int32)
    for number, (middle, half) in cubes.items():
        ids[tuple(slice(m - half, m + half + 1) for m in middle)] = number
    segments = (Segment(1, 2), *(Segment(number, 1, 0.8) for number in cubes))
    result = PanopticResult(ids, segments, PHANTOM_CLASSES, np.diag([1.0, 1, 1, 1]), **more)
    write_result(result, folder)
    return folder


@pytest.fixture
def prior(tmp_path):
    """A signed prior case: A and B are targets, in liver and lung."""
    folder = case(tmp_path / "prior", {2: (A, 6), 3: (B, 6)})
    session = ReviewSession.open(folder, reader="A. Reader")
    for number, organ in ((2, "liver"), (3, "lung")):
        session.set_recist(number, organ=organ, is_target=True)
        session.accept(number)
    sign(session, formats=["csv"])
    return folder


def look(prior, folder, **choices):
    session = ReviewSession.open(folder, reader="A. Reader")
    opened = open_prior(session, prior)
    links = opened.follow_up.links
    return session, opened, evaluate(session, baseline_of(prior, opened.result), links, **choices)


def test_the_targets_of_the_signed_prior_case_are_followed(prior, tmp_path):
    session, _, found = look(prior, case(tmp_path / "now", {5: (A, 6), 7: (B, 3)}))
    before = {f.id: f.long_axis_mm for f in baseline_of(prior, read_result(prior)).findings}
    now = {i: session.measures(i).long_axis.length_mm for i in (5, 7)}
    assert found.before_mm == pytest.approx(sum(before.values()), abs=1e-3)
    assert found.now_mm == pytest.approx(sum(now.values()), abs=1e-3)
    assert [row[:2] for row in found.rows] == [("2", "liver"), ("3", "lung")]
    assert (found.response, found.overall, found.new) == ("SD", "SD", 0)  # 25 % less


def test_a_gone_target_a_new_lesion_and_the_nadir_decide(prior, tmp_path):
    folder = case(tmp_path / "now", {5: (A, 6)})
    assert look(prior, folder)[2].response == "PR"  # half the sum is gone
    assert look(prior, folder, between=[2.0])[2].response == "PD"  # it was less in between
    _, _, found = look(prior, case(tmp_path / "new", {5: (A, 6), 6: (B, 6), 7: (C, 6)}))
    assert (found.response, found.overall, found.new) == ("SD", "PD", 1)
    _, _, found = look(prior, case(tmp_path / "other", {5: (A, 6), 6: (B, 6)}), non_target="PD")
    assert (found.response, found.overall) == ("SD", "PD")


def test_without_a_prior_case_it_is_a_baseline(tmp_path):
    session = ReviewSession.open(case(tmp_path / "now", {5: (A, 6), 6: (B, 2)}), reader="A. Reader")
    assert evaluate(session).rows == ()
    assert proposed(session) == [5]  # the other is too small
    for number in (5, 6):
        session.set_recist(number, is_target=True)
    found = evaluate(session)
    assert found.response == ""
    assert found.now_mm == pytest.approx(sum(session.measures(i).long_axis.length_mm for i in (5, 6)))
    assert any("too small" in text for text in found.wrong)
    session.reject(5)
    assert [row[0] for row in evaluate(session).rows] == ["6"]


def test_pairs_follow_the_corrections_and_keep_what_was_confirmed(prior, tmp_path):
    session, opened, _ = look(prior, case(tmp_path / "now", {5: (A, 6), 6: (B, 6)}))
    pairs = opened.follow_up.confirm(2, 5).confirm(3, 6)
    session.delete(6)
    again = match_again(session, pairs)
    assert [(link.relation, link.confirmed) for link in again.links] == [("same", True), ("gone", False)]


@pytest.mark.parametrize(
    ("reason", "score", "said"),
    [
        ("score", 0.31, "score 0.31 is below 0.40; 0.34 ml"),
        ("overlap", 0.5, "about 51 % of it lies in lesions with a higher score, at most 50 % may; 0.34 ml"),
        ("area", 0.5, "what was left of it was smaller than 9 voxels of the network's grid; its mask: 0.34 ml"),
        ("empty", 0.5, "its mask had no voxel"),
    ],
)
def test_why_the_fusion_dropped_a_candidate(tmp_path, reason, score, said):
    mask = np.ones((7, 7, 7), bool)
    box = tuple((m - 3 + step, m + 4 + step) for m, step in zip(A, (0, 0, 6), strict=True))
    fusion = {"score_threshold": 0.4, "min_thing_size": 9}
    candidate = Dropped(1, score, reason, box, mask)
    model = read_result(
        case(tmp_path / "x", {2: (A, 6)}, dropped=(candidate,), provenance=Provenance(parameters={"fusion": fusion}))
    )
    if reason == "overlap":
        part = (model.ids[tuple(slice(*axis) for axis in box)] == 2).mean()
        said = said.replace("51 %", f"{100 * part:.0f} %")
    assert why_dropped(0, model) == said


def test_why_a_lesion_was_kept(tmp_path):
    model = read_result(case(tmp_path / "x", {2: (A, 6)}, provenance=Provenance(parameters={"fusion": {}})))
    segment = next(iter(model.things))
    assert why_kept(segment, model) == "score 0.80, kept from 0.50 on"
    doubtful = replace(segment, uncertainty=0.125)
    assert why_kept(doubtful, replace(model, provenance=Provenance())) == "score 0.80, mirrored images disagree by 0.12"
    assert why_kept(replace(segment, origin="added"), model) == "added by the reader"
