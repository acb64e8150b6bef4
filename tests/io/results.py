"""Small results with awkward ids, void, stuff under things and dropped candidates, for the tests of formats."""

from __future__ import annotations

from typing import Any

import numpy as np

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.geometry import spatial_affine
from medpanoptic.result import Dropped, PanopticResult, Provenance, Segment
from medpanoptic.volume import Channel, Source, Volume

MORPH, TISSUE = Code("49755003", "SCT", "Morphologically Abnormal Structure"), Code("85756007", "SCT", "Tissue")
CLASSES = ClassTable(
    (
        ClassInfo(1, "lesion", True, (220, 60, 50), MORPH, Code("52988006", "SCT", "Lesion")),
        ClassInfo(7, "Gewebe µ", False, (90, 160, 90), TISSUE, Code("85756007", "SCT", "Tissue")),
    )
)
SHEARED = np.array([[0.0, 0.1, 0.7, -5], [0.3, 0.9, 0, 6], [-2.5, 0, 0, 7], [0, 0, 0, 1]])


def make(ndim: int = 2, **changes: Any) -> PanopticResult:
    """Things 3 and 300 on stuff 9, void elsewhere; ids with gaps."""
    shape = (8, 10) if ndim == 2 else (4, 8, 10)
    ids = np.zeros(shape, np.int32)
    ids[..., :6, :] = 9
    ids[..., 1:3, 2:5] = 3
    ids[..., 4:8, 6:8] = 300
    stuff = np.where(ids > 0, 7, 0).astype(np.uint8)
    fields: dict[str, Any] = {
        "ids": ids,
        "segments": (
            Segment(3, 1, 0.1 + 0.2, "edited", "accepted", "2.25.1"),
            Segment(9, 7),
            Segment(300, 1, 1 / 3),
        ),
        "classes": CLASSES,
        "affine": spatial_affine((0.5, 0.25)) if ndim == 2 else SHEARED,
        "source": Source("1.2.840.1", "1.2.840.2", "1.2.840.3", ("1.2.840.4",), ()),
        "provenance": Provenance(
            "b", "1", "f" * 64, "0.1.0", "", {"threshold": 0.5, "sizes": [1, 2], "nested": {"a": None}}
        ),
        "stuff": stuff,
        "dropped": (Dropped(1, 0.2, "score", tuple((0, n) for n in shape), np.ones(shape, bool)),),
    }
    return PanopticResult(**{**fields, **changes})


def image_of(result: PanopticResult) -> Volume:
    """Return an image on the result's grid, without a source."""
    values = np.arange(result.ids.size).reshape(1, *result.ids.shape).astype(np.int16)
    return Volume(values, result.affine, (Channel("ct", "CT", "HU"),))


def assert_same(a: PanopticResult, b: PanopticResult) -> None:
    """Check that two results agree in all that a result folder holds."""
    assert np.array_equal(a.ids, b.ids)
    assert a.ids.dtype == b.ids.dtype
    assert (a.segments, a.classes, a.provenance) == (b.segments, b.classes, b.provenance)
    assert np.array_equal(a.affine, b.affine)
    assert (a.stuff is None) == (b.stuff is None)
    assert a.stuff is None or (np.array_equal(a.stuff, b.stuff) and b.stuff.dtype == np.uint8)
    rows = [[(d.class_id, d.score, d.reason, d.box) for d in r.dropped] for r in (a, b)]
    assert rows[0] == rows[1]
