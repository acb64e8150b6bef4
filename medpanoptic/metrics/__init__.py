"""Panoptic quality and its kin: ``quality`` counts, ``truth`` reads annotated folders, ``evaluate`` compares."""

from __future__ import annotations

from medpanoptic.metrics.contingency import Overlap, overlap
from medpanoptic.metrics.evaluation import evaluate
from medpanoptic.metrics.quality import (
    AP_THRESHOLDS,
    PanopticQuality,
    average_precision,
    binary_quality,
    dice,
    mean_pq,
    panoptic_quality,
    pooled,
)

__all__ = [
    "AP_THRESHOLDS",
    "Overlap",
    "PanopticQuality",
    "average_precision",
    "binary_quality",
    "dice",
    "evaluate",
    "mean_pq",
    "overlap",
    "panoptic_quality",
    "pooled",
]
