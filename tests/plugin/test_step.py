"""The pure side of the planes."""

from __future__ import annotations

import numpy as np
import pytest
from napari_medpanoptic.orientation import PLANES
from napari_medpanoptic.step import crosshair_lines, is_in_view, jump_zoom, moved, other_planes, plane_name, stepped


def test_the_side_canvases_show_what_the_main_one_does_not():
    assert [plane_name(order) for order in PLANES.values()] == list(PLANES)
    assert other_planes(PLANES["axial"]) == ("coronal", "sagittal")
    assert other_planes(PLANES["sagittal"]) == ("axial", "coronal")


def test_a_step_stays_inside_the_volume():
    limits = (-10.0, 20.0, 2.5)
    assert stepped((0, 7, 7), 0, 2, limits) == (5, 7, 7)
    assert stepped((18, 7, 7), 0, 4, limits) == (20, 7, 7)
    assert stepped((0, 7, 7), 0, -9, limits) == (-10, 7, 7)
    assert moved((1, 2, 3), (2, 0), (9, 8)) == (8, 2, 9)


def test_the_crosshair_leaves_its_middle_free_and_ends_at_the_data():
    extent = np.array([[0, -10, -20], [0, 10, 20]], float)
    lines = crosshair_lines((0, 4, -5), (1, 2), extent, gap=3).reshape(4, 2, 2)
    assert lines.tolist() == [  # (column, row) pairs: left, right, top, bottom
        [[-20, 4], [-8, 4]],
        [[-2, 4], [20, 4]],
        [[-5, -10], [-5, 1]],
        [[-5, 7], [-5, 10]],
    ]


@pytest.mark.parametrize(("column", "seen"), [(0, True), (40, True), (50, False), (-50, False)])
def test_a_point_near_the_edge_of_the_canvas_counts_as_out_of_view(column, seen):
    assert is_in_view((9, 0, column), (1, 2), (0, 0), zoom=2, canvas=(100, 200)) is seen


def test_a_jump_shows_small_lesions_in_60_mm_and_large_ones_at_a_fifth():
    assert jump_zoom((4, 2), (600, 900)) == 10
    assert jump_zoom((60, 100), (600, 900)) == pytest.approx(600 / 500)
    assert jump_zoom((), (60, 60)) == 1
