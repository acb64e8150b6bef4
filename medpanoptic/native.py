"""From the network's grid back to the grid of the image: the map, what lies under it, and what fusion dropped.

Numpy only, slab by slab: a volume of 512 x 512 x 300 costs its result and little more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpanoptic.geometry import Affine, check_affine
from medpanoptic.result import Box, count_ids

_BLUR_VOXELS = 0.7
# native voxels worked on at a time
_SLAB_VOXELS = 1 << 21
# voxels; an axis that turns by less over the whole image is straight
_STRAIGHT = 1e-3


@dataclass(frozen=True, eq=False)
class Grids:
    """Where voxels of the image ("native") lie on the network's grid.

    shape : native S. affine, network_affine : (4, 4) index -> LPS mm of both; in 2D the first two columns count.
    """

    shape: tuple[int, ...]
    affine: Affine
    network_affine: Affine

    def __post_init__(self) -> None:
        object.__setattr__(self, "affine", check_affine(self.affine))
        object.__setattr__(self, "network_affine", check_affine(self.network_affine))

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """(D, D) native index -> network index, before ``shift``."""
        return self._inverse @ self.affine[:3, : len(self.shape)]

    @cached_property
    def shift(self) -> NDArray[np.float64]:
        """(D,) network index of the first native voxel."""
        shift: NDArray[np.float64] = self._inverse @ (self.affine[:3, 3] - self.network_affine[:3, 3])
        return shift

    @property
    def _inverse(self) -> NDArray[np.float64]:
        # least squares: in 2D the third index column says nothing
        return np.asarray(np.linalg.pinv(self.network_affine[:3, : len(self.shape)]), np.float64)

    def native_box(self, box: Box) -> Box:
        """Return the smallest native box around a network box, at least one voxel, inside the image."""
        edges = np.array(np.meshgrid(*[(a - 0.5, b - 0.5) for a, b in box], indexing="ij")).reshape(len(box), -1)
        corners = np.linalg.solve(self.matrix, edges - self.shift[:, None]) + 0.5
        start = np.clip(np.floor(corners.min(1) + 1e-6), 0, np.array(self.shape) - 1).astype(int)
        stop = np.clip(np.ceil(corners.max(1) - 1e-6), start + 1, self.shape).astype(int)
        return tuple(zip(start.tolist(), stop.tolist(), strict=True))

    def native_mask(self, mask: NDArray[np.bool_], box: Box, native: Box) -> NDArray[np.bool_]:
        """Take the mask of a network box at the voxel centres of a native box, nearest neighbour."""
        index = np.stack(np.meshgrid(*[np.arange(a, b) for a, b in native], indexing="ij"), -1)
        inner = np.rint(index @ self.matrix.T + self.shift).astype(int) - [a for a, _ in box]
        inside = np.all((inner >= 0) & (inner < mask.shape), axis=-1)
        inner = np.where(inside[..., None], inner, 0)
        taken: NDArray[np.bool_] = mask[tuple(np.moveaxis(inner, -1, 0))] & inside
        return taken


class Sampler:
    """Takes values (*S') of the network's grid at native voxel centres, for slabs along the first native axis.

    Outside the network's grid the nearest value goes on.
    """

    def __init__(self, grids: Grids) -> None:
        self.grids = grids
        matrix, ndim = np.abs(grids.matrix), len(grids.shape)
        self.order = [int(column.argmax()) for column in matrix.T]
        turned = matrix.copy()
        turned[self.order, range(ndim)] = 0
        # a tilted series is sheared on its own grid and not on the network's
        self.straight = len(set(self.order)) == ndim and bool((turned.sum(0) * grids.shape < _STRAIGHT).all())

    def linear(self, values: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        """Return (stop - start, *S[1:]) by linear interpolation."""
        if not self.straight:
            return self._transform(values, start, stop, order=1)
        values = values.transpose(self.order)
        for axis, n in enumerate(self.grids.shape):
            places = self._places(axis, values.shape[axis], *((start, stop) if axis == 0 else (0, n)))
            low = np.minimum(places.astype(np.intp), max(0, values.shape[axis] - 2))
            part = (places - low).astype(np.float32).reshape(-1, *(1,) * (len(self.grids.shape) - 1 - axis))
            below = values.take(low, axis)
            values = values.take(np.minimum(low + 1, values.shape[axis] - 1), axis)
            values -= below
            values *= part
            values += below
        return values

    def nearest(self, values: NDArray[np.int32], start: int, stop: int) -> NDArray[np.int32]:
        """Return (stop - start, *S[1:]) by nearest neighbour."""
        if not self.straight:
            return self._transform(values, start, stop, order=0)
        values = values.transpose(self.order)
        for axis, n in enumerate(self.grids.shape):
            places = self._places(axis, values.shape[axis], *((start, stop) if axis == 0 else (0, n)))
            values = values.take(np.rint(places).astype(np.intp), axis)
        return values

    def _places(self, axis: int, size: int, start: int, stop: int) -> NDArray[np.float64]:
        network_axis = self.order[axis]
        places = self.grids.matrix[network_axis, axis] * np.arange(start, stop) + self.grids.shift[network_axis]
        return np.clip(places, 0, size - 1)

    def _transform(self, values: NDArray, start: int, stop: int, order: int) -> NDArray:
        matrix, shift = self.grids.matrix, self.grids.shift + self.grids.matrix[:, 0] * start
        shape = (stop - start, *self.grids.shape[1:])
        return ndimage.affine_transform(values, matrix, shift, shape, order=order, mode="nearest", prefilter=False)


def smooth_ids(ids: NDArray[np.int32], things: Sequence[int], grids: Grids) -> NDArray[np.int32]:
    """Bring an id map (*S') to the native grid without the steps of the coarser grid.

    At each native voxel, all things together, every stuff segment and void compete by their share of its surroundings:
    a mask blurred by 0.7 voxels of the coarse grid, linearly interpolated (without the blur its steps would stay). A
    plate one voxel thick still wins its middle. Where things win, the nearest thing takes the voxel: rims are smooth,
    borders between touching things are nearest neighbour. Equal shares go to things, then to the smaller id.
    """
    is_thing = np.isin(ids, things)
    void = [0] if bool((ids == 0).any()) else []
    others = [*void, *(i for i in count_ids(ids) if i not in set(things))]
    shares = [_blur(is_thing), *(_blur(ids == other) for other in others)]
    extended = np.zeros_like(ids)
    if is_thing.any():
        nearest = ndimage.distance_transform_edt(~is_thing, return_distances=False, return_indices=True)
        extended = ids[tuple(nearest)]
    sampler = Sampler(grids)
    native = np.empty(grids.shape, np.int32)
    thickness = max(1, _SLAB_VOXELS // math.prod(grids.shape[1:]))
    for start in range(0, grids.shape[0], thickness):
        stop = min(start + thickness, grids.shape[0])
        slab = native[start:stop]
        slab[...] = sampler.nearest(extended, start, stop)
        best = sampler.linear(shares[0], start, stop)
        for other, share in zip(others, shares[1:], strict=True):
            value = sampler.linear(share, start, stop)
            slab[value > best] = other
            np.maximum(best, value, out=best)
    return native


def _blur(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    return ndimage.gaussian_filter(mask.astype(np.float32), _BLUR_VOXELS, mode="nearest")
