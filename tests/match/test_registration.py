"""A head-like phantom that was turned and moved is found again, on oblique and sheared grids, the same on each run."""

import numpy as np
import pytest

from medpanoptic.errors import ReviewError
from medpanoptic.geometry import spatial_affine, to_world
from medpanoptic.match import register
from medpanoptic.volume import Channel, Source, Volume


def phantom(points):
    """Grey values of a body with organs at (..., 3) LPS mm."""
    x, y, z = np.moveaxis(points, -1, 0)
    body = ((x / 60) ** 2 + (y / 45) ** 2 + (z / 50) ** 2 < 1) * 100.0
    for cx, cy, cz, r, v in (
        (25, 10, 10, 15, 80),
        (-20, -15, 20, 12, -60),
        (5, 20, -25, 10, 150),
        (-30, 10, -15, 9, 60),
    ):
        body += ((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < r**2) * v
    return body


def rigid(degrees, shift):
    a, b = np.radians(degrees)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tip = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn @ tip, shift
    return matrix


def volume(affine, shape, from_prior=None, contrast=lambda v: v, source=None):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    points = to_world(grid, affine)
    if from_prior is not None:  # the patient lies elsewhere: look up where each point was before
        back = np.linalg.inv(from_prior)
        points = points @ back[:3, :3].T + back[:3, 3]
    values = contrast(phantom(points)).reshape(shape) + np.random.default_rng(0).normal(0, 3, shape)
    return Volume(values[None].astype(np.float32), affine, (Channel("image", "CT", "HU"),), source or Source())


GRID = spatial_affine((4, 3, 3), (-75, -60, -64))
TRUE = rigid((8, -5), (9, -7, 12))


def error_mm(found, true):
    points = np.random.default_rng(1).uniform(-45, 45, (50, 3))
    return np.linalg.norm(found.to_current(points) - (points @ true[:3, :3].T + true[:3, 3]), axis=1).max()


@pytest.mark.parametrize("contrast", [lambda v: v, lambda v: 300 - v], ids=["same", "inverted"])
def test_a_turned_and_moved_patient_is_found_again(contrast):
    sheared = GRID.copy()
    sheared[1, 0] = 0.8  # a tilted gantry
    prior, current = volume(sheared, (34, 42, 50)), volume(GRID, (34, 44, 54), TRUE, contrast)
    found = register(prior, current)
    assert found.method == "rigid"
    assert error_mm(found, TRUE) < 1.0
    assert np.array_equal(register(prior, current).matrix, found.matrix)


def test_a_shared_frame_of_reference_is_taken_at_its_word():
    one = Source(frame_of_reference_uid="2.25.1")
    volumes = [volume(GRID, (6, 8, 8), source=one) for _ in range(2)]
    assert register(*volumes).method == "frame"
    assert np.array_equal(register(*volumes).matrix, np.eye(4))
    one, two = (volume(GRID, (34, 44, 50), source=Source(frame_of_reference_uid=uid)) for uid in ("2.25.1", "2.25.2"))
    assert register(one, two).method == "rigid"


def test_what_cannot_be_registered_is_refused():
    flat = Volume(np.zeros((1, 8, 8)), spatial_affine((1, 1)), (Channel("image"),))
    with pytest.raises(ReviewError, match="MATCH-DIMS"):
        register(flat, flat)
    empty = Volume(np.zeros((1, 8, 8, 8)), spatial_affine((1, 1, 1)), (Channel("image"),))
    with pytest.raises(ReviewError, match="MATCH-FAILED"):
        register(empty, empty)
