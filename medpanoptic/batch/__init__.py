"""Many studies, unattended: scan, ledger, workers that may die, and a report. One call: ``run_batch``."""

from __future__ import annotations

from medpanoptic.batch.runner import run_batch
from medpanoptic.batch.settings import Limits, Summary

__all__ = ["Limits", "Summary", "run_batch"]
