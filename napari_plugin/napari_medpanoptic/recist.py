"""RECIST 1.1 of a review and, where there is one, its prior case. No Qt; research use only: a radiologist decides.

Source: Eisenhauer et al. 2009, 10.1016/j.ejca.2008.10.026, sections 4.1 to 4.4.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medpanoptic.errors import MedpanopticError
from medpanoptic.io import read_study
from medpanoptic.match import (
    Finding,
    Link,
    Registration,
    check_targets,
    overall_response,
    propose_targets,
    sum_of_diameters,
    target_response,
)
from medpanoptic.match.recist import NonTarget
from medpanoptic.result import PanopticResult
from medpanoptic.review import ReviewSession, findings, register_prior, signed_versions
from medpanoptic.review.lesions_csv import WORKLIST
from medpanoptic.review.worklist import axes_mm
from medpanoptic.volume import Volume


@dataclass(frozen=True)
class Baseline:
    """The lesions of the prior case as RECIST saw them, and the ids of its targets."""

    findings: tuple[Finding, ...]
    targets: frozenset[int]


# what reading a prior case gives (its result, how it lies, its image, its RECIST findings), or why it did not
Found = tuple[PanopticResult, Registration, Volume | None, Baseline] | MedpanopticError


@dataclass(frozen=True)
class Evaluation:
    """rows : (target, organ, mm before, mm now) as text. Sums in mm, NaN without. response, overall : "" without a
    baseline. wrong : what the choice of targets breaks.
    """  # fmt: skip

    rows: tuple[tuple[str, str, str, str], ...] = ()
    before_mm: float = float("nan")
    now_mm: float = float("nan")
    response: str = ""
    overall: str = ""
    new: int = 0
    wrong: tuple[str, ...] = ()


def read_prior(case: Path, image: Path | None, current: Volume | None) -> Found:
    """Read a prior case and, with its study, register it to the current image."""
    # errors are returned, not raised: napari 0.9's own handler of a worker's errors fails on its argument
    try:
        volume = read_study(image) if image is not None else None
        result, registration = register_prior(case, volume, current)
        return result, registration, volume, baseline_of(case, result)
    except MedpanopticError as error:
        return error


def baseline_of(case: Path, result: PanopticResult) -> Baseline:
    """Return the findings of a prior case: its signed list, else the diameters worked out, which names no targets."""
    versions = signed_versions(case)
    if not versions:
        return Baseline(tuple(findings(ReviewSession(result))), frozenset())
    with (versions[-1] / WORKLIST).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] != "rejected" and row["long_axis_mm"]]
    found = tuple(
        Finding(
            int(row["id"]),
            row["organ"],
            row["is_node"] == "True",
            float(row["long_axis_mm"]),
            float(row["short_axis_mm"] or "nan"),
        )
        for row in rows
    )
    return Baseline(found, frozenset(int(row["id"]) for row in rows if row["is_target"] == "True"))


def finding(session: ReviewSession, segment_id: int) -> Finding:
    """Return one lesion as RECIST sees it now."""
    row = session.row(segment_id)
    return Finding(segment_id, row.organ, row.is_node, *axes_mm(session, segment_id))


def targets_of(session: ReviewSession) -> list[Finding]:
    """Return the targets that the reader chose, rejected ones left out."""
    if not session.calibrated:
        return []
    chosen = sorted(i for i, r in session.live.rows.items() if r.is_target and r.segment.verdict != "rejected")
    return [finding(session, i) for i in chosen]


def proposed(session: ReviewSession) -> list[int]:
    """Return the lesions that would be targets of a baseline."""
    return propose_targets(findings(session), slice_mm(session))


def slice_mm(session: ReviewSession) -> float:
    """Return the distance of the slices, which says how large a target must be."""
    return float(np.linalg.norm(session.affine[:3, 0])) if session.ids.ndim == 3 else 0.0


def evaluate(
    session: ReviewSession,
    baseline: Baseline | None = None,
    links: Sequence[Link] = (),
    between: Sequence[float] = (),
    non_target: NonTarget = "none",
) -> Evaluation:
    """Return sums and response; without targets of a prior case, those of the review alone, as at a baseline.

    between : sums of diameters (mm) of the times between. non_target : the reader's judgement of the other lesions.
    """
    new = sum(link.relation == "new" for link in links)
    before = [f for f in baseline.findings if f.id in baseline.targets] if baseline is not None else []
    if not before:
        now = targets_of(session)
        rows = tuple((str(f.id), _place(f), "", f"{f.diameter_mm:.1f}") for f in now)
        total = sum_of_diameters(now) if now else float("nan")
        return Evaluation(rows, now_mm=total, new=new, wrong=tuple(check_targets(now, slice_mm(session))))
    after = followed(session, before, links)
    rows = tuple(
        (str(a.id), _place(a), f"{a.diameter_mm:.1f}", f"{b.diameter_mm:.1f}" if b.evaluable else "not seen")
        for a, b in zip(before, after, strict=True)
    )
    response = target_response(before, between, after)
    overall = overall_response(response, non_target, new > 0)
    return Evaluation(rows, sum_of_diameters(before), sum_of_diameters(after), response, overall, new)


def followed(session: ReviewSession, before: Sequence[Finding], links: Sequence[Link]) -> list[Finding]:
    """Return the targets of the prior time as they are now, under their prior ids.

    Gone: 0 mm. In pieces: the sum of the pieces. Grown together: the first target has the whole, the others 0 mm
    (appendix II of the paper). In no link, or without a pixel size: not evaluable.
    """
    link_of: Mapping[int, Link] = {i: link for link in links for i in link.prior_ids}
    counted: set[int] = set()
    now = []
    for target in before:
        link = link_of.get(target.id)
        if link is None or not session.calibrated:
            now.append(Finding(target.id, target.organ, target.is_node, 0.0, 0.0, evaluable=False))
            continue
        here = [i for i in link.current_ids if i in session.things and session.row(i).segment.verdict != "rejected"]
        fresh = [i for i in here if i not in counted]
        counted |= set(fresh)
        axes = [axes_mm(session, i) for i in fresh]
        long_mm, short_mm = (float(sum(pair[k] for pair in axes)) for k in (0, 1))
        now.append(Finding(target.id, target.organ, target.is_node, long_mm, short_mm))
    return now


def _place(found: Finding) -> str:
    return "lymph node" if found.is_node else found.organ
