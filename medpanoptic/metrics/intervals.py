"""Bootstrap intervals: cases are drawn again with replacement, because instances of one case are not independent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
_PARTS = (2.5, 97.5)


def resample(cases: int, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """Return (resamples, cases) how often each case is drawn; the same for the same seed.

    Source: Efron 1979. One draw serves all figures, so that means over classes are drawn together.
    """
    generator = np.random.default_rng(seed)
    return generator.multinomial(cases, np.full(cases, 1 / cases), size=resamples).astype(float)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of resampled figures, NaN left out; NaN if none is left."""
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(known, _PARTS, method="nearest")  # no mean of a number and infinity
    return float(low), float(high)


def means(draws: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (resamples,) the mean of (cases,) values in each draw; NaN cases are left out."""
    known = np.isfinite(values)
    weights = draws[:, known].sum(1)
    sums = draws[:, known] @ values[known]
    return np.divide(sums, weights, out=np.full(len(draws), np.nan), where=weights > 0)


def medians(draws: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (resamples,) the median of (cases,) values in each draw; NaN cases are left out, infinite ones count."""
    known = ~np.isnan(values)
    found = np.full(len(draws), np.nan)
    for i, row in enumerate(draws[:, known].astype(int)):
        if row.any():
            found[i] = np.median(np.repeat(values[known], row))
    return found
