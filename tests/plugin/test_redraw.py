"""Drawing a part again shows what drawing everything would. It leans on private parts of napari, so it is held here."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pytest
from napari_medpanoptic.in_step import set_point
from napari_medpanoptic.layers import KEY, result_layers, volume_layers
from napari_medpanoptic.mirror import LayerMirror
from napari_medpanoptic.orientation import PLANES
from napari_medpanoptic.reading import Reading
from napari_medpanoptic.redraw import redraw

from medpanoptic.review import ReviewSession
from medpanoptic.samples import phantom

MIDDLE = (8, 12, 20)


@pytest.fixture
def canvases(model_viewer):
    """The main model with a phantom in 3D, and mirrors in the two other planes."""
    from napari.components import ViewerModel

    volume, truth = phantom(3, shape=(20, 30, 40), spacing=(3, 1, 2))
    for data, look, kind in [*volume_layers(volume), *result_layers(truth)]:
        getattr(model_viewer, f"add_{kind}")(data, **look)
    sides = [ViewerModel(), ViewerModel()]
    mirrors = [LayerMirror(model_viewer, side) for side in sides]
    for side, plane in zip(sides, ("coronal", "sagittal"), strict=True):
        side.dims.order = PLANES[plane]
    for model in (model_viewer, *sides):
        model.dims.set_point((0, 1, 2), model.layers["things"].data_to_world(MIDDLE))
    things = [model.layers["things"] for model in (model_viewer, *sides)]
    return model_viewer, mirrors, things


def assert_drawn(layers):
    """What is on the screen is what a refresh of everything would put there."""
    for layer in layers:
        before = np.array(layer._slice.image.view)
        layer.refresh()
        np.testing.assert_array_equal(before, layer._slice.image.view)


def test_the_napari_that_was_looked_into():
    assert version("napari").startswith("0.9."), "redraw.py uses private parts of napari 0.9: read them anew"


@pytest.mark.parametrize("contour", [0, 1, 3])
def test_a_part_is_drawn_as_the_whole(canvases, contour):
    _, mirrors, things = canvases
    things[0].contour = contour
    random = np.random.default_rng(contour)
    told = []
    things[0].events.labels_update.connect(lambda event: told.append(event.redrawn))
    for _ in range(40):
        corner = random.integers(0, np.array(things[0].data.shape) - 1)
        size = random.integers(1, 9, 3)
        where = tuple(
            slice(int(a), int(min(a + n, m))) for a, n, m in zip(corner, size, things[0].data.shape, strict=True)
        )
        things[0].data[where] = random.integers(0, 5)
        redraw(things[0], where)
        for mirror in mirrors:
            mirror.refresh(things[0], where)
        assert_drawn(things)
    assert told
    assert all(told)
    assert len(told) < 40  # what the slice does not cut is not drawn


def test_what_cannot_be_drawn_in_part_is_drawn_whole(canvases):
    viewer, _, (layer, *_) = canvases
    where = (slice(7, 10), slice(11, 14), slice(18, 22))
    layer.visible = False
    layer.data[where] = 4
    redraw(layer, where)
    layer.visible = True
    assert_drawn([layer])
    viewer.dims.ndisplay = 3
    layer.data[where] = 3
    redraw(layer, where)
    assert_drawn([layer])


@pytest.mark.parametrize("painter", [0, 1, 2])
@pytest.mark.parametrize("tool", ["paint", "fill", "stroke"])
def test_a_stroke_in_one_canvas_is_seen_in_all(canvases, painter, tool):
    _, _, things = canvases
    layer = things[painter]
    layer.brush_size, layer.preserve_labels, layer.contour = 5, False, 1
    if tool == "paint":
        layer.paint(MIDDLE, 4)
    elif tool == "fill":
        layer.fill(MIDDLE, 4)
    else:  # as the mouse does it: drawn at once, told of at its end
        layer._begin_stroke()
        layer.paint(MIDDLE, 4, refresh=False)
        layer._partial_labels_refresh()
        layer._commit_stroke()
    assert (layer.data == 4).any()
    assert_drawn(things)


@pytest.mark.parametrize("tool", ["paint", "fill"])
def test_in_a_review_layer_screen_and_session_are_one(model_viewer, tool):
    from napari.components import ViewerModel

    volume, truth = phantom(3, shape=(20, 30, 40), spacing=(3, 1, 2), lesions=3)
    reading = Reading(model_viewer, ReviewSession(truth, volume, reader="A"), "case")
    mirror = LayerMirror(model_viewer, ViewerModel())
    reading.refresh_side = mirror.refresh  # the dock's part
    session, things = reading.session, reading.things
    copy = mirror.copies[things]
    first, second = session.things[:2]
    reading.go(first)

    def check():
        shown = [i for i in session.things if session.row(i).segment.verdict != "rejected"]
        native = reading.grid.order.to_native(things.data)
        np.testing.assert_array_equal(native, np.where(np.isin(session.ids, shown), session.ids, 0))
        assert things.features["status"].tolist() == reading.table["status"].tolist()
        assert things.features["index"].tolist() == reading.table.index.tolist()
        np.testing.assert_array_equal(things.features["volume_mm3"], reading.table["volume_mm3"])
        assert copy.features.equals(things.features)
        assert_drawn([things, copy])

    beside = np.argwhere(things.data == second)[0]
    things.preserve_labels = False
    for step in (
        lambda: getattr(things, tool)(tuple(np.argwhere(things.data == first)[0]), second),
        lambda: things.paint(tuple(beside), first),  # on a neighbour: refused there
        lambda: copy.paint(tuple(beside), first),
        lambda: session.reject(second),
        lambda: session.accept(first),
        lambda: things.paint(tuple(beside), first),
        session.undo,
        session.undo,
        session.undo,
        lambda: session.delete(first),
        session.undo,
        lambda: session.merge([first, second]),
        session.undo,
    ):
        step()
        check()
    assert KEY in things.metadata


def test_a_move_slices_once_and_a_picture_in_2d_never(canvases, monkeypatch):
    from napari.components import ViewerModel
    from napari.layers import Layer

    viewer, _, (layer, *_) = canvases
    flat = ViewerModel()
    nuclei = flat.add_labels(np.eye(9, dtype=int))
    asked, usual = [], Layer._slice_dims
    monkeypatch.setattr(Layer, "_slice_dims", lambda self, **how: (asked.append(self), usual(self, **how)))
    set_point(viewer, layer.data_to_world((5, 6, 7)))
    set_point(flat, (4.0, 5.0))
    assert viewer.dims.current_step == (5, 6, 7)
    assert flat.dims.point == (4.0, 5.0)
    assert (asked.count(layer), asked.count(nuclei)) == (1, 0)
    assert np.shares_memory(layer._slice.image.raw, layer.data[5])
    assert np.array_equal(layer._slice.image.raw, layer.data[5])
