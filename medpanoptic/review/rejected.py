"""Lesions that a signed version rejected: not in its result, but kept with it, so that a later version can bring them
back. ``rejected.json`` holds one entry a lesion, packed as in the journal.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from medpanoptic.errors import ReviewError
from medpanoptic.result import PanopticResult, count_ids
from medpanoptic.review.edit import Edit, edit_from_json, edit_to_json
from medpanoptic.review.live_map import LiveMap

REJECTED = "rejected.json"


def write_rejected(live: LiveMap, folder: Path) -> None:
    """Write the voxels and rows of the lesions that are rejected now; without any, no file."""
    found = []
    for segment_id in live.things:
        row = live.rows[segment_id]
        if row.segment.verdict == "rejected":
            at = live.flat(live.region(segment_id))
            ids = np.full(len(at), segment_id, np.int32)
            rows = {segment_id: None}, {segment_id: row}
            edit = Edit("rejected", segment_id, live.box(segment_id), at, np.zeros_like(ids), ids, *rows)
            found.append(edit_to_json(edit))
    if found:
        (folder / REJECTED).write_text(json.dumps(found, sort_keys=True) + "\n", encoding="utf-8")


def with_rejected(result: PanopticResult, folder: Path) -> PanopticResult:
    """Return a signed result with what it rejected back in its place, marked as rejected; no thing loses a voxel.

    folder : of the signed version. Raises ReviewError (REVIEW-TAMPERED) if its file cannot be read.
    """
    path = folder / REJECTED
    if not path.is_file():
        return result
    try:
        edits = [edit_from_json(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, ReviewError) as error:
        raise ReviewError("REVIEW-TAMPERED", f"signed version {folder.name}: {REJECTED} is damaged") from error
    ids = np.array(result.ids, np.int32, order="C")
    flat = ids.reshape(-1)
    things = [s.id for s in result.things]
    segments = {s.id: s for s in result.segments}
    for edit in edits:
        row = edit.rows_after[edit.segment]
        if row is not None and edit.segment not in segments:
            at = edit.at[~np.isin(flat[edit.at], things)]
            flat[at] = edit.segment
            segments[edit.segment] = row.segment
    present = count_ids(ids)  # tissue that a lesion covers whole is in the map no more
    return replace(result, ids=ids, segments=tuple(segments[i] for i in sorted(segments) if i in present))
