"""How a lesion grew between two times."""

from __future__ import annotations

import math

from medpanoptic.errors import ReviewError


def doubling_time_days(prior_mm3: float, current_mm3: float, days: float) -> float:
    """Return the volume doubling time: days * ln 2 / ln(current / prior).

    Negative for a lesion that shrinks (it halves in that time), infinite for one that stays.
    Raises ReviewError (MATCH-GROWTH) if a volume or the time is not above 0.
    Source: Schwartz 1961, A biomathematical approach to clinical tumor growth, Cancer 14.
    """
    if not (prior_mm3 > 0 and current_mm3 > 0 and days > 0):
        raise ReviewError("MATCH-GROWTH", "a doubling time needs two volumes and a time between them, all above 0")
    logarithm = math.log(current_mm3 / prior_mm3)
    return math.inf if abs(logarithm) < 1e-12 else days * math.log(2) / logarithm
