"""A review beside a prior case of the same patient: proposals, RECIST findings, and what carries on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from scipy import ndimage

from medpanoptic.geometry import Affine, same_grid, to_index
from medpanoptic.io import read_result
from medpanoptic.match import Finding, FollowUp, Registration, lesions_of, match_lesions, register
from medpanoptic.result import PanopticResult
from medpanoptic.review.case_files import check_signed, signed_versions
from medpanoptic.review.edit import Edit
from medpanoptic.review.regions import Region, slices
from medpanoptic.review.session import ReviewSession
from medpanoptic.review.worklist import axes_mm
from medpanoptic.volume import Source, Volume


@dataclass(frozen=True, eq=False)
class Prior:
    """A prior case: its last signed result (else the model's), how it lies over the current one, and the proposals."""

    result: PanopticResult
    registration: Registration
    follow_up: FollowUp


def latest_result(case: Path | str) -> PanopticResult:
    """Return the last signed version of a case, checked, or the model's result. Raises as ``ReviewSession.open``."""
    versions = signed_versions(case)
    if versions:
        check_signed(versions[-1])
    return read_result(versions[-1] if versions else Path(case))


def open_prior(
    session: ReviewSession, case: Path | str, volume: Volume | None = None, *, days: float | None = None
) -> Prior:
    """Read a prior case and propose pairs with the lesions of the session.

    volume : the prior image. Without it, or without the current one, both results are taken to lie in one space.
    days : between the studies; None looks into the DICOM headers of both (the dates are used, and not kept).
    Raises ReadError; ReviewError: REVIEW-TAMPERED and those of ``register``.
    """
    return propose(session, *register_prior(case, volume, session.volume), volume, days=days)


def register_prior(
    case: Path | str, volume: Volume | None, current: Volume | None
) -> tuple[PanopticResult, Registration]:
    """Read a prior case and find how it lies over the current image: the slow half of ``open_prior``, free of the
    session, so that another thread can do it.
    """
    result = latest_result(case)
    if volume is None or current is None or _one_image(volume, current):
        return result, Registration(np.eye(4), "frame")
    return result, register(volume, current)


def propose(
    session: ReviewSession,
    result: PanopticResult,
    registration: Registration,
    volume: Volume | None = None,
    *,
    days: float | None = None,
) -> Prior:
    """Propose pairs between a prior result and the lesions of the session as they are now; see ``open_prior``."""
    source = volume.source if volume is not None else None
    if days is None and source is not None and session.volume is not None:
        days = days_between(source, session.volume.source)
    current = lesions_of(session.freeze())
    return Prior(result, registration, match_lesions(lesions_of(result, source), current, registration, days=days))


def prior_regions(prior: Prior, affine: Affine, shape: tuple[int, ...]) -> dict[int, Region]:
    """Return {id: region} of the lesions of a prior case on the grid of the current study, by nearest voxels.

    affine, shape : of the current result. Each region is the lesion as it was drawn then, moved as its study was
    registered; what lies outside the grid is cut off, a lesion that lies outside as a whole left out. One that falls
    between the voxels of a coarser grid keeps the one nearest to its middle.
    """
    ndim, result = len(shape), prior.result
    to_current = np.linalg.inv(affine) @ prior.registration.matrix @ result.affine
    to_prior = np.linalg.inv(to_current)
    turn = to_prior[:ndim, :ndim]
    found = {}
    for lesion in prior.follow_up.prior:
        box = result.boxes[lesion.id]
        corners = np.array(list(itertools.product(*box)), float) - 0.5
        ends = corners @ to_current[:ndim, :ndim].T + to_current[:ndim, 3]
        low = np.clip(np.floor(ends.min(axis=0)).astype(int), 0, shape)
        high = np.clip(np.ceil(ends.max(axis=0)).astype(int) + 1, 0, shape)
        if (high <= low).any():
            continue
        # a rim, since what lies beyond the outermost middles would count as outside
        crop = np.pad(result.ids[slices(box)] == lesion.id, 1).astype(np.uint8)
        offset = turn @ low + to_prior[:ndim, 3] - [start - 1 for start, _ in box]
        mask = ndimage.affine_transform(crop, turn, offset, tuple(high - low), order=0) > 0
        if not mask.any():
            middle = np.rint(to_index([lesion.centroid_mm], affine, ndim)[0]).astype(int) - low
            if (middle < 0).any() or (middle >= mask.shape).any():
                continue
            mask[tuple(middle)] = True
        found[lesion.id] = Region(tuple(zip(low.tolist(), high.tolist(), strict=True)), mask)
    return found


def carry_over(session: ReviewSession, follow_up: FollowUp) -> list[Edit]:
    """Give the lesions of confirmed links the tracking UIDs of the prior ones; each is an edit that can be undone."""
    wanted = follow_up.tracking_uids()
    made = [session.match(i, uid) for i, uid in wanted.items() if i in session.things]
    return [edit for edit in made if edit is not None]


def findings(session: ReviewSession) -> list[Finding]:
    """Return the lesions as RECIST sees them, rejected ones left out; diameters the reader drew count before others.

    Empty where no pixel size is known.
    """
    if not session.calibrated:
        return []
    rows = {i: session.row(i) for i in session.things}
    kept = [i for i, row in rows.items() if row.segment.verdict != "rejected"]
    return [Finding(i, rows[i].organ, rows[i].is_node, *axes_mm(session, i)) for i in kept]


def days_between(prior: Source, current: Source) -> float | None:
    """Return the days from one DICOM series to another by their acquisition, series or study dates; None if unknown."""
    dates = _date(prior), _date(current)
    return None if dates[0] is None or dates[1] is None else float((dates[1] - dates[0]).days)


def _date(source: Source) -> datetime | None:
    # pydicom comes with it
    from medpanoptic.io.dicom_files import header_if_dicom

    header = header_if_dicom(source.paths[0]) if source.paths else None
    if header is None:
        return None
    for keyword in ("AcquisitionDate", "SeriesDate", "StudyDate"):
        try:
            return datetime.strptime(str(header.get(keyword, "")), "%Y%m%d")
        except ValueError:
            continue
    return None


def _one_image(a: Volume, b: Volume) -> bool:
    return a is b or (
        a.source.series_uid == b.source.series_uid != "" and same_grid(a.affine, b.affine, a.shape, b.shape)
    )
