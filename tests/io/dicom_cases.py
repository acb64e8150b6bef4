"""A DICOM series made by code, read by our reader, and a result on it with two lesions, one rejected, and stuff."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import add_suv_tags, axial_affine, write_enhanced, write_series

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.io.read import read_volume
from medpanoptic.result import PanopticResult, Provenance, Segment
from medpanoptic.volume import Volume

SHAPE = (9, 40, 36)
MORPH, TISSUE = Code("49755003", "SCT", "Morphologically Abnormal Structure"), Code("85756007", "SCT", "Tissue")
CLASSES = ClassTable(
    (
        ClassInfo(1, "tumour", True, (220, 60, 50), MORPH, Code("108369006", "SCT", "Neoplasm")),
        ClassInfo(
            2,
            "node",
            True,
            (60, 90, 220),
            MORPH,
            Code("30746006", "SCT", "Lymphadenopathy"),
            Code("59441001", "SCT", "Lymph node"),
        ),
        ClassInfo(
            3,
            "fat",
            False,
            (230, 200, 90),
            Code("85756007", "SCT", "Tissue"),
            Code("55603005", "SCT", "Adipose tissue"),
        ),
    )
)


def complete(index: int, dataset: Any) -> None:
    """Add what a scanner writes and the plain builders leave out."""
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientBirthDate, dataset.PatientSex = "19500101", "F"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20200101", "100000", "7", "A-1"
    dataset.SeriesDate, dataset.SeriesTime, dataset.SeriesNumber = "20200101", "110000", 3
    dataset.ReferringPhysicianName, dataset.Manufacturer = "Refer^R", "Scanner"
    dataset.PositionReferenceIndicator = ""
    if dataset.Modality == "PT":
        add_suv_tags(index, dataset)


def bright_lesions() -> np.ndarray:
    """Return (slice, row, column) int16: air -1000, a body of 40, a tumour of 150 and a hotter core."""
    values = np.full(SHAPE, -1000, np.int16)
    values[:, 4:36, 4:32] = 40
    values[lesion_ids() == 5] = 150
    values[4, 14, 13] = 300
    return values


def lesion_ids() -> np.ndarray:
    """Return (slice, row, column) int32: tumour 5 (an ellipsoid), tumour 6 (a box with a hole), fat 9, void outside."""
    ids = np.zeros(SHAPE, np.int32)
    ids[:, 4:36, 4:32] = 9
    index = np.indices(SHAPE) - np.array([4, 14, 13])[:, None, None, None]
    ids[np.einsum("i...,i->...", index**2, [1 / 9, 1 / 36, 1 / 64]) <= 1] = 5
    ids[2:5, 24:31, 20:28] = 6
    ids[2:5, 26:28, 23:25] = 9
    return ids


def dicom_case(folder: Path, modality: str = "CT", affine: np.ndarray | None = None, **changes: Any):
    """Return (result, volume): the series written to ``folder`` and read back, and a result that lies on it."""
    grid = axial_affine() if affine is None else affine
    write_series(folder, bright_lesions(), grid, modality, complete)
    return case_on(read_volume(folder), **changes)


def enhanced_case(folder: Path, **changes: Any):
    """Return (result, volume) on one multi-frame object."""
    write_enhanced(folder / "enhanced.dcm", bright_lesions(), axial_affine(), "CT")
    return case_on(read_volume(folder), **changes)


def case_on(volume: Volume, **changes: Any) -> tuple[PanopticResult, Volume]:
    fields: dict[str, Any] = {
        "ids": lesion_ids(),
        "segments": (Segment(9, 3), Segment(5, 1, 0.875), Segment(6, 1, 0.5, "added", "accepted", "2.25.77")),
        "classes": CLASSES,
        "affine": volume.affine,
        "source": volume.source,
        "provenance": Provenance("sarcoma", "1.0.0", "ab" * 32, "0.1.0"),
    }
    return PanopticResult(**{**fields, **changes}), volume


def nothing() -> dict[str, Any]:
    """Changes that leave a result with neither things nor stuff."""
    return {"ids": np.zeros(SHAPE, np.int32), "segments": ()}


def errors_of_dciodvfy(path: Path) -> list[str]:
    """Return the error lines of dciodvfy; the test is skipped where it is not installed."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian dicom3tools) is not installed")
    run = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=60, check=False)
    return re.findall(r"^Error.*", run.stdout + run.stderr, re.MULTILINE)


def dcmqi_tool(name: str) -> str:
    """Return the path of a program of dcmqi; the test is skipped where it is not installed."""
    spec = pytest.importorskip("dcmqi")
    path = Path(spec.__file__).parent / "bin" / name
    if not path.exists():
        pytest.skip("dcmqi has no binaries here")
    return str(path)
