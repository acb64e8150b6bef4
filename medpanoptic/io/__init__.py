"""Files in and out: volumes, studies, labels and results."""

from __future__ import annotations

from medpanoptic.io.formats import FORMATS
from medpanoptic.io.labels import read_labels
from medpanoptic.io.losses import losses
from medpanoptic.io.read import find_series, read_study, read_volume
from medpanoptic.io.report import inspect
from medpanoptic.io.result_reader import read_result
from medpanoptic.io.write import Conversion, convert, write_result

__all__ = [
    "FORMATS",
    "Conversion",
    "convert",
    "find_series",
    "inspect",
    "losses",
    "read_labels",
    "read_result",
    "read_study",
    "read_volume",
    "write_result",
]
