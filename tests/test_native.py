"""The way back from the network's grid to the native one."""

import numpy as np
from scipy import ndimage

from medpanoptic import Volume
from medpanoptic.geometry import spatial_affine
from medpanoptic.native import Grids, smooth_ids
from medpanoptic.preprocess import Preprocessing, grid_affine
from medpanoptic.volume import Channel


def test_a_ball_on_a_coarse_grid_comes_back_round():
    ball = np.hypot(np.hypot(*np.mgrid[-20:21, -20:21, -20:21][:2]), np.mgrid[-20:21, -20:21, -20:21][2]) <= 14
    volume = Volume(ball[None].astype(np.float32) * 200, spatial_affine((1, 1, 1)), (Channel("ct"),))
    preprocessing = Preprocessing([{"_target_": "Spacingd", "pixdim": [4.0, 4.0, 4.0]}])
    grid = preprocessing(volume)
    coarse = np.where(np.asarray(grid[0]) > 100, 1, 2).astype(np.int32)
    smooth = smooth_ids(coarse, [1], Grids(volume.shape, volume.affine, grid_affine(grid)))
    stepped = preprocessing.to_native(coarse, grid)

    def dice(ids):
        return 2 * ((ids == 1) & ball).sum() / ((ids == 1).sum() + ball.sum())

    assert set(np.unique(smooth)) == {1, 2}
    assert dice(smooth) > dice(stepped) + 0.01
    # round: the surface keeps nearly one distance from the centre
    rim = np.argwhere((smooth == 1) & (ndimage.binary_erosion(smooth == 1) == 0)) - 20
    assert np.linalg.norm(rim, axis=1).std() < 0.8


def test_a_plate_one_coarse_voxel_thick_survives_between_two_others():
    volume = Volume(np.zeros((1, 16, 16, 16), np.float32), spatial_affine((1, 1, 1)), (Channel("ct"),))
    preprocessing = Preprocessing([{"_target_": "Spacingd", "pixdim": [2.0, 2.0, 2.0]}])
    grid = preprocessing(volume)
    coarse = np.full(grid.shape[1:], 1, np.int32)
    coarse[4], coarse[5:] = 2, 3
    native = smooth_ids(coarse, [], Grids(volume.shape, volume.affine, grid_affine(grid)))
    assert (native == 2).any(axis=0).all()
