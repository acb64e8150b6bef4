"""What a format cannot hold of a result, in words for the person who converts it."""

from __future__ import annotations

import numpy as np

from medpanoptic.geometry import spatial_affine, voxel_spacing
from medpanoptic.io.formats import FORMATS, HOLDABLE
from medpanoptic.measure import is_calibrated
from medpanoptic.result import PanopticResult


def losses(result: PanopticResult, format: str) -> tuple[str, ...]:
    """Return what ``result`` has and the format cannot hold, such as "scores" or "dropped candidates".

    Only what is there counts: a result without verdicts loses none. () where nothing is lost.
    """
    missing = _present(result) - FORMATS[format].holds
    return tuple(text for key, text in HOLDABLE.items() if key in missing)


def _present(result: PanopticResult) -> set[str]:
    """Return the keys of ``HOLDABLE`` that this result has something of."""
    made = result.provenance
    used = {s.class_id for s in result.segments}
    has = {
        "map": bool(result.segments),
        "ids": bool(result.segments),
        "classes": True,
        "codes": True,
        "colors": True,
        "unused": any(c.id not in used for c in result.classes),
        "scores": any(s.score != 1.0 for s in result.segments),
        "origin": any(s.origin != "predicted" for s in result.segments),
        "verdicts": any(s.verdict != "unread" for s in result.segments),
        "rejected": any(s.verdict == "rejected" for s in result.things),
        "tracking": any(s.tracking_uid for s in result.segments),
        "stuff": len(result.segments) > len(result.things),
        "under": result.stuff is not None,
        "dropped": bool(result.dropped),
        "affine": not _is_plain(result),
        "spacing": is_calibrated(result),
        "provenance": bool(made.bundle or made.bundle_version or made.weights_sha256 or made.created),
        "parameters": bool(set(made.parameters) - {"calibrated"}),
    }
    return {key for key, there in has.items() if there}


def _is_plain(result: PanopticResult) -> bool:
    """Tell whether the affine says no more than a pixel size."""
    return np.array_equal(result.affine, spatial_affine(voxel_spacing(result.affine, result.ndim)))
