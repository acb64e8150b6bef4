"""Read, correct, measure, sign: the review of a result, without a viewer. Start at ``ReviewSession.open``."""

from medpanoptic.review.case_files import Unsaved, check_signed, find_unsaved, signed_versions
from medpanoptic.review.compare import LesionChange, changed_voxels, compare
from medpanoptic.review.edit import Change, Edit, Row
from medpanoptic.review.follow_up import (
    Prior,
    carry_over,
    findings,
    latest_result,
    open_prior,
    prior_regions,
    propose,
    register_prior,
)
from medpanoptic.review.lesions_csv import save_lesions
from medpanoptic.review.regions import Region, polygon, region_of_indices, region_of_mask, stroke
from medpanoptic.review.session import ReviewSession
from medpanoptic.review.signing import sign
from medpanoptic.review.worklist import (
    filter_rows,
    next_row,
    progress,
    progress_text,
    sort_rows,
    update_rows,
    worklist,
)

__all__ = [
    "Change",
    "Edit",
    "LesionChange",
    "Prior",
    "Region",
    "ReviewSession",
    "Row",
    "Unsaved",
    "carry_over",
    "changed_voxels",
    "check_signed",
    "compare",
    "filter_rows",
    "find_unsaved",
    "findings",
    "latest_result",
    "next_row",
    "open_prior",
    "polygon",
    "prior_regions",
    "progress",
    "progress_text",
    "propose",
    "region_of_indices",
    "region_of_mask",
    "register_prior",
    "save_lesions",
    "sign",
    "signed_versions",
    "sort_rows",
    "stroke",
    "update_rows",
    "worklist",
]
