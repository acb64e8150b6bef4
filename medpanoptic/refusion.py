"""From a stored prediction to a result on the image's own grid: the last steps of every run, and all of a re-fusion.

Loads torch for the fusion, and neither a network nor MONAI.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medpanoptic import __version__
from medpanoptic.errors import ResultError
from medpanoptic.fusion import DroppedInstance, Fused, Method, fuse
from medpanoptic.identity import array_digest, uid_from
from medpanoptic.io import read_result, read_study, write_result
from medpanoptic.native import Grids, smooth_ids
from medpanoptic.networks.outputs import Instances, Prediction
from medpanoptic.result import Dropped, PanopticResult, Segment
from medpanoptic.stages import Stages
from medpanoptic.stored import SCORE_FLOOR, StoredPrediction, read_prediction, write_prediction
from medpanoptic.volume import Source

if TYPE_CHECKING:
    from medpanoptic.volume import Volume


def fuse_case(
    case: str | Path,
    output: str | Path | None = None,
    *,
    score: float | None = None,
    overlap: float | None = None,
    method: Method | None = None,
    min_thing_mm: float | None = None,
    min_stuff_mm: float | None = None,
    formats: Sequence[str] | None = None,
    image: str | Path | Volume | None = None,
) -> PanopticResult:
    """Fuse the prediction that ``segment --keep-prediction`` left in a case folder again, with other settings.

    case : the result folder. output : the new one; None replaces the case's own, unless somebody has reviewed it.
    score, overlap : thresholds, see ``fusion.fuse``. min_thing_mm, min_stuff_mm : smallest sizes in mm2 or mm3.
    None keeps what the model's bundle says. formats : as for ``write_result``; None is nifti and csv, and png with an
    image. image : the image or study, which overlays and DICOM SEG need.
    The result is that of a full run with these settings.
    Raises ReadError: PREDICTION-MISSING, PREDICTION-DAMAGED; ResultError: FUSE-FLOOR, FUSE-REVIEWED; WriteError.
    """
    case = Path(case)
    stored = read_prediction(case)
    target = case if output is None else Path(output)
    if target.resolve() == case.resolve():
        _check_not_reviewed(case)
    volume = read_study(image) if isinstance(image, str | Path) else image
    result = fuse_prediction(
        stored,
        Source() if volume is None else volume.source,
        score_threshold=score,
        overlap_threshold=overlap,
        method=method,
        min_thing_mm=min_thing_mm,
        min_stuff_mm=min_stuff_mm,
    )
    usual = ["nifti", "csv", *(["png"] if volume is not None else [])]
    write_result(result, target, formats=usual if formats is None else formats, volume=volume)
    write_prediction(stored, target)
    return result


def _check_not_reviewed(case: Path) -> None:
    segments = read_result(case).segments
    if any(s.origin != "predicted" or s.verdict != "unread" for s in segments):
        raise ResultError("FUSE-REVIEWED", f"{case} was edited or reviewed; name another folder with --output")


def fuse_prediction(
    stored: StoredPrediction,
    source: Source | None = None,
    stages: Stages | None = None,
    device: torch.device | str = "cpu",
    **changes: Any,
) -> PanopticResult:
    """Fuse a prediction and bring it to the native grid.

    device : where the fusion runs; the way back to the native grid is on the CPU.
    changes : ``score_threshold``, ``overlap_threshold``, ``method``, ``min_thing_mm``, ``min_stuff_mm`` in place of the
    bundle's; None keeps it. Raises ResultError (FUSE-FLOOR); ModelError (FUSION-METHOD, FUSION-NAN).
    """
    arguments = stored.fusion_arguments(**changes)
    score = arguments.get("score_threshold", 0.5)
    if not SCORE_FLOOR <= score <= 1:
        raise ResultError("FUSE-FLOOR", f"a score threshold lies between {SCORE_FLOOR} and 1, got {score}")
    stages = stages or Stages()
    with stages("fusion"):
        fused = fuse(_prediction(stored, device), [c.is_thing for c in stored.classes], **arguments)
        fused = replace(fused, ids=fused.ids.cpu(), stuff=fused.stuff.cpu())
    parameters = {**stored.provenance.parameters, "fusion": arguments}
    provenance = replace(stored.provenance, medpanoptic_version=__version__, parameters=parameters)
    with stages("native"):
        return to_result(fused, replace(stored, provenance=provenance), source or Source())


def _prediction(stored: StoredPrediction, device: torch.device | str) -> Prediction:
    """Masks stay on the CPU: fusion moves them at once."""
    masks = tuple(torch.from_numpy(np.ascontiguousarray(m)) for m in stored.mask_logits)
    boxes, labels, scores = (torch.from_numpy(a) for a in (stored.boxes, stored.labels, stored.scores))
    return Prediction(torch.from_numpy(stored.semantic_logits).to(device), Instances(boxes, labels, scores, masks))


def to_result(fused: Fused, stored: StoredPrediction, source: Source) -> PanopticResult:
    """Bring a fused map to the native grid of ``stored``; its provenance becomes the result's."""
    classes = stored.classes.classes
    # -1, no stuff class, takes the last entry: void
    stuff_ids = np.array([*(c.id for c in classes), 0], np.uint8)[fused.stuff.numpy()]
    ids = fused.ids.numpy()
    grids = stored.grids if stored.resampled else None
    if grids is not None:
        ids = smooth_ids(ids, [s.id for s in fused.segments if classes[s.channel].is_thing], grids)
        stuff_ids = smooth_ids(stuff_ids.astype(np.int32), [], grids).astype(np.uint8)
    present = np.bincount(ids.ravel(), minlength=len(fused.segments) + 1) > 0
    present[0] = False
    kept = [s for s in fused.segments if present[s.id]]
    lost = [s for s in fused.segments if not present[s.id]]
    if lost:
        ids = np.where(present, np.cumsum(present), 0).astype(np.int32)[ids]
    dropped = [place_dropped(d, classes[d.channel].id, grids) for d in fused.dropped]
    dropped += [
        place_dropped(_as_dropped(fused, s.id, s.channel, s.score), classes[s.channel].id, grids)
        for s in lost
        if classes[s.channel].is_thing
    ]
    provenance = stored.provenance
    made_by = json.dumps(
        asdict(replace(provenance, parameters=dict(provenance.parameters))), sort_keys=True, default=str
    )
    key = (stored.input_key, made_by, array_digest(ids))
    doubt = _uncertainties(fused, stored)
    segments = tuple(
        Segment(
            i,
            classes[s.channel].id,
            s.score,
            tracking_uid=uid_from("tracking", *key, str(i)),
            uncertainty=doubt[s.id] if doubt is not None and classes[s.channel].is_thing else None,
        )
        for i, s in enumerate(kept, start=1)
    )
    return PanopticResult(
        ids, segments, stored.classes, stored.grids.affine, source, provenance, stuff_ids, tuple(dropped)
    )


def _uncertainties(fused: Fused, stored: StoredPrediction) -> list[float] | None:
    """Return the mean spread over the pixels of each id of the fused map, 0 for void; None without a spread."""
    if stored.spread is None:
        return None
    ids = fused.ids.numpy().ravel()
    counts = np.bincount(ids, minlength=len(fused.segments) + 1)
    sums = np.bincount(ids, stored.spread.ravel(), minlength=len(counts))
    return [round(float(v), 4) for v in sums / np.maximum(counts, 1)]


def place_dropped(dropped: DroppedInstance, class_id: int, grids: Grids | None) -> Dropped:
    """Bring what fusion dropped to the native grid; None where it is there already."""
    if grids is None:
        return Dropped(class_id, dropped.score, dropped.reason, dropped.box, dropped.mask)
    box = grids.native_box(dropped.box)
    return Dropped(class_id, dropped.score, dropped.reason, box, grids.native_mask(dropped.mask, dropped.box, box))


def _as_dropped(fused: Fused, segment_id: int, channel: int, score: float) -> DroppedInstance:
    """Describe a thing too small for any voxel of the native grid."""
    where = (fused.ids == segment_id).nonzero()
    start, stop = where.amin(0).tolist(), (where.amax(0) + 1).tolist()
    box = tuple(zip(start, stop, strict=True))
    mask = fused.ids[tuple(slice(a, b) for a, b in box)] == segment_id
    return DroppedInstance(channel, score, "area", box, mask.numpy())
