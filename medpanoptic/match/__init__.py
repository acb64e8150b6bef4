"""Lesions of two time points: registration, pairs, growth, RECIST 1.1."""

from medpanoptic.match.growth import doubling_time_days
from medpanoptic.match.pairs import FollowUp, Lesion, Link, lesions_of, match_lesions
from medpanoptic.match.recist import (
    Finding,
    check_targets,
    is_measurable,
    overall_response,
    propose_targets,
    sum_of_diameters,
    target_response,
)
from medpanoptic.match.registration import Registration, register

__all__ = [
    "Finding",
    "FollowUp",
    "Lesion",
    "Link",
    "Registration",
    "check_targets",
    "doubling_time_days",
    "is_measurable",
    "lesions_of",
    "match_lesions",
    "overall_response",
    "propose_targets",
    "register",
    "sum_of_diameters",
    "target_response",
]
