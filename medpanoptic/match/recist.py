"""RECIST 1.1: target lesions, sum of diameters, response. Research use only: a radiologist decides.

Source: Eisenhauer et al. 2009, 10.1016/j.ejca.2008.10.026; numbers of sections are of that paper.
What it leaves open is as in the EORTC's RECIST 1.1 questions and clarifications: nodes are one organ; SD is what falls
short of PR against the baseline and of PD against the nadir.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medpanoptic.errors import ReviewError

Response = Literal["CR", "PR", "SD", "PD", "NE"]
NonTarget = Literal["CR", "non-CR/non-PD", "PD", "NE", "none"]

MEASURABLE_MM, MEASURABLE_NODE_MM = 10.0, 15.0  # 3.1.1
NORMAL_NODE_MM = 10.0  # 4.3.1: a node with a shorter short axis is not pathological
MOST_TARGETS, MOST_PER_ORGAN = 5, 2  # 4.2
TOO_SMALL_MM = 5.0  # 4.3.2: seen, but too small to measure
_PARTIAL, _PROGRESS, _PROGRESS_MM = 0.30, 0.20, 5.0  # 4.3.1
_EPSILON = 1e-9  # sums of decimal mm are not exact: 30 % of 50 mm must count as 30 %


@dataclass(frozen=True)
class Finding:
    """A lesion as RECIST sees it at one time.

    id : any number that stays over time. long_axis_mm, short_axis_mm : on the acquisition plane. organ : the reader's
    word; lymph nodes count as one organ, whatever is written. evaluable : False if it could not be seen well enough.
    """

    id: int
    organ: str
    is_node: bool
    long_axis_mm: float
    short_axis_mm: float
    evaluable: bool = True

    @property
    def diameter_mm(self) -> float:
        """The diameter that counts: the short axis of a node, the long axis of anything else (4.2)."""
        return self.short_axis_mm if self.is_node else self.long_axis_mm


def is_measurable(finding: Finding, slice_mm: float = 5.0) -> bool:
    """Tell whether a finding may be a target.

    slice_mm : distance of the slices; over 5 mm the least long axis is twice that (3.2.2, appendix II).
    """
    if finding.is_node:
        return finding.short_axis_mm >= MEASURABLE_NODE_MM - _EPSILON
    return finding.long_axis_mm >= max(MEASURABLE_MM, 2 * slice_mm if slice_mm > 5 else 0.0) - _EPSILON


def propose_targets(findings: Sequence[Finding], slice_mm: float = 5.0) -> list[int]:
    """Return the ids of up to five target lesions, two per organ, the largest first (4.2)."""
    chosen: list[int] = []
    per_organ: dict[str, int] = {}
    fit = [f for f in findings if f.evaluable and is_measurable(f, slice_mm)]
    for finding in sorted(fit, key=lambda f: (-f.diameter_mm, f.id)):
        organ = _organ(finding)
        if len(chosen) < MOST_TARGETS and per_organ.get(organ, 0) < MOST_PER_ORGAN:
            chosen.append(finding.id)
            per_organ[organ] = per_organ.get(organ, 0) + 1
    return chosen


def check_targets(targets: Sequence[Finding], slice_mm: float = 5.0) -> list[str]:
    """Return what is wrong with the targets that a reader chose at baseline, in words; empty if nothing is."""
    wrong = [f"lesion {f.id} is too small to be a target" for f in targets if not is_measurable(f, slice_mm)]
    if len(targets) > MOST_TARGETS:
        wrong.append(f"{len(targets)} targets; at most {MOST_TARGETS} are allowed")
    organs = [_organ(f) for f in targets]
    wrong += [f"{organs.count(o)} targets in one organ ({o or 'no organ named'}); at most {MOST_PER_ORGAN} are allowed"
              for o in dict.fromkeys(organs) if organs.count(o) > MOST_PER_ORGAN]  # fmt: skip
    return wrong


def _organ(finding: Finding) -> str:
    return "lymph node" if finding.is_node else finding.organ.strip().lower()


def sum_of_diameters(targets: Sequence[Finding]) -> float:
    """Return the sum in mm: long axes of lesions, short axes of nodes (4.2); NaN if one cannot be evaluated.

    A lesion that is gone counts 0 (leave it in, with diameters of 0); one that is seen but too small to measure counts
    5 mm, unless it was measured (4.3.2): give it ``TOO_SMALL_MM``.
    """
    if not all(f.evaluable for f in targets):
        return math.nan
    return float(sum(f.diameter_mm for f in targets))


def target_response(baseline: Sequence[Finding], earlier_sums: Sequence[float], current: Sequence[Finding]) -> Response:
    """Return the response of the target lesions (4.3.1).

    baseline, current : the same targets at both times. earlier_sums : sums of diameters (mm) of the times between;
    the smallest of these and of the baseline is the nadir.
    CR: all lesions are gone, and all nodes below 10 mm in short axis. PD: the sum is at least 20 % and 5 mm over the
    nadir. PR: at least 30 % below the baseline. NE: a target cannot be evaluated, unless the others alone make PD.
    Raises ReviewError (RECIST-TARGETS) if the targets of both times differ, or there are none.
    """
    if not baseline or {f.id for f in baseline} != {f.id for f in current}:
        raise ReviewError("RECIST-TARGETS", "both times need the same target lesions, one or more; a gone one has 0 mm")
    start = sum_of_diameters(baseline)
    nadir = min([start, *(s for s in earlier_sums if not math.isnan(s))])
    seen = sum_of_diameters([f for f in current if f.evaluable])
    grown = seen - nadir
    if grown >= _PROGRESS_MM - _EPSILON and grown >= _PROGRESS * nadir - _EPSILON:
        return "PD"
    if not all(f.evaluable for f in current):
        return "NE"
    if all(f.short_axis_mm < NORMAL_NODE_MM if f.is_node else f.diameter_mm == 0 for f in current):
        return "CR"
    return "PR" if start - seen >= _PARTIAL * start - _EPSILON else "SD"


def overall_response(target: Response, non_target: NonTarget, new_lesions: bool) -> Response:
    """Combine target lesions, non-target lesions and new lesions to the response at one time (table 1).

    non_target : "none" if there were none at baseline.
    """
    if target == "PD" or non_target == "PD" or new_lesions:
        return "PD"
    if target == "NE":
        return "NE"
    if target == "CR":
        return {"CR": "CR", "none": "CR", "non-CR/non-PD": "PR", "NE": "PR"}[non_target]  # type: ignore[return-value]
    return target
