"""Every DICOM object that this program writes, made once each: what validators and a real server are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dicom_cases import dicom_case, nothing
from results import CLASSES
from slides import pattern, write_slide

from medpanoptic.io import FORMATS, read_volume, write_result
from medpanoptic.result import PanopticResult, Provenance, Segment

# a new format that writes DICOM is in the tests as soon as it has a row
DICOM_FORMATS = [name for name in FORMATS if name.startswith("dicom-") or name == "rtstruct"]


def dicom_objects(name: str, folder: Path, *, empty: bool = False) -> list[Path]:
    """Write the objects of one format: of a CT with two lesions, or of a slide with two cells; empty: none found."""
    result, volume = _on_slide(folder) if 3 not in FORMATS[name].ndims else dicom_case(folder / "in")
    if empty and volume.ndim == 3:
        result, volume = dicom_case(folder / "none", **nothing())
    files = write_result(result, folder / "out", formats=(name,), volume=volume)[name]
    return [path for path in files if path.suffix == ".dcm"]


def _on_slide(folder: Path):
    volume = read_volume(write_slide(folder / "slide" / "a.dcm", pattern()))
    ids = np.zeros(volume.shape, np.int32)
    ids[1:3, 2:5], ids[5:9, 6:11] = 3, 300
    segments = (Segment(3, 1, 0.25), Segment(300, 1, 0.5))
    made = Provenance("nuclei", "1.0", "ab" * 32, "0.1.0")
    return PanopticResult(ids, segments, CLASSES, volume.affine, volume.source, made), volume
