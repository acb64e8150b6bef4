"""What became of each of the model's lesions."""

import numpy as np
import pytest
from tiny_case import Clock, tiny_result

from medpanoptic.review import ReviewSession, compare, region_of_mask, stroke
from medpanoptic.review.compare import changed_voxels


@pytest.fixture
def session():
    return ReviewSession(tiny_result(), clock=Clock())


def relations(session):
    return {(c.model_ids, c.review_ids): c.relation for c in compare(session.model, session.live)}


def test_nothing_done_is_nothing_changed(session):
    assert set(relations(session).values()) == {"unchanged"}
    assert all(c.dice == 1 and c.volume_change == 0 for c in compare(session.model, session.live))
    assert not changed_voxels(session.model, session.live).any()


def test_each_relation_is_told(session):
    session.erase(3, stroke([(3, 4, 4)], 1.5, session.affine, session.ids.shape))
    session.reject(5)
    added = session.add(stroke([(10, 1, 1)], 2, session.affine, session.ids.shape), 3).segment
    assert relations(session) == {
        ((3,), (3,)): "changed",
        ((4,), (4,)): "unchanged",
        ((5,), ()): "removed",
        ((), (added,)): "added",
    }
    first = compare(session.model, session.live)[0]
    was, now = session.model.ids == 3, session.ids == 3
    assert first.dice == pytest.approx(2 * (was & now).sum() / (was.sum() + now.sum()))
    assert first.volume_change == pytest.approx(now.sum() / was.sum() - 1)


def test_split_merged_and_a_new_class(session):
    session.split_by_line(3, (5, 6.5, 0), (5, 6.5, 17))
    new = session.things[-1]
    session.merge([4, 5])
    assert relations(session) == {((3,), (3, new)): "split", ((4, 5), (4,)): "merged"}
    assert all(c.dice == 1 for c in compare(session.model, session.live))
    session.undo()
    session.relabel(5, 3)
    change = next(c for c in compare(session.model, session.live) if c.model_ids == (5,))
    assert (change.relation, change.class_changed, change.dice) == ("changed", True, 1.0)


def test_changed_voxels_are_those_whose_thing_is_another_also_in_a_box(session):
    edit = session.paint(5, stroke([(5, 11, 4)], 2, session.affine, session.ids.shape))
    mask = changed_voxels(session.model, session.live)
    assert mask.sum() == len(edit.at)
    inside = tuple(slice(a, b) for a, b in edit.box)
    assert np.array_equal(mask[inside], changed_voxels(session.model, session.live, edit.box))
    session.reject(3)
    assert changed_voxels(session.model, session.live)[session.ids == 3].all()
    assert region_of_mask(mask).box == edit.box


def test_an_empty_case_has_no_changes(session):
    for lesion in session.things:
        session.delete(lesion)
    empty = ReviewSession(session.freeze(), clock=Clock())
    assert compare(empty.model, empty.live) == []
