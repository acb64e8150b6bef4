"""The model's probability of a class, out of the prediction that ``segment --keep-prediction`` left in a case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpanoptic.native import Grids
from medpanoptic.stored import FILE, StoredPrediction, read_prediction


class ProbabilityMap:
    """Probability of one class on the network's grid, taken on the image's grid a box at a time.

    values : (*S') float32, 0 to 1. shape : S of the image.
    """

    def __init__(self, values: NDArray[np.float32], grids: Grids) -> None:
        self.values, self.grids, self.shape = values, grids, grids.shape

    def __getitem__(self, where: tuple[slice, ...]) -> NDArray[np.float32]:
        """Return the box ``where`` (native slices with start and stop) by linear interpolation."""
        start = np.array([s.start for s in where])
        size = tuple(int(s.stop - s.start) for s in where)
        offset = self.grids.matrix @ start + self.grids.shift
        found: NDArray[np.float32] = ndimage.affine_transform(
            self.values, self.grids.matrix, offset, size, order=1, mode="nearest", prefilter=False
        )
        return found


class StoredProbability(Mapping[int, ProbabilityMap]):
    """{class id: map} of a case with a kept prediction, empty without one; the file is read when a map is asked for.

    Raises ReadError (PREDICTION-DAMAGED) then.
    """

    def __init__(self, case: Path) -> None:
        self.case = case
        self._there = (case / FILE).is_file()
        self._stored: StoredPrediction | None = None
        self._maps: dict[int, ProbabilityMap] = {}

    def __len__(self) -> int:
        return len(self._read().classes.classes) if self._there else 0

    def __iter__(self) -> Iterator[int]:
        return iter([c.id for c in self._read().classes.classes] if self._there else [])

    def __getitem__(self, class_id: int) -> ProbabilityMap:
        if class_id not in self._maps:
            channel = list(self).index(class_id) if class_id in list(self) else -1
            if channel < 0:
                raise KeyError(class_id)
            stored = self._read()
            self._maps[class_id] = ProbabilityMap(softmax(stored.semantic_logits, channel), stored.grids)
        return self._maps[class_id]

    def _read(self) -> StoredPrediction:
        if self._stored is None:
            self._stored = read_prediction(self.case)
        return self._stored


def softmax(logits: NDArray[np.float16], channel: int) -> NDArray[np.float32]:
    """Return (*S') float32, the probability of a channel of (K, *S') logits, with the memory of a few channels."""
    top = logits.max(axis=0).astype(np.float32)
    total = np.zeros_like(top)
    for each in logits:
        total += np.exp(each.astype(np.float32) - top)
    found: NDArray[np.float32] = np.exp(logits[channel].astype(np.float32) - top) / total
    return found
