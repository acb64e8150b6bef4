import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logsumexp

from medpanoptic.errors import ModelError
from medpanoptic.fusion import Fused, fuse
from medpanoptic.networks.outputs import Instances, Prediction

METHODS = ("log_odds", "efficientps", "kirillov")


def prediction(logits, instances=()):
    """instances: (box as ((start, stop), ...), channel, score, mask logits)."""
    logits = torch.as_tensor(np.asarray(logits, np.float32))
    if not instances:
        return Prediction(logits, Instances.empty(logits.ndim - 1))
    boxes = torch.tensor([[a for a, _ in box] + [b for _, b in box] for box, *_ in instances])
    labels = torch.tensor([channel for _, channel, *_ in instances])
    scores = torch.tensor([score for _, _, score, _ in instances])
    masks = tuple(torch.as_tensor(np.asarray(mask, np.float32)) for *_, mask in instances)
    return Prediction(logits, Instances(boxes, labels, scores, masks))


def slow_fuse(pred, is_thing, method, score_threshold=0.5, overlap_threshold=0.5, min_stuff_size=0, min_thing_size=0):
    """The same by one full-size float64 map per instance and one argmax; returns ids and (channel, score) of things."""
    z = pred.semantic_logits.numpy().astype(np.float64)
    things = np.asarray(is_thing)
    shape, axes = z.shape[1:], z.ndim - 1
    stuff = logsumexp(z[~things], axis=0) if (~things).any() else np.zeros(shape)
    inst = pred.instances
    occupied, maps, masks, kept = np.zeros(shape, bool), [], [], []
    for i in sorted(range(len(inst)), key=lambda i: -float(inst.scores[i])):
        corners = inst.boxes[i].tolist()
        where = tuple(slice(a, b) for a, b in zip(corners[:axes], corners[axes:], strict=True))
        inside, pasted, semantic = np.zeros(shape, bool), np.zeros(shape), np.zeros(shape)
        k, inside[where], pasted[where] = int(inst.labels[i]), True, inst.mask_logits[i].numpy()
        m = inside & (pasted > 0)
        if inst.scores[i] < score_threshold or not m.any() or (m & occupied).sum() / m.sum() > overlap_threshold:
            continue
        masks.append(m & ~occupied)
        occupied |= m
        semantic[where] = (z[k] - stuff if method == "log_odds" else z[k])[where]
        fused = (expit(pasted) + expit(semantic)) * (pasted + semantic)
        maps.append(np.where(inside, fused, -np.inf) if method == "log_odds" else fused)
        kept.append((k, float(inst.scores[i])))
    semantic = z.argmax(0)
    rest = np.where(things[semantic], -1, semantic)
    if method == "kirillov":
        owner = np.full(shape, -1)
        for i, m in enumerate(masks):
            owner[m] = i
    elif method == "log_odds":
        odds = stuff - (logsumexp(z[things], axis=0) if things.any() else -80.0)
        odds = np.clip(odds, -80, 80)
        owner = np.argmax([*maps, 4 * expit(odds) * odds], axis=0)
        best = np.flatnonzero(~things)[z[~things].argmax(0)] if (~things).any() else -np.ones(shape, int)
        rest = np.where(odds >= 0, best, -1)
    else:
        owner = np.argmax([*maps, *z[~things]] or [np.zeros(shape)], axis=0)
    ids, segments = np.zeros(shape, int), []
    for i, segment in enumerate(kept):
        if (owner == i).sum() >= max(1, min_thing_size):
            segments.append(segment)
            ids[owner == i] = len(segments)
    free = ids == 0
    for k in range(len(z)):
        where = free & (rest == k)
        if where.sum() >= max(1, min_stuff_size):
            segments.append((k, None))
            ids[where] = len(segments)
    return ids, segments


@st.composite
def cases(draw, max_instances=6):
    """Small 2D and 3D predictions; logits in quarters so that both precisions see the same order."""
    axes = draw(st.integers(2, 3))
    shape = tuple(draw(st.integers(1, 7)) for _ in range(axes))
    is_thing = draw(st.lists(st.booleans(), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.integers(-20, 20, (len(is_thing), *shape)) / 4
    count = draw(st.integers(0, max_instances)) if any(is_thing) else 0
    scores = rng.permutation(np.linspace(0.05, 1, max_instances))[:count]
    instances = []
    for score in scores:
        box = tuple(tuple(sorted(rng.choice(n + 1, 2, replace=False).tolist())) for n in shape)
        mask = rng.integers(-20, 20, [b - a for a, b in box]) / 4 + rng.choice([-3, 0, 2])
        instances.append((box, int(rng.choice(np.flatnonzero(is_thing))), float(score), mask))
    return logits, instances, is_thing


def check(fused: Fused, shape):
    ids = fused.ids.numpy()
    assert ids.dtype == np.int32
    assert ids.shape == tuple(shape)
    assert [s.id for s in fused.segments] == list(range(1, len(fused.segments) + 1))
    assert set(np.unique(ids)) - {0} == {s.id for s in fused.segments}


@pytest.mark.parametrize("method", METHODS)
@given(
    case=cases(), sizes=st.tuples(st.integers(0, 6), st.integers(0, 6)), overlap=st.sampled_from([0.0, 0.3, 0.5, 1.0])
)
@settings(max_examples=150, deadline=None)
def test_equals_full_size_maps(method, case, sizes, overlap):
    logits, instances, is_thing = case
    pred = prediction(logits, instances)
    options = {
        "overlap_threshold": overlap,
        "min_stuff_size": sizes[0],
        "min_thing_size": sizes[1],
        "score_threshold": 0.3,
    }
    fused = fuse(pred, is_thing, method=method, **options)
    check(fused, logits.shape[1:])
    ids, segments = slow_fuse(pred, is_thing, method, **options)
    np.testing.assert_array_equal(fused.ids.numpy(), ids)
    assert [s.channel for s in fused.segments] == [k for k, _ in segments]
    kept = [s for s in fused.segments if is_thing[s.channel]]
    assert [s.score for s in kept] == [score for _, score in segments if score is not None]
    assert len(kept) + len(fused.dropped) == len(instances)
    assert all(0 <= s.score <= 1 for s in fused.segments)


@pytest.mark.parametrize("method", METHODS)
@given(case=cases(), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_order_of_instances_does_not_matter(method, case, seed):
    logits, instances, is_thing = case
    shuffled = [instances[i] for i in np.random.default_rng(seed).permutation(len(instances))]
    a, b = (fuse(prediction(logits, x), is_thing, method=method) for x in (instances, shuffled))
    assert torch.equal(a.ids, b.ids)
    assert a.segments == b.segments
    assert [(d.reason, d.box) for d in a.dropped] == [(d.reason, d.box) for d in b.dropped]


@given(case=cases(), low=st.floats(0, 1), high=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_higher_score_threshold_drops_more_by_score(case, low, high):
    logits, instances, is_thing = case
    low, high = sorted((low, high))
    loose, strict = (fuse(prediction(logits, instances), is_thing, score_threshold=t) for t in (low, high))
    by_score = [{d.box for d in f.dropped if d.reason == "score"} for f in (loose, strict)]
    assert by_score[0] <= by_score[1]
    assert all(s.score >= high for s in strict.segments if is_thing[s.channel])


@given(case=cases())
@settings(max_examples=100, deadline=None)
def test_where_mask_and_semantic_head_agree_both_are_followed(case):
    logits, instances, is_thing = case
    fused = fuse(prediction(logits, instances), is_thing, score_threshold=0)
    things = np.asarray(is_thing)
    if things.all() or not things.any():
        return
    odds = logsumexp(logits[~things], axis=0)
    background = odds > logsumexp(logits[things], axis=0) + 1e-5
    channel = {s.id: s.channel for s in fused.segments}
    owner = np.vectorize(lambda i: channel.get(i, -1))(fused.ids.numpy())
    dropped = {d.box for d in fused.dropped}
    in_some_mask, agreed = np.zeros(odds.shape, bool), np.zeros(odds.shape, bool)
    for box, k, _, mask in instances:
        where = tuple(slice(*ends) for ends in box)
        in_some_mask[where] |= mask > 0
        if box not in dropped:
            agreed[where] |= (mask > 0) & (logits[k] > odds + 1e-5)[where]
    assert all(things[k] for k in owner[agreed])
    assert not any(k < 0 or things[k] for k in owner[background & ~in_some_mask])


def two_cells():
    """Background (0) and nucleus (1) on 6 x 10; two touching nuclei, the better one on the right."""
    logits = np.full((2, 6, 10), -3.0)
    logits[0] = 3
    logits[:, 1:5, 1:9] = [[[-4]], [[4]]]
    left, right = np.full((6, 6), -6.0), np.full((6, 6), -6.0)
    left[1:5, 1:5], right[1:5, 1:5] = 5, 5
    return logits, [(((0, 6), (0, 6)), 1, 0.8, left), (((0, 6), (4, 10)), 1, 0.9, right)]


@pytest.mark.parametrize("method", METHODS)
def test_two_touching_nuclei(method):
    logits, instances = two_cells()
    fused = fuse(prediction(logits, instances), [False, True], method=method)
    expected = np.full((6, 10), 3)
    expected[1:5, 1:5], expected[1:5, 5:9] = 2, 1  # the better score is id 1
    np.testing.assert_array_equal(fused.ids.numpy(), expected)
    assert [(s.channel, round(s.score, 2)) for s in fused.segments] == [(1, 0.9), (1, 0.8), (0, 1.0)]
    assert (fused.stuff == 0).all()
    assert fused.dropped == ()


def test_negative_stuff_logits_only_lead_the_published_form_astray():
    logits, instances = two_cells()
    pred = prediction(logits - 10, instances)  # a softmax does not see this shift
    ours, published = (fuse(pred, [False, True], method=m) for m in ("log_odds", "efficientps"))
    assert torch.equal(ours.ids, fuse(prediction(logits, instances), [False, True]).ids)
    assert (published.ids[:, 0] == 1).all()  # the right nucleus, at the left rim of the image


def test_a_nucleus_of_unsure_type_keeps_all_its_pixels():
    logits = np.zeros((3, 4, 4))  # background, epithelial, inflammatory
    logits[:, :, :] = np.array([-4.0, 1.0, 1.0])[:, None, None]
    logits[:, 0, 0] = [-4, -4, 4]
    fused = fuse(prediction(logits, [(((0, 4), (0, 4)), 1, 0.9, np.full((4, 4), 2.0))]), [False, True, True])
    assert (fused.ids == 1).all()


def test_every_reason_is_recorded():
    logits, instances = two_cells()
    box, _, _, mask = instances[1]
    extra = [
        (box, 1, 0.2, mask),  # score
        (box, 1, 0.7, mask),  # overlap with the better one
        (box, 1, 0.6, np.full((6, 6), -1.0)),  # empty
        (((0, 1), (0, 2)), 1, 0.65, np.full((1, 2), 30.0)),  # two pixels: area
    ]
    fused = fuse(prediction(logits, instances + extra), [False, True], min_thing_size=3)
    assert [(d.reason, round(d.score, 2)) for d in fused.dropped] == [
        ("overlap", 0.7),
        ("empty", 0.6),
        ("score", 0.2),
        ("area", 0.65),
    ]
    assert fused.dropped[0].box == ((0, 6), (4, 10))
    assert fused.dropped[0].mask.sum() == 16
    assert fused.ids[0, 0] == 3  # background is back under the small thing


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4)])
def test_no_instance_leaves_stuff_and_void(method, shape):
    logits = torch.zeros(3, *shape)
    logits[0], logits[2, 0] = 1, 5  # channel 2 is a thing that no instance claims
    fused = fuse(Prediction(logits, Instances.empty(len(shape))), [False, False, True], method=method)
    assert (fused.ids[0] == 0).all()
    assert (fused.ids[1:] == 1).all()
    assert [s.channel for s in fused.segments] == [0]


def test_small_stuff_becomes_void_and_one_stuff_class_is_one_segment():
    logits = torch.zeros(2, 3, 3)
    logits[0], logits[1, 0, 0], logits[1, 2, 2] = 1, 5, 5
    both = Prediction(logits, Instances.empty(2))
    assert len(fuse(both, [False, False]).segments) == 2
    fused = fuse(both, [False, False], min_stuff_size=3)
    assert [s.channel for s in fused.segments] == [0]
    assert fused.ids[0, 0] == fused.ids[2, 2] == 0


def test_inputs_stay_as_they_are():
    logits, instances = two_cells()
    pred = prediction(logits, instances)
    before = [t.clone() for t in (pred.semantic_logits, *pred.instances.mask_logits)]
    for method in METHODS:
        fuse(pred, [False, True], method=method)
    assert all(
        torch.equal(a, b) for a, b in zip(before, (pred.semantic_logits, *pred.instances.mask_logits), strict=True)
    )


def test_what_does_not_fit_is_refused():
    logits, instances = two_cells()
    with pytest.raises(ModelError, match="2 semantic channels but 1 thing flags"):
        fuse(prediction(logits, instances), [True])
    with pytest.raises(ModelError, match="label 1, which is no thing channel"):
        fuse(prediction(logits, instances), [True, False])
    with pytest.raises(ModelError, match="does not fit image"):
        fuse(prediction(logits, [(((0, 7), (0, 6)), 1, 0.9, np.ones((7, 6)))]), [False, True])
    with pytest.raises(ModelError, match="no fusion method 'best'; there are log_odds, efficientps, kirillov"):
        fuse(prediction(logits, instances), [False, True], method="best")
    with pytest.raises(ModelError, match="not numbers"):
        fuse(prediction(logits * np.nan, instances), [False, True])


def test_minus_infinity_in_a_mask_means_never():
    logits, _ = two_cells()
    logits[0], logits[1] = 3, -90
    logits[1, 2, 2] = 90
    mask = np.full((6, 6), -np.inf)
    mask[2, 2] = 200
    for method in METHODS:
        fused = fuse(prediction(logits, [(((0, 6), (0, 6)), 1, 0.9, mask)]), [False, True], method=method)
        assert (fused.ids == 1).sum() == 1
