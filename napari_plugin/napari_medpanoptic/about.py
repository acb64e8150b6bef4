"""A lesion in words: measures, what the reader changed, why the fusion kept or dropped it. No Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medpanoptic.measure import Intensity, Measures, is_calibrated
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.review import LesionChange
from medpanoptic.review.regions import slices
from medpanoptic.review.worklist import axes_mm
from napari_medpanoptic.units import PIXELS, Unit, unit_of

if TYPE_CHECKING:
    from napari_medpanoptic.reading import Reading

_USUAL = 0.5  # what ``fusion.fuse`` takes where a run named no threshold


def about(reading: Reading) -> str:
    """Return what is known of the current lesion."""
    session, current = reading.session, reading.current
    if current is None:
        return ""
    row = session.row(current)
    measures, unit = session.measures(current), unit_of(session)
    lines = [f"Lesion {current}, {session.live.base.classes[row.segment.class_id].name}: "
             f"{why_kept(row.segment, session.model)}"]  # fmt: skip
    lines.append(f"{unit.axes(*axes_mm(session, current))} {unit.name}, {_amount(measures, unit)}")
    lines += [values_text(found) for found in measures.intensities]
    lines += [change_text(c) for c in reading.changes() if current in c.review_ids and c.relation != "unchanged"]
    return "\n".join(lines)


def _amount(measures: Measures, unit: Unit) -> str:
    if unit == PIXELS:
        return f"{measures.size} voxels"
    if measures.volume_mm3 is not None:
        return f"{measures.volume_mm3 / 1000:.2f} ml"
    return f"{unit.area(measures.area_mm2 or 0.0)} {unit.area_name}"


def values_text(found: Intensity) -> str:
    """Return the grey values of a lesion in words: mean, max and, of a PET, the peak."""
    values = {"mean": found.mean, "max": found.max, "peak": found.peak}
    text = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None)
    return f"{found.channel}: {text} {found.unit}".rstrip()


def why_kept(segment: Segment, model: PanopticResult) -> str:
    """Return the score beside the threshold of the run, and how much mirrored images disagreed."""
    if segment.origin == "added":
        return "added by the reader"
    threshold = _threshold(model, "score_threshold")
    text = f"score {segment.score:.2f}" + ("" if threshold is None else f", kept from {threshold:.2f} on")
    doubt = segment.uncertainty
    return text if doubt is None else f"{text}, mirrored images disagree by {doubt:.2f}"


def why_dropped(number: int, model: PanopticResult) -> str:
    """Return why candidate ``number`` of ``model.dropped`` is not in the result, with the figures that decided."""
    dropped = model.dropped[number]
    size = _size(number, model)
    if dropped.reason == "score":
        threshold = _threshold(model, "score_threshold")
        limit = "the threshold" if threshold is None else f"{threshold:.2f}"
        return f"score {dropped.score:.2f} is below {limit}; {size}"
    if dropped.reason == "overlap":
        limit_part = _threshold(model, "overlap_threshold")
        limit = "" if limit_part is None else f", at most {100 * limit_part:.0f} % may"
        part = _overlap(number, model)
        share = "too much" if np.isnan(part) else f"about {100 * part:.0f} %"
        return f"{share} of it lies in lesions with a higher score{limit}; {size}"
    if dropped.reason == "empty":
        return "its mask had no voxel"
    least = model.provenance.parameters.get("fusion", {}).get("min_thing_size")
    limit = "the smallest size allowed" if not least else f"{least} voxels of the network's grid"
    return f"what was left of it was smaller than {limit}; its mask: {size}"


def change_text(change: LesionChange) -> str:
    """Return a change against the model in words."""
    if change.relation in ("added", "removed"):
        return f"{change.relation} by the reader"
    return f"{change.relation} by the reader: Dice {change.dice:.2f}, volume {100 * change.volume_change:+.0f} %"


def _threshold(model: PanopticResult, name: str) -> float | None:
    """Return a threshold of the run; None where the result does not say how it was fused."""
    fusion = model.provenance.parameters.get("fusion")
    return None if fusion is None else float(fusion.get(name, _USUAL))


def _size(number: int, model: PanopticResult) -> str:
    mask = model.dropped[number].mask
    if mask is None:
        return "its mask is not stored"
    voxels = int(mask.sum())
    if not is_calibrated(model):
        return f"{voxels} voxels"
    size = voxels * model.voxel_size
    return f"{size / 1000:.2f} ml" if model.ndim == 3 else f"{size:.3g} mm²"


def _overlap(number: int, model: PanopticResult) -> float:
    """Return which part of a candidate lies in lesions of the result with its score or a higher one; NaN if unknown."""
    dropped = model.dropped[number]
    if dropped.mask is None or not dropped.mask.any():
        return float("nan")
    better = [s.id for s in model.things if s.score >= dropped.score]
    return float(np.isin(model.ids[slices(dropped.box)][dropped.mask], better).mean())
