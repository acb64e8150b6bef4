"""Compare, Follow-up and RECIST docks in the real viewer, and what they leave in the signed files."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import pydicom
import pytest

from medpanoptic.classes import ClassInfo, ClassTable
from medpanoptic.io import read_volume, write_result
from medpanoptic.result import Dropped, PanopticResult, Provenance, Segment
from medpanoptic.review import ReviewSession, sign
from medpanoptic.samples import PHANTOM_CLASSES
from tests.builders import axial_affine, write_series
from tests.plugin.hands import canvas_of, spot

SHAPE = (20, 60, 60)
A, B, C = (10, 12, 15), (10, 45, 15), (10, 30, 45)  # middles of cubes
CLASSES = ClassTable((PHANTOM_CLASSES[1], ClassInfo(2, "tissue", False, (0, 0, 0), *[PHANTOM_CLASSES[2].category] * 2)))


def study(folder, cubes, day, **more):
    """Write a CT and its result with cubes {id: (middle, half)}; return both folders."""
    affine = axial_affine((2.0, 1.0, 1.0))
    ids = np.ones(SHAPE, np.int32)
    for number, (middle, half) in cubes.items():
        ids[tuple(slice(m - half, m + half + 1) for m in middle)] = number
    image = np.where(ids > 1, 90, 10).astype(np.int16)

    def dated(index, dataset):
        dataset.StudyDate = day

    ct = write_series(folder / "ct", image, affine, series=day, edit=dated)
    segments = (Segment(1, 2), *(Segment(number, 1, 0.9 - number / 100) for number in cubes))
    result = PanopticResult(ids, segments, CLASSES, read_volume(ct).affine, **more)
    write_result(result, folder / "case", formats=["csv"])
    return ct, folder / "case"


@pytest.fixture
def prior(tmp_path):
    """A signed prior study: A and B are targets, in liver and lung."""
    ct, case = study(tmp_path / "before", {2: (A, 6), 3: (B, 6)}, "20250101")
    session = ReviewSession.open(case, read_volume(ct), reader="A. Reader")
    for number, organ in ((2, "liver"), (3, "lung")):
        session.set_recist(number, organ=organ, is_target=True)
        session.accept(number)
    sign(session, formats=["csv"])
    return ct, case, {i: session.row(i).segment.tracking_uid for i in (2, 3)}


def press(qtbot, button):
    from qtpy.QtCore import Qt

    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def cells(table):
    return [[table.item(r, c).text() for c in range(table.columnCount())] for r in range(table.rowCount())]


def show(viewer, dock):
    dock.parentWidget().show()
    dock.parentWidget().raise_()


@pytest.fixture
def follow_up(real_viewer, prior, tmp_path, qtbot, monkeypatch):
    """The Follow-up dock as ``medpanoptic review CASE --prior --prior-image`` opens it: A grew, B is gone, C is new."""
    import napari
    from napari_medpanoptic.follow_up_widget import FollowUpWidget

    from medpanoptic.cli import main

    prior_ct, prior_case, _ = prior
    ct, case = study(tmp_path / "now", {5: (A, 8), 7: (C, 6)}, "20250302")
    monkeypatch.setattr(napari, "Viewer", lambda **choices: real_viewer)
    monkeypatch.setattr(napari, "run", lambda: None)
    words = [case, "--image", ct, "--prior", prior_case, "--prior-image", prior_ct, "--reader", "A. Reader"]
    with pytest.raises(SystemExit) as stop:
        main(["review", *map(str, words)])
    assert not stop.value.code
    dock = next(d for d in real_viewer.window.dock_widgets.values() if isinstance(d, FollowUpWidget))
    qtbot.waitUntil(lambda: dock.worker is None, timeout=60000)
    show(real_viewer, dock)
    return dock


def test_a_prior_study_given_to_the_command_is_paired(follow_up):
    assert follow_up.said.text() == "case: 2 lesions, 60 days before, in one frame of reference"
    rows = {row[0]: row for row in cells(follow_up.table)}
    assert set(rows) == {"same", "gone", "new"}
    grown = (17 / 13) ** 3
    assert rows["same"][1:5] == ["2", "5", "grown", f"{100 * (grown - 1):+.0f} %"]
    assert rows["same"][5] == f"{60 * np.log(2) / np.log(grown):.0f}"  # doubling days


def test_prior_lesions_are_marked_where_they_were(follow_up, real_viewer):
    from napari_medpanoptic.docks import review_of

    reading = review_of(real_viewer).reading
    follow_up.mark_box.setChecked(True)
    marks = next(layer for layer in real_viewer.layers if layer.name.endswith(" prior"))
    assert marks.features.to_dict("list") == {"index": [2, 3], "relation": ["same", "gone"]}
    assert marks.data.shape < reading.grid.shape  # no larger than it must be
    for number, middle in ((2, A), (3, B)):
        at = reading.grid.display_points([middle])[0] * reading.grid.scale + reading.grid.translate
        assert marks.get_value(at, world=True) == number
        mm3 = (marks.data == number).sum() * np.prod(marks.scale)
        assert mm3 == pytest.approx(13**3 * 2)
        low = np.argwhere(marks.data == number).min(axis=0)
        assert (marks.data[tuple(slice(start, start + 13) for start in low)] == number).all()  # the cube, no ball
    assert not np.allclose(marks.get_color(2), marks.get_color(3))
    follow_up.mark_box.setChecked(False)
    assert marks not in real_viewer.layers


def test_pairs_are_picked_by_clicks_in_the_picture(follow_up, real_viewer, qtbot):
    from napari_medpanoptic.docks import review_of
    from qtpy.QtCore import Qt

    dock, reading, canvas = follow_up, review_of(real_viewer).reading, canvas_of(real_viewer)
    dock.mark_box.setChecked(True)

    def click(middle):
        at = reading.grid.display_points([middle])[0] * reading.grid.scale + reading.grid.translate
        real_viewer.dims.set_point(range(3), tuple(at))
        qtbot.mouseMove(canvas, spot(real_viewer, at))
        qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=spot(real_viewer, at))

    real_viewer.reset_view()
    click(A)  # the lesion, and the outline of what it was
    assert dock.pair.chosen() == ((2,), (5,))
    click(B)  # gone: only its outline is there
    click(C)  # new
    assert dock.pair.chosen() == ((3,), (7,))
    assert reading.current == 7
    press(qtbot, dock.buttons["confirm"])
    rows = {row[1]: row for row in cells(dock.table)}
    assert (rows["3"][0], rows["3"][2], rows["3"][-1]) == ("same", "7", "✓")
    # two prior lesions grown together: one more pair, then the row stands for both
    click(A)
    dock.pair.choose((3,), ())
    press(qtbot, dock.buttons["confirm"])
    merged = next(r for r, row in enumerate(cells(dock.table)) if row[0] == "regrouped")
    dock.table.cellClicked.emit(merged, 0)
    assert [len(ids) for ids in dock.pair.chosen()] == [2, 2]
    press(qtbot, dock.buttons["part"])
    assert {row[0] for row in cells(dock.table)} == {"gone", "new"}
    # from the list of lesions too
    reading.go(7)
    assert dock.pair.chosen()[1] == (7,)
    dock.end()


def test_pairs_and_targets_are_carried_into_the_signed_files(follow_up, prior, real_viewer, qtbot):
    from napari_medpanoptic.docks import review_of

    dock, reading, (_, _, prior_uid) = follow_up, review_of(real_viewer).reading, prior
    # confirm by the row and the button, carry over, and the targets of the prior case
    same = next(r for r in range(3) if dock.table.item(r, 0).text() == "same")
    dock.table.cellClicked.emit(same, 0)
    assert dock.pair.chosen() == ((2,), (5,))
    press(qtbot, dock.buttons["part"])
    assert {row[0] for row in cells(dock.table)} == {"gone", "new"}
    press(qtbot, dock.buttons["again"])
    assert [dock.pair.prior.itemText(i) for i in range(3)] == ["–", "2: 4.39 ml", "3: 4.39 ml"]
    press(qtbot, dock.buttons["confirm"])
    press(qtbot, dock.buttons["carry"])
    assert reading.session.row(5).segment.tracking_uid == prior_uid[2]
    assert "progressive disease" in dock.recist.said.text()  # a new lesion
    assert cells(dock.recist.table)[1][:2] == ["3", "lung"]
    assert cells(dock.recist.table)[1][3] == "0.0"
    press(qtbot, dock.recist.take_over)
    row = reading.session.row(5)
    assert (row.organ, row.is_target) == ("liver", True)
    reading.go(7)
    reading.verdict("rejected")
    press(qtbot, dock.buttons["again"])
    said = dock.recist.said.text()
    assert "Sum of diameters" in said
    assert "Overall: PR" in said  # 18.4 + 18.4 -> 24.0 + 0 mm is 35 % less
    dock.recist.between.setText("15")
    dock.recist.between.editingFinished.emit()
    assert "Targets: PD" in dock.recist.said.text()  # 20 % and 5 mm over the nadir
    press(qtbot, dock.recist.propose)
    assert reading.session.row(5).is_target

    reading.session.set_verdicts([5], "accepted")
    folder = sign(reading.session, formats=["dicom-seg", "dicom-sr"])
    seg = [s.TrackingUID for s in pydicom.dcmread(folder / "seg.dcm").SegmentSequence if "TrackingUID" in s]
    report = hd.sr.srread(folder / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    assert seg == [str(g.tracking_uid) for g in report] == [prior_uid[2]]


def test_a_dropped_candidate_is_shown_and_taken_in(real_viewer, tmp_path, qtbot):
    from napari_medpanoptic.compare_widget import CompareWidget
    from napari_medpanoptic.start import start_review

    box = ((7, 14), (25, 36), (40, 51))
    mask = np.ones([b - a for a, b in box], bool)
    parameters = {"fusion": {"score_threshold": 0.5}}
    ct, case = study(
        tmp_path, {2: (A, 6)}, "20250101",
        dropped=(Dropped(1, 0.31, "score", box, mask),), provenance=Provenance(parameters=parameters),
    )  # fmt: skip
    reading = start_review(real_viewer, case, ct, reader="A. Reader").reading
    dock = next(d for d in real_viewer.window.dock_widgets.values() if isinstance(d, CompareWidget))
    show(real_viewer, dock)
    assert cells(dock.dropped)[0][1:] == ["0.31", "score 0.31 is below 0.50; 1.69 ml"]
    dock.dropped.setCurrentCell(0, 0)
    dock.dropped.cellClicked.emit(0, 0)
    layer = next(layer for layer in real_viewer.layers if layer.name.endswith(" candidate"))
    at = reading.grid.display_points([[a for a, _ in box], [b - 1 for _, b in box]])
    low = at.min(axis=0) * reading.grid.scale + reading.grid.translate
    np.testing.assert_allclose(layer.translate, low)
    assert layer.data.sum() == mask.sum()
    assert real_viewer.layers.selection.active is reading.things
    press(qtbot, dock.take_in)
    assert layer not in real_viewer.layers
    assert len(reading.session.things) == 2
    assert cells(dock.changes)[0][0] == "added"
    reading.undo()
    assert reading.session.things == [2]
    press(qtbot, dock.take_in)
    assert len(reading.session.things) == 2
