"""The outline of a mask in one plane, half-way between the centres of pixels inside and outside (marching squares).

Every pixel centre inside the mask is inside the outline and every other centre outside, so that an even-odd test of
pixel centres gives the mask back exactly. Diagonal neighbours are joined (8-connected).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# crossings of a cell of four pixel centres, as offsets (row, column) from the first: its top, left, right, bottom side
_SIDES = np.array([[0.0, 0.5], [0.5, 0.0], [0.5, 1.0], [1.0, 0.5]])
_TOP, _LEFT, _RIGHT, _BOTTOM = range(4)
# corners inside, as bits 8 top left, 4 top right, 2 bottom left, 1 bottom right -> directed edges, the inside on the
# left of the way (columns to the right, rows down)
_EDGES: dict[int, tuple[tuple[int, int], ...]] = {
    8: ((_LEFT, _TOP),),
    4: ((_TOP, _RIGHT),),
    2: ((_BOTTOM, _LEFT),),
    1: ((_RIGHT, _BOTTOM),),
    12: ((_LEFT, _RIGHT),),
    3: ((_RIGHT, _LEFT),),
    5: ((_TOP, _BOTTOM),),
    10: ((_BOTTOM, _TOP),),
    7: ((_TOP, _LEFT),),
    11: ((_RIGHT, _TOP),),
    13: ((_LEFT, _BOTTOM),),
    14: ((_BOTTOM, _RIGHT),),
    9: ((_RIGHT, _TOP), (_LEFT, _BOTTOM)),
    6: ((_TOP, _LEFT), (_BOTTOM, _RIGHT)),
}
_MOST = 2
_TABLE = np.full((16, _MOST, 2), -1)
for _case, _edges in _EDGES.items():
    _TABLE[_case, : len(_edges)] = _edges


def contour_edges(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the outline of a mask as loose edges.

    mask : (rows, columns) bool. Returns (E, 2, 2): start and stop of each edge, (row, column) in pixel indices, 0 the
    centre of the first pixel. The inside is on the left of each edge; holes have edges of their own.
    """
    m = np.pad(mask, 1).astype(np.uint8)
    cases = 8 * m[:-1, :-1] + 4 * m[:-1, 1:] + 2 * m[1:, :-1] + m[1:, 1:]
    rows, columns = np.nonzero((cases > 0) & (cases < 15))
    pairs = _TABLE[cases[rows, columns]]  # (cells, 2, 2), -1 where there is no second edge
    corners = np.stack([rows, columns], axis=1) - 1.0  # the padding moved the grid by one
    edges = corners[:, None, None] + _SIDES[pairs]
    return edges[pairs[..., 0] >= 0]


def contours(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return the closed outlines of a mask, one per part and one per hole.

    mask : (rows, columns) bool. Returns arrays (N, 2) of (row, column) in pixel indices without a repeated last point,
    in the order of their first points. Straight runs keep only their ends. Outer outlines turn against the clock
    (columns to the right, rows down), holes with it.
    """
    edges = contour_edges(mask)
    keys = np.rint(edges * 2).astype(np.int64)  # half pixels: whole numbers compare exactly
    following = dict(zip(map(tuple, keys[:, 0].tolist()), map(tuple, keys[:, 1].tolist()), strict=True))
    loops = []
    while following:
        first = next(iter(following))
        loop, point = [first], following.pop(first)
        while point != first:
            loop.append(point)
            point = following.pop(point)
        loops.append(_corners(np.array(loop)) / 2)
    return loops


def _corners(loop: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave out points on the straight line between their neighbours."""
    before, after = loop - np.roll(loop, 1, axis=0), np.roll(loop, -1, axis=0) - loop
    return loop[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
