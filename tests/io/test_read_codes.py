"""Every code that the readers raise is explained in the docs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
READERS = [
    "archive", "dicom", "dicom_files", "dicom_geometry", "dicom_header", "dicom_pet", "dicom_pixels", "dicom_series",
    "files", "images", "itk", "labels", "limits", "nifti", "read", "resample", "study", "tiff",
]  # fmt: skip


def test_every_code_is_in_the_conventions_page():
    sources = [ROOT / "medpanoptic" / "io" / f"{name}.py" for name in READERS]
    text = "\n".join(p.read_text(encoding="utf-8") for p in sources)
    raised = set(re.findall(r"(?:Read|Geometry|Selection)Error\(\s*\"([A-Z0-9-]+)\"", text))
    assert len(raised) > 40
    page = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"[A-Z0-9]+(?:-[A-Z0-9]+)+|SHAPE|FORMAT", page))
    assert raised - listed == set()
