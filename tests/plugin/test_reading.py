"""A review in the viewer's model: the layer always shows what the session holds. No screen."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from napari_medpanoptic.grid import Grid, strokes
from napari_medpanoptic.keys import REVIEW_KEYS
from napari_medpanoptic.orientation import DISPLAY_DIRECTIONS
from napari_medpanoptic.reading import Reading

from medpanoptic.geometry import to_world
from medpanoptic.io import read_result, write_result
from medpanoptic.review import ReviewSession
from medpanoptic.review.regions import slices
from medpanoptic.samples import phantom
from tests.plugin.test_windows import naparis_keys

SHAPE = (6, 7, 8)


@st.composite
def grids(draw):
    """A grid in any of the 48 orientations, anisotropic."""
    axes, flips = draw(st.permutations(range(3))), draw(st.lists(st.sampled_from((-1, 1)), min_size=3, max_size=3))
    affine = np.eye(4)
    affine[:3, :3] = 0
    for native, (axis, sign) in enumerate(zip(axes, flips, strict=True)):
        affine[axis, native] = sign * (3.0, 1.5, 1.0)[native]
    affine[:3, 3] = (10, -20, 30)
    return Grid(affine, SHAPE)


@given(grids(), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_boxes_points_and_regions_agree_with_the_display_order(grid, seed):
    random = np.random.default_rng(seed)
    start = random.integers(0, np.array(SHAPE) - 2)
    box = tuple((int(a), int(a) + 2) for a in start)
    native = np.zeros(SHAPE, bool)
    native[slices(box)] = random.random((2, 2, 2)) < 0.7
    shown = grid.order.to_display(native)
    cut = grid.display_slices(box)
    assert shown.sum() == shown[cut].sum()
    region = grid.native_region([c.start for c in cut], shown[cut])
    assert region.box == box
    assert np.array_equal(region.mask, native[slices(box)])
    # a point in the viewer is the patient's position along the display axes
    index = random.integers(0, SHAPE)
    viewer_point = DISPLAY_DIRECTIONS @ to_world([index], grid.affine)[0]
    np.testing.assert_allclose(grid.native_index(viewer_point), index, atol=1e-9)
    assert grid.nearest(viewer_point) == tuple(index)
    assert grid.nearest(viewer_point + 100) is None
    np.testing.assert_allclose(grid.native_points(grid.display_points([index])), [index], atol=1e-9)


def test_strokes_are_grouped_by_what_was_there():
    indices = (np.array([0, 0, 1]), np.array([2, 3, 3]))
    (first, second) = sorted(strokes([(indices, np.array([0, 0, 5]), 7)]), key=lambda s: s[1])
    assert first[:3] == (7, 0, (0, 2))
    assert first[3].tolist() == [[True, True]]
    assert second[:3] == (7, 5, (1, 3))


@pytest.fixture
def reading(model_viewer, tmp_path):
    volume, truth = phantom(3, shape=(24, 30, 36), spacing=(3, 1, 2), lesions=4)
    scores = iter((0.9, 0.6, 0.8, 0.7))
    things = {s.id for s in truth.things}
    truth = replace(
        truth, segments=tuple(replace(s, score=next(scores)) if s.id in things else s for s in truth.segments)
    )
    write_result(truth, tmp_path / "case")
    session = ReviewSession.open(tmp_path / "case", volume, reader="A. Reader")
    return Reading(model_viewer, session, "case")


def shown(reading):
    """What the layer shows, on the native grid."""
    return reading.grid.order.to_native(np.asarray(reading.things.data))


def expected(session):
    kept = [i for i in session.things if session.row(i).segment.verdict != "rejected"]
    return np.where(np.isin(session.ids, kept), session.ids, 0)


def check(reading):
    assert np.array_equal(shown(reading), expected(reading.session))
    assert sorted(reading.table.index) == reading.session.things
    assert sorted(reading.things.features["index"]) == reading.session.things
    for segment_id in reading.session.things:
        color = reading.session.live.base.segment_color(reading.session.row(segment_id).segment)
        np.testing.assert_allclose(reading.things.get_color(segment_id)[:3], np.array(color) / 255, atol=0.01)


def test_reading_goes_from_the_most_suspicious_on(reading):
    by_score = reading.table.sort_values("score", ascending=False).index.tolist()
    reading.step(1, unread=True)
    for segment_id, verdict in zip(by_score, ("accepted", "rejected", "unsure", "accepted"), strict=True):
        assert reading.current == segment_id
        assert reading.things.selected_label == segment_id
        assert reading.under_crosshair() == segment_id
        reading.verdict(verdict)
    assert reading.session.row(by_score[1]).segment.verdict == "rejected"
    assert not (shown(reading) == by_score[1]).any()  # rejected: out of the picture
    check(reading)
    reading.undo()
    reading.undo()
    reading.undo()
    assert (shown(reading) == by_score[1]).any()
    check(reading)


def test_a_brush_stroke_becomes_an_edit_and_spares_the_neighbour(reading):
    first, second = reading.session.things[:2]
    reading.go(first)
    neighbour = np.argwhere(np.asarray(reading.things.data) == second)
    reading.things.preserve_labels = False  # the session guards neighbours even then
    before = reading.session.live.size(first)
    reading.things.brush_size = 5
    depth, row, column = neighbour.mean(axis=0).round().astype(int)
    reading.things.paint((depth, row + 4, column), first)
    assert [e.action for e in reading.session.edits] == ["paint"]
    assert reading.session.live.size(first) > before
    assert (shown(reading) == second).sum() == len(neighbour)
    check(reading)
    reading.undo()
    assert reading.session.live.size(first) == before
    check(reading)
    reading.redo()
    check(reading)


def test_the_eraser_brings_tissue_back(reading):
    first = reading.session.things[0]
    reading.go(first)
    centre = np.argwhere(np.asarray(reading.things.data) == first).mean(axis=0).round().astype(int)
    reading.things.brush_size = 3
    reading.things.paint(tuple(centre), 0)
    assert [e.action for e in reading.session.edits] == ["erase"]
    at = reading.grid.nearest(centre * reading.grid.scale + reading.grid.translate)
    assert reading.session.ids[at] == 1  # the phantom's body
    check(reading)


def test_a_free_label_is_a_new_lesion(reading):
    count = len(reading.session.things)
    reading.things.brush_size = 3
    body = np.argwhere(reading.session.ids == 1)
    at = reading.grid.display_points(body[len(body) // 3][None])[0].round().astype(int)
    reading.things.paint(tuple(at), 99)
    assert len(reading.session.things) == count + 1
    assert reading.current == reading.session.things[-1]
    check(reading)


def test_merge_split_delete_and_take_apart(reading):
    first, second = reading.session.things[:2]
    reading.go(first)
    reading.merge([first, second])
    assert second not in reading.session.things
    check(reading)
    reading.undo()
    reading.go(first)
    reading.split()
    assert len(reading.session.things) == 5
    check(reading)
    reading.undo()
    reading.go(second)
    reading.delete()
    assert second not in reading.session.things
    assert reading.current is not None
    check(reading)
    said = []
    reading.tell = said.append
    reading.merge([])
    assert "Merge" in said[0]


def test_the_model_stays_as_it_was(reading):
    before = np.array(reading.model.data)
    reading.go(reading.session.things[0])
    reading.delete()
    assert np.array_equal(reading.model.data, before)
    assert not reading.model.editable
    reading.toggle_model()
    assert reading.model.visible
    assert "removed" in {c.relation for c in reading.changes()}


def test_what_is_shown_is_what_is_left_for_the_next_reader(reading, tmp_path):
    reading.go(reading.session.things[0])
    reading.verdict("rejected")
    left = shown(reading)
    reading.close()
    again = ReviewSession.open(tmp_path / "case", reading.session.volume, reader="B. Reader")
    assert np.array_equal(expected(again), left)
    assert np.array_equal(read_result(tmp_path / "case").ids, again.model.ids)


def test_none_of_our_review_keys_is_naparis_but_undo_and_redo():
    from napari.utils.key_bindings import coerce_keybinding

    ours = {str(coerce_keybinding(key.key)): key.action for key in REVIEW_KEYS}
    assert len(ours) == len(REVIEW_KEYS)
    # one history: ours takes the place of napari's strokes on our layers
    assert {ours[key] for key in set(ours) & naparis_keys()} <= {"undo", "redo"}


def test_the_list_stays_fluid_with_50000_nuclei():
    pytest.importorskip("qtpy")
    import pandas as pd
    from napari_medpanoptic.lesion_table import LesionTable, cell_text
    from napari_medpanoptic.units import MICRONS
    from qtpy.QtCore import Qt

    ids = np.arange(1, 50_001)
    table = pd.DataFrame(
        {
            "id": ids,
            "status": "unread",
            "class": "nucleus",
            "score": 0.5,
            "area_mm2": 1e-4,
            "place": "row 1",
            "note": "",
        },
        index=ids,
    )
    model = LesionTable()
    start = time.perf_counter()
    model.set_table(table)
    cells = [model.data(model.index(row, c)) for row in range(40_000, 40_050) for c in range(model.columnCount())]
    assert time.perf_counter() - start < 0.5
    assert model.rowCount() == 50_000
    assert cells[:4] == ["○ unread", "40001", "nucleus", "0.50"]
    assert model.row_of(123) == 122
    assert model.row_of(None) == -1
    assert cell_text("volume_mm3", 1500.0) == "1.50"
    assert cell_text("axes", np.array([12.34, np.nan])) == ""
    assert cell_text("axes", np.array([12.34, 5.67])) == "12.3 x 5.7"
    assert cell_text("axes", np.array([0.01234, 0.00567]), MICRONS) == "12.3 x 5.7"
    assert cell_text("area_mm2", 50.2e-6, MICRONS) == "50.2"
    assert cell_text("place", "slice 18, L 31 P 12 H 104 mm") == "18, L 31 P 12 H 104"
    assert cell_text("place", "row 7, column 245") == "7, 245"
    assert model.data(model.index(0, 0), Qt.ItemDataRole.ForegroundRole) is None


def test_the_changed_voxels_are_shown_and_follow(reading):
    from napari_medpanoptic.changed_layer import ChangedLayer

    from medpanoptic.review import changed_voxels

    changed, session = ChangedLayer(reading), reading.session
    changed.toggle()
    assert not np.asarray(changed.layer.data).any()
    first, second = session.things[:2]
    for step in (
        lambda: reading.things.paint((2, 2, 2), first),
        lambda: session.reject(second),
        lambda: session.delete(first),
        session.undo,
        session.undo,
        session.redo,
    ):
        step()
        now = reading.grid.order.to_native(np.asarray(changed.layer.data)) > 0
        assert np.array_equal(now, changed_voxels(session.model, session.live))
    changed.toggle()
    assert not changed.layer.visible
    session.redo()
    changed.toggle()
    native = reading.grid.order.to_native(np.asarray(changed.layer.data)) > 0
    assert np.array_equal(native, changed_voxels(session.model, session.live))
    seen = np.asarray(changed.layer.data[int(reading.viewer.dims.current_step[0])])
    assert np.array_equal(changed.layer._slice.image.raw, seen)
    changed.close()
    assert changed.layer not in reading.viewer.layers


def test_words_on_a_lesion_keep_each_other(reading):
    reading.go(reading.session.things[0])
    reading.recist(organ="liver")
    reading.turn("is_target")
    reading.turn("is_node")
    reading.turn("is_node")
    reading.note("seen before")
    row = reading.session.row(reading.current)
    assert (row.organ, row.is_target, row.is_node, row.note) == ("liver", True, False, "seen before")
    assert len(reading.session.edits) == 5
    reading.recist(organ="liver")
    assert len(reading.session.edits) == 5  # nothing new, no edit


def test_nothing_is_edited_while_the_review_is_signed(reading):
    said = []
    reading.tell = said.append
    reading.go(reading.session.things[0])
    reading.signing = True
    reading.show_lock()
    assert not reading.things.editable
    before = np.array(reading.things.data)
    reading.things.paint((2, 2, 2), reading.current)  # a script can still
    reading.verdict("accepted")
    assert not reading.session.edits
    assert np.array_equal(reading.things.data, before)
    assert "being signed" in said[0]
    reading.signing = False
    reading.show_lock()
    assert reading.things.editable


def test_the_list_shows_and_sorts_by_what_mirrored_images_said(model_viewer, tmp_path):
    volume, truth = phantom(3, shape=(24, 30, 36), spacing=(3, 1, 2), lesions=4)
    doubts = iter((0.1, None, 0.4, 0.2))
    things = {s.id for s in truth.things}
    segments = tuple(replace(s, uncertainty=next(doubts)) if s.id in things else s for s in truth.segments)
    write_result(replace(truth, segments=segments), tmp_path / "case")
    reading = Reading(model_viewer, ReviewSession.open(tmp_path / "case", volume, reader="A. Reader"), "case")
    reading.sort("uncertainty")
    assert reading.view()["uncertainty"].tolist()[:3] == [0.4, 0.2, 0.1]
    reading.step(1)
    assert reading.current == reading.view().index[0]


def test_napari_zooms_about_the_cursor_in_every_plane(model_viewer):
    from types import SimpleNamespace

    from napari_medpanoptic.view import arrange, set_plane

    arrange(model_viewer)
    model_viewer.add_image(np.zeros((20, 30, 40)))
    (zoom,) = [c for c in model_viewer.mouse_double_click_callbacks if c.__name__ == "double_click"]
    for plane in ("axial", "coronal", "sagittal"):
        set_plane(model_viewer, plane)
        shown = model_viewer.dims.displayed
        before = np.array(model_viewer.camera.center)[-2:]
        place = np.array([5.0, 7.0, 9.0])
        zoom(model_viewer, SimpleNamespace(modifiers=(), position=tuple(place), dims_displayed=list(shown)))
        # halfway from the old centre to the cursor: the point under the cursor stays under it
        np.testing.assert_allclose(np.array(model_viewer.camera.center)[-2:], (before + place[list(shown)]) / 2)
