"""DICOM Segmentation."""

from __future__ import annotations

from pathlib import Path

from medpanoptic.errors import WriteError
from medpanoptic.result import PanopticResult
from medpanoptic.volume import Volume


def write_dicom_seg(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write seg.dcm."""
    raise WriteError("FORMAT-NEEDS-DICOM", "dicom-seg needs the DICOM slices that the result was made from")
