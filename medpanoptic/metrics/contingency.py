"""One pass over two id maps: which segments share how many pixels, n-D.

Memory: a block of pixels at a time and a table of the pairs that occur, never one mask per segment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import DataError

_BLOCK = 1 << 18  # pixels counted at a time
_MOST_CELLS = 1 << 20  # of a table to count into: above, sorting is cheaper


@dataclass(frozen=True, eq=False)
class Overlap:
    """All pairs of a predicted and a true segment that share pixels, and the size of every segment.

    pred, true : (P,) ids of each pair, never void. shared, union : (P,) pixel counts.
    pred_sizes, true_sizes : {id: pixels}; pred_in_void : {id: pixels of the prediction that lie in true void}.
    """

    pred: NDArray[np.int64]
    true: NDArray[np.int64]
    shared: NDArray[np.int64]
    union: NDArray[np.int64]
    pred_sizes: dict[int, int]
    true_sizes: dict[int, int]
    pred_in_void: dict[int, int]

    @property
    def iou(self) -> NDArray[np.float64]:
        """(P,) intersection over union; true void does not count."""
        return self.shared / self.union

    @property
    def full_iou(self) -> NDArray[np.float64]:
        """(P,) intersection over union with void as background, as in the Data Science Bowl."""
        sizes = [
            self.pred_sizes[p] + self.true_sizes[t] for p, t in zip(self.pred.tolist(), self.true.tolist(), strict=True)
        ]
        return self.shared / (np.array(sizes, np.int64) - self.shared)

    def in_void(self, pred_id: int) -> bool:
        """Tell whether more than half of a prediction lies where the truth is unknown."""
        return 2 * self.pred_in_void[pred_id] > self.pred_sizes[pred_id]


def overlap(pred_ids: NDArray[np.integer], true_ids: NDArray[np.integer], void: int | None = 0) -> Overlap:
    """Count shared pixels of two id maps (*S), any number of dimensions, in one pass.

    void : the id without a segment in both maps. True void was not annotated and is left out of unions. None: 0 has
    no segment either, but is annotated background, so that it stays in unions (a plain instance map).
    Raises DataError (METRIC-SHAPE) if the shapes differ.
    """
    if pred_ids.shape != true_ids.shape:
        raise DataError("METRIC-SHAPE", f"prediction {pred_ids.shape} and truth {true_ids.shape} differ in shape")
    rows, columns, counts, pred_values, true_values = _pairs(pred_ids.reshape(-1), true_ids.reshape(-1))
    pred, true = pred_values[rows], true_values[columns]
    pred_totals = np.bincount(rows, counts, len(pred_values)).astype(np.int64)
    true_totals = np.bincount(columns, counts, len(true_values)).astype(np.int64)
    empty = 0 if void is None else void
    left_out = counts * (true == empty) if void is not None else np.zeros_like(counts)
    in_void = np.bincount(rows, left_out, len(pred_values)).astype(np.int64)
    kept = (pred != empty) & (true != empty)
    rows, columns, shared = rows[kept], columns[kept], counts[kept]
    return Overlap(
        pred[kept],
        true[kept],
        shared,
        pred_totals[rows] + true_totals[columns] - shared - in_void[rows],
        _table(pred_values, pred_totals, empty),
        _table(true_values, true_totals, empty),
        _table(pred_values, in_void, empty),
    )


def _pairs(pred: NDArray[np.integer], true: NDArray[np.integer]) -> tuple[NDArray[np.int64], ...]:
    """Return row, column and pixel count of each pair of values that occurs, and the values of rows and columns."""
    # by blocks: what is counted stays in the cache, and a volume needs no copies of its own size
    starts = range(0, max(1, pred.size), _BLOCK)
    blocks = [_count_pairs(pred[i : i + _BLOCK], true[i : i + _BLOCK]) for i in starts]
    pred_found, true_found, counts = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    pred_values, rows = np.unique(pred_found, return_inverse=True)
    true_values, columns = np.unique(true_found, return_inverse=True)
    keys, index = np.unique(rows * len(true_values) + columns, return_inverse=True)
    totals = np.bincount(index, counts, len(keys)).astype(np.int64)
    return keys // len(true_values), keys % len(true_values), totals, pred_values, true_values


def _count_pairs(pred: NDArray[np.integer], true: NDArray[np.integer]) -> tuple[NDArray[np.int64], ...]:
    """Return the pairs of values (pred, true) of one block and how often each occurs."""
    if pred.size == 0:
        return (np.zeros(0, np.int64),) * 3
    pred_values, rows = _compact(pred)
    true_values, columns = _compact(true)
    width = len(true_values)
    keys = rows * width + columns
    if len(pred_values) * width <= _MOST_CELLS:
        table = np.bincount(keys, minlength=1)
        cells = np.flatnonzero(table)
        counts = table[cells]
    else:
        cells, counts = np.unique(keys, return_counts=True)
    return pred_values[cells // width], true_values[cells % width], counts


def _compact(ids: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted distinct ids of a block and, per pixel, the index into them."""
    low, high = int(ids.min()), int(ids.max())
    if high - low >= _MOST_CELLS:
        values, index = np.unique(ids, return_inverse=True)
        return values.astype(np.int64), index
    # counting is ten times faster than sorting
    shifted = ids.astype(np.int64) - low
    present = np.flatnonzero(np.bincount(shifted))
    lookup = np.zeros(high - low + 1, np.int64)
    lookup[present] = np.arange(len(present))
    return present + low, lookup[shifted]


def _table(values: NDArray[np.int64], counts: NDArray[np.int64], empty: int) -> dict[int, int]:
    return {int(v): int(n) for v, n in zip(values, counts, strict=True) if v != empty}
