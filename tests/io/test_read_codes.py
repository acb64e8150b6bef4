"""Every code that the readers raise is explained in the docs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
READERS = ["dicom*", "files", "images", "itk", "limits", "nifti", "read", "resample", "study", "tiff"]


def test_every_code_is_in_the_conventions_page():
    sources = [p for name in READERS for p in (ROOT / "medpanoptic" / "io").glob(f"{name}.py") if p.stem != "dicom_seg"]
    text = "\n".join(p.read_text(encoding="utf-8") for p in sources)
    raised = set(re.findall(r"(?:Read|Geometry|Selection)Error\(\s*\"([A-Z0-9-]+)\"", text))
    assert len(raised) > 40
    page = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"[A-Z0-9]+(?:-[A-Z0-9]+)+|SHAPE|FORMAT", page))
    assert raised - listed == set()
