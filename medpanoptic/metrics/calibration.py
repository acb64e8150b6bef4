"""Are scores what they say: of the instances with score 0.8, are 80 % right?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medpanoptic.errors import DataError


@dataclass(frozen=True, eq=False)
class Calibration:
    """A reliability table over equal bins of [0, 1], the last one closed.

    edges : (B + 1,). n : (B,) instances. score : (B,) their mean score. right : (B,) the part of them that is right;
    both NaN in an empty bin. ece : expected calibration error, sum of n / N * |right - score|; NaN without instances.
    """

    edges: NDArray[np.float64]
    n: NDArray[np.int64]
    score: NDArray[np.float64]
    right: NDArray[np.float64]

    @property
    def ece(self) -> float:
        """Expected calibration error in [0, 1]."""
        filled = self.n > 0
        if not filled.any():
            return float("nan")
        return float(np.average(np.abs(self.right - self.score)[filled], weights=self.n[filled]))


def calibration(scores: ArrayLike, right: ArrayLike, bins: int = 10) -> Calibration:
    """Compare scores (N,) in [0, 1] with what became of the instances: right (N,) bool, IoU > 0.5 with its class.

    Raises DataError (METRIC-SCORE) for scores outside [0, 1] or another number of outcomes.
    Source: Guo et al., On calibration of modern neural networks, ICML 2017, equations 2 to 5.
    """
    values, hits = np.asarray(scores, float).ravel(), np.asarray(right, bool).ravel()
    if len(values) != len(hits) or not ((values >= 0) & (values <= 1)).all():
        raise DataError("METRIC-SCORE", f"{len(values)} scores for {len(hits)} outcomes; scores lie in [0, 1]")
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    n = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, w, bins) for w in (values, hits)]
    score, part = (np.divide(s, n, out=np.full(bins, np.nan), where=n > 0) for s in sums)
    return Calibration(edges, n, score, part)


def fit_calibration(scores: ArrayLike, right: ArrayLike) -> tuple[float, float]:
    """Return slope and intercept on the scores' log-odds that make them probabilities of being right.

    scores (N,) in [0, 1], right (N,) bool; both outcomes must occur. The slope is at least 0.05: the order stays.
    Raises DataError (METRIC-SCORE) where one outcome is missing. Source: Platt 1999, equation 1, by likelihood.
    """
    from scipy.optimize import minimize

    values, hits = np.clip(np.asarray(scores, float).ravel(), 1e-9, 1 - 1e-9), np.asarray(right, bool).ravel()
    if len(values) != len(hits) or not (hits.any() and not hits.all()):
        raise DataError("METRIC-SCORE", f"{len(values)} scores with {int(hits.sum())} right: both outcomes must occur")
    odds, sign = np.log(values / (1 - values)), np.where(hits, 1.0, -1.0)

    def loss(parameters: NDArray[np.float64]) -> float:
        return float(np.logaddexp(0, -sign * (parameters[0] * odds + parameters[1])).mean())

    found = minimize(loss, np.array([1.0, 0.0]), method="L-BFGS-B", bounds=[(0.05, None), (None, None)])
    return float(found.x[0]), float(found.x[1])
