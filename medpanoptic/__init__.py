"""Panoptic segmentation of medical images. Research use only, not a medical device."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> module; loaded on first use, so that ``medpanoptic --help`` and readers never wait for torch
_EXPORTS = {
    "ClassInfo": "classes",
    "ClassTable": "classes",
    "Code": "classes",
    "MedpanopticError": "errors",
    "PanopticResult": "result",
    "Segment": "result",
    "Segmenter": "segmenter",
    "Volume": "volume",
    "evaluate": "metrics",
    "fuse_case": "refusion",
    "read_result": "io",
    "read_study": "io",
    "read_volume": "io",
    "segment_file": "segmenter",
    "write_result": "io",
}
__all__ = sorted([*_EXPORTS, "__version__"])

if TYPE_CHECKING:
    from medpanoptic.classes import ClassInfo, ClassTable, Code
    from medpanoptic.errors import MedpanopticError
    from medpanoptic.io import read_result, read_study, read_volume, write_result
    from medpanoptic.metrics import evaluate
    from medpanoptic.refusion import fuse_case
    from medpanoptic.result import PanopticResult, Segment
    from medpanoptic.segmenter import Segmenter, segment_file
    from medpanoptic.volume import Volume


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"medpanoptic.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'medpanoptic' has no attribute {name!r}")
