from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from napari_medpanoptic.orientation import PLANES, display_order, display_placement

from medpanoptic.geometry import to_world

ORIENTATIONS = [(p, s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]
SHAPE = (3, 4, 5)


def affine_of(axes, signs, spacing=(2.0, 0.7, 1.5), origin=(10.0, -20.0, 30.0)):
    """Native axis i runs along patient axis ``axes[i]`` with the given sign."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for i, (world, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[world, i] = sign * spacing[i]
    affine[:3, 3] = origin
    return affine


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_display_runs_to_feet_posterior_and_left_and_back_exactly(axes, signs):
    affine = affine_of(axes, signs)
    array = np.arange(60).reshape(SHAPE)
    order = display_order(affine, 3)
    shown = order.to_display(array)
    directions = order.display_affine(affine, SHAPE)[:3, :3]
    assert np.array_equal(np.sign(np.round(directions, 9)), [[0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    assert np.array_equal(order.to_native(shown), array)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_a_voxel_keeps_its_place_in_the_patient(axes, signs):
    affine = affine_of(axes, signs)
    array = np.zeros(SHAPE, bool)
    array[0, 1, 3] = True
    order = display_order(affine, 3)
    shown = np.argwhere(order.to_display(array))
    place = to_world(shown, order.display_affine(affine, SHAPE))
    np.testing.assert_allclose(place, to_world([[0, 1, 3]], affine))
    # the viewer's mm along the display axes are -z, y, x of the patient
    scale, translate = display_placement(affine, SHAPE, order)
    np.testing.assert_allclose(shown[0] * scale + translate, place[0][[2, 1, 0]] * (-1, 1, 1))


def test_oblique_and_sheared_volumes_take_the_nearest_axes_and_never_a_rotation():
    turn = np.deg2rad(20)
    oblique = np.eye(4)
    oblique[:3, :3] = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    oblique[:3, :3] = oblique[:3, :3][:, [2, 1, 0]] * (3.0, 0.5, 0.5)  # (slice, row, column)
    assert display_order(oblique, 3).axes == (0, 1, 2)
    assert display_order(oblique, 3).flips == (True, False, False)
    tilted = oblique.copy()
    tilted[1, 0] = 0.9  # gantry tilt: slices shifted along y
    scale, translate = display_placement(tilted, SHAPE, display_order(tilted, 3))
    np.testing.assert_allclose(scale, (np.hypot(3.0, 0.9), 0.5, 0.5))
    assert len(translate) == 3


def test_two_series_with_different_grids_lie_over_each_other():
    coarse = affine_of((2, 1, 0), (1, 1, 1), spacing=(4.0, 2.0, 2.0), origin=(0, 0, 0))
    fine = affine_of((0, 2, 1), (-1, 1, 1), spacing=(1.0, 1.0, 1.0), origin=(8.0, 2.0, 4.0))
    point = [[6.0, 4.0, 8.0]]
    seen = []
    for affine, shape in ((coarse, (5, 6, 7)), (fine, (9, 10, 11))):
        order = display_order(affine, 3)
        scale, translate = display_placement(affine, shape, order)
        index = np.linalg.solve(order.display_affine(affine, shape), np.append(point[0], 1))[:3]
        seen.append(index * scale + translate)
    np.testing.assert_allclose(seen[0], seen[1])


def test_two_dimensional_images_stay_as_stored():
    order = display_order(np.diag([-1.0, -1.0, 1.0, 1.0]), 2)
    assert (order.axes, order.flips) == ((0, 1), (False, False))


def test_planes_name_every_slider_axis_once():
    assert {plane: order[0] for plane, order in PLANES.items()} == {"axial": 0, "coronal": 1, "sagittal": 2}
