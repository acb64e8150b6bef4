"""A review of a microscopy picture: two dimensions, many classes, pixels of a quarter of a micrometre."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medpanoptic.classes import ClassInfo, ClassTable
from medpanoptic.geometry import spatial_affine
from medpanoptic.io import write_result
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.samples import PHANTOM_CLASSES
from medpanoptic.volume import Channel, Volume
from tests.plugin.hands import canvas_of, spot, world_of

PIXEL_MM = 0.00025
LESION, TISSUE = PHANTOM_CLASSES[1], PHANTOM_CLASSES[2]
CLASSES = ClassTable((LESION, ClassInfo(2, "stroma", False, (0, 0, 0), TISSUE.category, TISSUE.type)))
NUCLEI = {2: (60, 80), 3: (60, 110), 4: (150, 200)}  # middles of discs of radius 9
MISSED = (200, 60)  # one that the model did not find


@pytest.fixture
def picture():
    rows, columns = np.indices((240, 260))
    ids, image = np.ones((240, 260), np.int32), np.full((240, 260), 30.0)
    for number, (row, column) in {**NUCLEI, 0: MISSED}.items():
        disc = (rows - row) ** 2 + (columns - column) ** 2 <= 81
        image[disc] = 200
        if number:
            ids[disc] = number
    image += np.random.default_rng(0).normal(0, 2, image.shape)
    affine = spatial_affine((PIXEL_MM, PIXEL_MM))
    segments = (Segment(1, 2), *(Segment(i, 1, 1 - i / 10) for i in NUCLEI))
    volume = Volume(image[None].astype(np.float32), affine, (Channel("gray"),))
    return volume, PanopticResult(ids, segments, CLASSES, affine)


def opened(viewer, volume, result, folder):
    from napari_medpanoptic.layers import volume_layers
    from napari_medpanoptic.start import start_review

    write_result(result, folder)
    for data, look, _ in volume_layers(volume, "nuclei"):
        viewer.add_image(data, **look)
    return start_review(viewer, folder, reader="A. Reader")


@pytest.fixture
def review(real_viewer, picture, tmp_path):
    return opened(real_viewer, *picture, tmp_path / "nuclei")


def test_nuclei_are_seen_measured_and_added_by_a_click(real_viewer, review, qtbot):
    from qtpy.QtCore import Qt

    reading, canvas = review.reading, canvas_of(real_viewer)
    # the nucleus fills a fifth of the canvas, not a thousandth
    across = 19 * PIXEL_MM * real_viewer.scene.camera.zoom
    assert across == pytest.approx(0.2 * min(real_viewer.canvas.size), rel=0.1)
    assert review.info.text().splitlines()[1].startswith("4.")  # µm
    assert " µm, " in review.info.text()
    headings = [review.model.headerData(i, Qt.Orientation.Horizontal) for i in range(review.model.columnCount())]
    assert headings == ["status", "id", "score", "µm", "µm²", "place"]  # one class: no column
    assert review.model.data(review.model.index(0, headings.index("place"))) == "60, 80"
    review.buttons["axes"].click()
    assert all(text.endswith(" µm") for text in review.diameters.layer.text.values[-2:])
    review.buttons["axes"].click()

    # a click says where; I grows a lesion there
    real_viewer.reset_view()
    at = world_of(reading.things, MISSED)
    qtbot.mouseMove(canvas, spot(real_viewer, at))
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=spot(real_viewer, at))
    np.testing.assert_allclose(real_viewer.dims.point, at, atol=3 * PIXEL_MM)
    assert review.place.crosshair.line.visible
    qtbot.keyClick(canvas, Qt.Key.Key_I)
    new = reading.session.things[-1]
    assert new not in NUCLEI
    assert reading.session.measures(new).size == pytest.approx(np.pi * 81, rel=0.1)
    assert reading.current == new
    # two chosen lesions are joined at the crosshair
    reading.go(2)
    at = world_of(reading.things, NUCLEI[3])
    real_viewer.reset_view()
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=spot(real_viewer, at))
    assert reading.current == 3
    qtbot.keyClick(canvas, Qt.Key.Key_K)
    assert not review.place.crosshair.line.visible


def test_a_nucleus_gets_another_class_by_key_and_by_mouse(real_viewer, picture, tmp_path, qtbot):
    from qtpy.QtCore import Qt

    volume, result = picture
    other = replace(LESION, id=3, name="other nucleus", color=(10, 200, 10))
    doubts = {2: 0.1, 3: 0.4, 4: 0.2}
    segments = tuple(replace(s, uncertainty=doubts.get(s.id)) for s in result.segments)
    result = replace(result, segments=segments, classes=ClassTable((*CLASSES, other)))
    review = opened(real_viewer, volume, result, tmp_path / "nuclei")
    reading, model = review.reading, review.model

    names = [model.headerData(i, Qt.Orientation.Horizontal) for i in range(model.columnCount())]

    def column(heading):
        return [model.data(model.index(row, names.index(heading))) for row in range(model.rowCount())]

    def color_of(lesion):
        return (reading.things.colormap.map(lesion) * 255).round()[:3].tolist()

    reading.go(3)
    drawn = color_of(3)
    qtbot.keyClick(canvas_of(real_viewer), Qt.Key.Key_C, Qt.KeyboardModifier.ShiftModifier)
    assert reading.session.row(3).segment.class_id == 3
    assert sorted(column("class")) == sorted([LESION.name, LESION.name, "other nucleus"])
    qtbot.keyClick(canvas_of(real_viewer), Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert reading.session.row(3).segment.class_id == 1
    assert color_of(3) == drawn
    box = review.form.class_box
    review.form.setChecked(True)
    box.showPopup()
    qtbot.keyClick(box.view(), Qt.Key.Key_End)
    qtbot.keyClick(box.view(), Qt.Key.Key_Return)
    assert reading.session.row(3).segment.class_id == 3
    # the doubtful ones first
    header, at = review.table.horizontalHeader(), names.index("uncertain")
    for _ in range(2):
        where = header.viewport().rect().center()
        where.setX(header.sectionViewportPosition(at) + header.sectionSize(at) // 2)
        qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=where)
    assert [int(i) for i in column("id")] in ([3, 4, 2], [2, 4, 3])


def test_without_a_pixel_size_nothing_is_said_in_mm(picture, tmp_path):
    from napari_medpanoptic.units import MICRONS, MM, PIXELS, unit_of

    from medpanoptic.review import ReviewSession, worklist

    volume, result = picture
    session = ReviewSession(result, replace(volume, calibrated=False))
    assert unit_of(session) == PIXELS
    assert np.isnan(worklist(session)["long_axis_mm"]).all()
    assert unit_of(ReviewSession(result, volume)) == MICRONS
    coarse = replace(result, affine=spatial_affine((0.14, 0.14)))
    assert unit_of(ReviewSession(coarse)) == MM
