"""Every key of a review, pressed once for real, and every order of the list by a click on its heading."""

from __future__ import annotations

import numpy as np

from tests.plugin.hands import canvas_of, middle_of


class Keyboard:
    """Presses the keys of a review on the large canvas, and remembers which."""

    def __init__(self, viewer, review, qtbot):
        self.canvas, self.qtbot, self.pressed = canvas_of(viewer), qtbot, set()
        self.viewer, self.review, self.reading, self.session = viewer, review, review.reading, review.reading.session

    def press(self, name):
        from qtpy.QtCore import Qt

        modifiers = {"Shift": Qt.KeyboardModifier.ShiftModifier, "Control": Qt.KeyboardModifier.ControlModifier}
        *held, key = name.split("-")
        with_keys = Qt.KeyboardModifier.NoModifier
        for each in held:
            with_keys |= modifiers[each]
        self.qtbot.keyClick(self.canvas, getattr(Qt.Key, f"Key_{key}"), with_keys)
        self.pressed.add(name)

    def point_at(self, lesion):
        self.viewer.dims.set_point(range(3), tuple(middle_of(self.reading, lesion)))


def test_every_key_does_what_the_list_of_keys_says(real_viewer, small_review, qtbot):
    from napari_medpanoptic.keys import REVIEW_KEYS

    small_review.go_on.setChecked(False)
    keyboard = Keyboard(real_viewer, small_review, qtbot)
    judge_and_note(keyboard, *(int(i) for i in small_review.model.ids[:2]))
    grow_and_fill(keyboard)
    split_and_join(keyboard)
    show_and_hide(keyboard)
    assert keyboard.pressed == {key.key for key in REVIEW_KEYS}


def judge_and_note(keyboard, first, second):
    from qtpy.QtCore import Qt

    press, review, reading, session = keyboard.press, keyboard.review, keyboard.reading, keyboard.session
    said = []
    reading.tell = said.append
    press("N")
    assert reading.current == second
    press("Shift-N")
    assert reading.current == first
    for key, verdict in (("R", "rejected"), ("U", "unsure"), ("A", "accepted")):
        press(key)
        assert session.row(first).segment.verdict == verdict
    press("Shift-T"), press("Shift-L")
    assert (session.row(first).is_target, session.row(first).is_node) == (True, True)
    press("Shift-C")
    assert "one class of lesions" in said[-1]
    press("Shift-W")
    assert review.form.note.hasFocus() or review.form.isChecked()
    keyboard.qtbot.keyClicks(review.form.note, "seen")
    keyboard.qtbot.keyClick(review.form.note, Qt.Key.Key_Return)
    assert session.row(first).note == "seen"


def grow_and_fill(keyboard):
    """A lesion that is taken away is grown again at the crosshair; a slice erased is filled from its neighbours."""
    press, reading, session = keyboard.press, keyboard.reading, keyboard.session
    last = int(keyboard.review.model.ids[-1])
    reading.go(last)
    at = middle_of(reading, last)
    press("Delete")
    assert last not in session.things
    keyboard.viewer.dims.set_point(range(3), tuple(at))
    press("I")
    grown = session.things[-1]
    assert reading.current == grown != last
    region = session.region(grown)
    low, high = region.box[0]
    hole = np.zeros_like(region.mask)
    hole[(high - low) // 2] = region.mask[(high - low) // 2]
    size = session.live.size(grown)
    session.erase(grown, type(region)(region.box, hole))
    press("Shift-I")
    assert session.live.size(grown) > size - hole.sum() / 2
    press("Control-Z")
    assert session.live.size(grown) == size - hole.sum()
    press("Control-Shift-Z")
    assert session.edits[-1].action == "interpolate"


def split_and_join(keyboard):
    press, reading, session, seeds = keyboard.press, keyboard.reading, keyboard.session, keyboard.review.seeds
    before = set(session.things)
    second = int(keyboard.review.model.ids[1])
    reading.go(second)
    keyboard.point_at(second)
    press("S")
    parts = set(session.things) - before
    assert len(parts) == 1
    keyboard.point_at(parts.pop())
    press("J")
    assert set(session.things) == before
    press("Shift-S")
    assert seeds.layer is not None
    press("Shift-S")  # without points: nothing is split
    assert set(session.things) == before


def show_and_hide(keyboard):
    review = keyboard.review
    for key, shown in (
        ("D", lambda: review.reading.model.visible),
        ("Shift-D", lambda: review.changed.layer is not None and review.changed.layer.visible),
        ("Q", lambda: review.diameters.layer is not None),
    ):
        keyboard.press(key)
        assert shown()
        keyboard.press(key)
        assert not shown()


def test_presets_are_chosen_over_the_same_canvas(real_viewer, small_review, qtbot):
    keyboard = Keyboard(real_viewer, small_review, qtbot)
    image, limits = real_viewer.layers[0], set()
    for number in (1, 2, 3):
        keyboard.press(f"Control-{number}")
        limits.add(tuple(image.contrast_limits))
    assert len(limits) == 3


def test_every_heading_sorts(small_review, qtbot):
    from qtpy.QtCore import QPoint, Qt

    review, reading = small_review, small_review.reading
    reading.session.accept(reading.session.things[2])
    header = review.table.horizontalHeader()
    column_of = {"score": "score", "axes": "long_axis_mm", "volume_mm3": "size", "place": "place_key", "id": "id"}
    for name, column in {**column_of, "status": "status_key"}.items():
        at = QPoint(header.sectionViewportPosition(review.model.columns.index(name)) + 5, 5)
        orders = []
        for _ in range(2):
            qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=at)
            orders.append(reading.table.loc[[int(i) for i in review.model.ids], column].tolist())
        assert sorted(orders[0]) in (orders[0], orders[0][::-1])
        assert orders[0] != orders[1]
        assert sorted(orders[1]) in (orders[1], orders[1][::-1])
