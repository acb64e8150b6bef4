"""Every key of a review, pressed once for real, and every order of the list by a click on its heading."""

from __future__ import annotations

import numpy as np

from tests.plugin.hands import canvas_of, middle_of


def test_every_key_does_what_the_list_of_keys_says(real_viewer, small_review, qtbot):
    from napari_medpanoptic.keys import REVIEW_KEYS
    from qtpy.QtCore import Qt

    review, reading, canvas = small_review, small_review.reading, canvas_of(real_viewer)
    session, pressed, said = reading.session, set(), []
    reading.tell = said.append
    review.go_on.setChecked(False)
    modifiers = {"Shift": Qt.KeyboardModifier.ShiftModifier, "Control": Qt.KeyboardModifier.ControlModifier}

    def press(name):
        *held, key = name.split("-")
        with_keys = Qt.KeyboardModifier.NoModifier
        for each in held:
            with_keys |= modifiers[each]
        qtbot.keyClick(canvas, getattr(Qt.Key, f"Key_{key}"), with_keys)
        pressed.add(name)

    first, second, third, fourth = (int(i) for i in review.model.ids)
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
    qtbot.keyClicks(review.form.note, "seen")
    qtbot.keyClick(review.form.note, Qt.Key.Key_Return)
    assert session.row(first).note == "seen"

    # a lesion that is taken away is grown again at the crosshair, in the image
    reading.go(fourth)
    at = middle_of(reading, fourth)
    press("Delete")
    assert fourth not in session.things
    real_viewer.dims.set_point(range(3), tuple(at))
    press("I")
    grown = session.things[-1]
    assert reading.current == grown != fourth
    # a slice that is erased is filled from its neighbours
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

    reading.go(second)
    real_viewer.dims.set_point(range(3), tuple(middle_of(reading, second)))
    press("S")
    parts = set(session.things) - {first, second, third, grown}
    assert len(parts) == 1
    real_viewer.dims.set_point(range(3), tuple(middle_of(reading, parts.pop())))
    press("J")
    assert set(session.things) == {first, second, third, grown}
    press("Shift-S")
    assert review.seeds.layer is not None
    press("Shift-S")  # without points: nothing is split
    assert set(session.things) == {first, second, third, grown}

    for key, shown in (
        ("D", lambda: reading.model.visible),
        ("Shift-D", lambda: review.changed.layer is not None and review.changed.layer.visible),
        ("Q", lambda: review.diameters.layer is not None),
    ):
        press(key)
        assert shown()
        press(key)
        assert not shown()
    assert pressed == {key.key for key in REVIEW_KEYS}
    # presets, over the same canvas
    image, limits = real_viewer.layers[0], set()
    for number in (1, 2, 3):
        qtbot.keyClick(canvas, getattr(Qt.Key, f"Key_{number}"), Qt.KeyboardModifier.ControlModifier)
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
