"""Any sequence of actions: undo gives the start back, redo the end; neighbours keep their voxels; results are valid."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_case import SHAPE, Clock, tiny_result, tiny_volume

from medpanoptic.errors import ReviewError
from medpanoptic.measure import measure_segment
from medpanoptic.review import Region, ReviewSession, polygon, region_of_indices, region_of_mask, stroke

TUMOUR, NODE = 3, 4
VOXEL = st.tuples(*(st.integers(0, n - 1) for n in SHAPE))
PICK = st.integers(0, 30)
ACTIONS = st.one_of(
    st.tuples(st.just("paint"), PICK, VOXEL, st.floats(0, 5), st.sampled_from([None, 0, 2])),
    st.tuples(st.just("erase"), PICK, VOXEL, st.floats(0, 5)),
    st.tuples(st.just("polygon"), PICK, VOXEL, st.integers(0, 2)),
    st.tuples(st.just("merge"), PICK, PICK),
    st.tuples(st.just("seeds"), PICK, VOXEL, VOXEL),
    st.tuples(st.just("line"), PICK, VOXEL, VOXEL),
    st.tuples(st.just("pieces"), PICK),
    st.tuples(st.just("interpolate"), PICK, st.integers(0, 2)),
    st.tuples(st.just("relabel"), PICK, st.sampled_from([TUMOUR, NODE])),
    st.tuples(st.just("delete"), PICK),
    st.tuples(st.just("add"), VOXEL, st.floats(0, 4)),
    st.tuples(st.just("click"), VOXEL),
    st.tuples(st.just("take in")),
    st.tuples(st.just("verdict"), PICK, st.sampled_from(["accepted", "rejected", "unsure", "unread"])),
    st.tuples(st.just("note"), PICK, st.text(max_size=5)),
    st.tuples(st.just("undo")),
    st.tuples(st.just("redo")),
)


def act(session, action):
    """Do one action; return the ids that it may change. One that is refused changes nothing."""
    name, *args = action
    affine, shape = session.live.base.affine, session.ids.shape
    things = session.things

    def pick(number):
        return things[number % len(things)] if things else 999

    own = {pick(args[0])} if args and isinstance(args[0], int) else set()
    if name == "paint":
        session.paint(pick(args[0]), stroke([args[1]], args[2], affine, shape, args[3]))
    elif name == "erase":
        session.erase(pick(args[0]), stroke([args[1]], args[2], affine, shape))
    elif name == "polygon":
        corners = np.delete(np.array([args[1]] * 3), args[2], 1) + np.array([[0, 0], [0, 5], [5, 2]])
        session.paint(pick(args[0]), polygon(corners, shape, args[2], args[1][args[2]]))
    elif name == "merge":
        own |= {pick(args[1])}
        session.merge([pick(args[0]), pick(args[1])])
    elif name == "seeds":
        session.split_by_seeds(pick(args[0]), [args[1], args[2]])
    elif name == "line":
        session.split_by_line(pick(args[0]), args[1], args[2])
    elif name == "pieces":
        session.split_pieces(pick(args[0]))
    elif name == "interpolate":
        session.interpolate(pick(args[0]), args[1])
    elif name == "relabel":
        session.relabel(pick(args[0]), args[1])
    elif name == "delete":
        session.delete(pick(args[0]))
    elif name == "add":
        session.add(stroke([args[0]], args[1], affine, shape), TUMOUR)
    elif name == "click":
        session.add_at(args[0], NODE)
    elif name == "take in":
        session.take_in(0)
    elif name == "verdict":
        session.set_verdict(pick(args[0]), args[1])
    elif name == "note":
        session.set_note(pick(args[0]), args[1])
    else:
        getattr(session, name)()
        own = None
    return own


def state(session):
    return session.ids.tobytes(), dict(session.live.rows)


def check_sums(session):
    """Sizes, boxes and measures that were kept in step equal those worked out anew."""
    for i in session.things:
        mask = session.ids == i
        assert session.live.size(i) == mask.sum() > 0
        assert session.live.box(i) == region_of_mask(mask).box
        region = region_of_mask(mask)
        fresh = measure_segment(i, region.mask, region.box, session.live.base.affine, session.volume)
        assert session.measures(i) == fresh


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ACTIONS, max_size=12))
def test_any_sequence_can_be_undone_and_redone_and_spares_neighbours(actions):
    result = tiny_result()
    session = ReviewSession(result, tiny_volume(result), reader="A. Reader", clock=Clock())
    start = state(session)
    for action in actions:
        before, rows = session.ids.copy(), dict(session.live.rows)
        try:
            own = act(session, action)
        except ReviewError:
            assert state(session) == (before.tobytes(), rows)
            continue
        if own is not None:
            held = [i for i, r in rows.items() if i > 2 and i not in own and r.segment.verdict != "rejected"]
            kept = np.isin(before, held)
            assert (session.ids[kept] == before[kept]).all()
            # no hole: a voxel is void only where there was no tissue
            assert (session.ids > 0).all()
            for i in held:
                if i in session.live.rows:
                    assert session.live.rows[i] == rows[i]
    check_sums(session)
    frozen = session.freeze()
    assert not [s for s in frozen.segments if s.verdict == "rejected"]
    end, count = state(session), len(session.edits)
    while session.undo():
        pass
    assert state(session) == start
    check_sums(session)
    for _ in range(count):
        assert session.redo()
    assert state(session) == end
    check_sums(session)


@pytest.fixture
def session():
    result = tiny_result()
    return ReviewSession(result, tiny_volume(result), reader="A. Reader", clock=Clock())


def test_painting_over_a_neighbour_stops_at_it_and_replaces_tissue(session):
    four = (session.ids == 4).sum()
    edit = session.paint(3, stroke([(5, 7, 6), (5, 7, 16)], 2.0, session.live.base.affine, SHAPE))
    assert (session.ids == 4).sum() == four
    assert set(np.unique(edit.before)) <= {1, 2}
    assert session.row(3).segment.origin == "edited"
    assert session.row(4).segment.origin == "predicted"


def test_an_erased_voxel_returns_to_the_tissue_below(session):
    session.erase(3, region_of_mask(session.ids == 3))
    assert 3 not in session.live.rows
    assert np.array_equal(session.ids[3:7, 4:10, 4:9], session.live.tissue[3:7, 4:10, 4:9].astype(int))


def test_without_a_stuff_map_the_voxels_under_things_are_void_but_painted_tissue_comes_back():
    result = tiny_result(with_stuff=False)
    session = ReviewSession(result, clock=Clock())
    region = stroke([(1, 1, 1)], 3, result.affine, SHAPE)
    session.paint(3, region)
    session.delete(3)
    assert (session.ids[3:7, 4:10, 4:9] == 0).all()
    assert session.ids[1, 1, 1] == 1


def test_a_rejected_lesion_stays_in_the_list_and_leaves_tissue_in_the_result(session):
    session.reject(4, "vessel")
    frozen = session.freeze()
    assert 4 in session.things
    assert 4 not in {s.id for s in frozen.segments}
    assert (frozen.ids[session.ids == 4] == 2).all()
    assert session.row(4).note == "vessel"
    # another lesion may be drawn over it
    session.paint(3, region_of_mask(session.ids == 4))
    assert session.things == [3, 5]
    session.undo()
    assert session.things == [3, 4, 5]


def test_tissue_that_vanishes_and_returns_keeps_its_id(session):
    session.paint(3, region_of_mask(np.isin(session.ids, [1])))
    assert 1 not in session.live.rows
    session.erase(3, region_of_mask(session.live.tissue == 1))
    assert session.live.rows[1].segment.class_id == 1


def test_merge_keeps_the_first_and_split_gives_the_parts_back(session):
    uid = session.row(3).segment.tracking_uid
    before = session.ids.copy()
    session.merge([3, 4])
    assert session.things == [3, 5]
    assert session.measures(3).size == ((before == 3) | (before == 4)).sum()
    session.split_by_line(3, (5, 0, 8.5), (5, 15, 8.5))
    new = next(i for i in session.things if i not in (3, 5))
    assert session.row(3).segment.tracking_uid == uid != session.row(new).segment.tracking_uid
    assert {(session.ids == i).sum() for i in (3, new)} == {(before == i).sum() for i in (3, 4)}


def test_splitting_around_seeds_cuts_the_waist():
    result = tiny_result()
    session = ReviewSession(result, clock=Clock())
    two = stroke([(9, 8, 4)], 4, result.affine, SHAPE)
    session.add(two, TUMOUR)
    lesion = session.things[-1]
    session.paint(lesion, stroke([(9, 8, 12)], 4, result.affine, SHAPE))
    session.split_by_seeds(lesion, [(9, 8, 4), (9, 8, 12)])
    parts = [session.measures(i).centroid_mm[0] for i in session.things[-2:]]
    assert abs(parts[0] - parts[1]) == pytest.approx(8, abs=0.2)


@pytest.mark.parametrize(
    ("code", "do"),
    [
        ("REVIEW-ID", lambda s: s.accept(99)),
        ("REVIEW-STUFF", lambda s: s.delete(1)),
        ("REVIEW-MERGE", lambda s: s.merge([3, 3])),
        ("REVIEW-CLASS", lambda s: s.relabel(3, 2)),
        ("REVIEW-FREE", lambda s: s.add(region_of_mask(s.ids == 3), TUMOUR)),
        ("REVIEW-GROW", lambda s: s.add_at((5, 6, 6), TUMOUR)),
        ("REVIEW-GROW", lambda s: s.add_at((50, 6, 6), TUMOUR)),
        ("REVIEW-DROPPED", lambda s: s.take_in(1)),
        ("REVIEW-SEEDS", lambda s: s.split_by_seeds(3, [(5, 5, 5)])),
        ("REVIEW-PLANE", lambda s: s.split_by_plane(3, (900, 900, 900), (1, 0, 0))),
        ("REVIEW-PIECES", lambda s: s.split_pieces(3)),
        ("REVIEW-SLICES", lambda s: s.interpolate(3)),
        ("REVIEW-VERDICT", lambda s: s.set_verdict(3, "fine")),
        ("REVIEW-TRACKING", lambda s: s.match(3, s.row(4).segment.tracking_uid)),
        ("REVIEW-REGION", lambda s: polygon([(0, 0), (1, 1)], SHAPE)),
        ("REVIEW-REGION", lambda s: s.paint(3, Region(((11, 13), (0, 1), (0, 1)), np.ones((2, 1, 1), bool)))),
        ("REVIEW-REGION", lambda s: s.paint(3, Region(((0, 2), (0, 1)), np.ones((2, 1), bool)))),
        ("REVIEW-REGION", lambda s: Region(((0, 2), (0, 1)), np.ones((2, 2), bool))),
        ("REVIEW-REGION", lambda s: stroke([], 2, s.live.base.affine, SHAPE)),
    ],
)
def test_what_cannot_be_done_is_refused_by_name_and_changes_nothing(session, code, do):
    before = state(session)
    with pytest.raises(ReviewError, match=code):
        do(session)
    assert state(session) == before
    assert session.edits == ()


def test_a_dropped_candidate_is_taken_in_once(session):
    edit = session.take_in(0)
    row = session.row(edit.segment)
    assert (row.segment.origin, row.segment.verdict, row.segment.score) == ("predicted", "accepted", 0.3)
    assert session.live.size(edit.segment) == session.model.dropped[0].mask.sum()
    with pytest.raises(ReviewError, match="REVIEW-DROPPED"):
        session.take_in(0)


@pytest.mark.parametrize("modality", ["PT", "CT"])
def test_a_click_finds_the_lesion_that_the_model_dropped(modality):
    result = tiny_result()
    session = ReviewSession(result, tiny_volume(result, modality), clock=Clock())
    edit = session.add_at((9, 3, 15), TUMOUR)
    found = session.ids == edit.segment
    truth = np.zeros(SHAPE, bool)
    truth[tuple(slice(a, b) for a, b in result.dropped[0].box)] = True
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9


def test_a_click_follows_the_model_s_own_probability_and_not_its_neighbour():
    result = tiny_result()
    grid = np.indices(SHAPE) * np.array([3.0, 1.5, 1.0])[:, None, None, None]
    blobs = [np.exp(-((grid - c[:, None, None, None]) ** 2).sum(0) / 20) for c in np.array([[27, 4, 3], [27, 4, 13]])]
    session = ReviewSession(result, probability={TUMOUR: 0.8 * np.maximum(*blobs)}, clock=Clock())
    edit = session.add_at((9, 3, 13), TUMOUR)
    found = session.ids == edit.segment
    assert found.sum() > 20
    assert not found[..., :8].any()


def test_listeners_hear_of_the_box_and_the_ids(session):
    heard = []
    session.listeners.append(heard.append)
    session.paint(3, region_of_indices(([0, 1], [0, 0], [0, 1]), SHAPE))
    session.accept(3)
    session.undo()
    assert [(c.action, c.box) for c in heard] == [
        ("paint", ((0, 2), (0, 1), (0, 2))),
        ("accepted", None),
        ("undo accepted", None),
    ]
    assert heard[0].ids == (1, 3)
    assert session.accept(3)
    assert session.accept(3) is None  # nothing to do the second time
    assert len(heard) == 4


def test_measures_follow_each_edit_and_undo_at_once(session):
    first = session.measures(3)
    assert session.measures(3) is first
    session.paint(3, stroke([(5, 2, 4)], 3, session.live.base.affine, SHAPE))
    assert session.measures(3).size > first.size
    session.undo()
    assert session.measures(3) == first


def test_stroke_equals_the_slow_obvious_ball_on_a_sheared_grid():
    affine = np.eye(4)
    affine[:3, :3] = [[0.3, 0.1, 1.0], [0.2, 1.5, 0.0], [3.0, 0.0, 0.0]]
    region = stroke([(5, 8, 9), (6, 10, 3)], 4.0, affine, SHAPE)
    points = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) @ affine[:3, :3].T
    ends = np.array([(5, 8, 9), (6, 10, 3)]) @ affine[:3, :3].T
    way = ends[0] + np.linspace(0, 1, 4001)[:, None] * (ends[1] - ends[0])
    slow = np.array([np.linalg.norm(p - way, axis=1).min() <= 4.0 for p in points.reshape(-1, 3)]).reshape(SHAPE)
    whole = np.zeros(SHAPE, bool)
    whole[tuple(slice(a, b) for a, b in region.box)] = region.mask
    assert (whole != slow).sum() <= 1  # a voxel on the rim, between the samples of the way


def test_interpolation_between_circles_is_the_cone_between_them(session):
    affine, shape = session.live.base.affine, SHAPE
    yy, xx = np.mgrid[: SHAPE[1], : SHAPE[2]]
    lesion = None
    for index, radius in ((0, 3.0), (2, 5.0)):
        mask = np.zeros(SHAPE, bool)
        mask[index] = ((yy - 3) * 1.5) ** 2 + (xx - 9) ** 2 <= radius**2
        lesion = lesion or session.add(region_of_mask(mask), TUMOUR).segment
        session.paint(lesion, region_of_mask(mask))
    session.interpolate(lesion)
    middle = (session.ids == lesion)[1]
    wanted = ((yy - 3) * 1.5) ** 2 + (xx - 9) ** 2 <= 4.0**2
    assert (middle ^ wanted).sum() <= 0.15 * wanted.sum()
    assert stroke([(0, 3, 9)], 1, affine, shape).mask.any()


def test_pictures_are_reviewed_like_volumes():
    result = tiny_result(SHAPE[1:])
    session = ReviewSession(result, tiny_volume(result, "SM"), clock=Clock())
    session.paint(3, stroke([(2, 6)], 3.0, session.affine, session.ids.shape))
    session.paint(5, polygon([(11, 1), (11, 6), (14, 8)], session.ids.shape))
    session.split_by_line(3, (6.5, 0), (6.5, 17))
    session.add_at((3, 15), TUMOUR)
    session.reject(4)
    check_sums(session)
    assert {s.id for s in session.freeze().things} == {3, 5, 6, 7}
    with pytest.raises(ReviewError, match="REVIEW-SLICES"):
        session.interpolate(3)
    while session.undo():
        pass
    assert session.ids.tobytes() == result.ids.tobytes()
