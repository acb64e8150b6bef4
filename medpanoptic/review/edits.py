"""The corrections: each looks at a LiveMap and returns the Edit that does it. Nothing here changes anything.

Things that were not asked for never lose a voxel, unless the reader rejected them. Tissue under a new voxel gives way;
a voxel that is taken away goes back to the tissue below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import ReviewError
from medpanoptic.result import Dropped, Segment, Verdict
from medpanoptic.review.edit import Edit, Row
from medpanoptic.review.live_map import LiveMap
from medpanoptic.review.regions import Region

# id -> tracking UID of a new lesion
MakeUid = Callable[[int], str]


def paint(live: LiveMap, segment_id: int, region: Region) -> Edit:
    """Add a region to a lesion."""
    live.thing(segment_id)
    return live.make_edit("paint", segment_id, live.free_for(segment_id, live.flat(region)), segment_id)


def erase(live: LiveMap, segment_id: int, region: Region) -> Edit:
    """Take a region from a lesion; without a voxel left, the lesion is gone."""
    live.thing(segment_id)
    at = live.flat(region)
    at = at[live.ids_at(at) == segment_id]
    return live.make_edit("erase", segment_id, at, live.tissue_ids(at))


def reshape(live: LiveMap, segment_id: int, region: Region, action: str) -> Edit:
    """Make a lesion the voxels of ``region``, as far as they are free, and give back its others."""
    live.thing(segment_id)
    wanted = live.free_for(segment_id, live.flat(region))
    lost = np.setdiff1d(live.flat(live.region(segment_id)), wanted, assume_unique=True)
    at = np.concatenate([wanted, lost])
    after = np.concatenate([np.full(len(wanted), segment_id, np.int32), live.tissue_ids(lost)])
    order = np.argsort(at, kind="stable")
    return live.make_edit(action, segment_id, at[order], after[order])


def merge(live: LiveMap, segment_ids: Sequence[int]) -> Edit:
    """Join lesions; the first keeps its id, class, verdict and tracking UID. Raises ReviewError (REVIEW-MERGE)."""
    ids = list(dict.fromkeys(segment_ids))
    if len(ids) < 2:
        raise ReviewError("REVIEW-MERGE", "a merge needs two or more different lesions")
    for segment_id in ids:
        live.thing(segment_id)
    at = np.sort(np.concatenate([live.flat(live.region(i)) for i in ids[1:]]))
    return live.make_edit("merge", ids[0], at, ids[0])


def split(live: LiveMap, segment_id: int, labels: NDArray[np.int32], make_uid: MakeUid) -> Edit:
    """Cut a lesion along ``labels``, 1..k in its box. The largest part keeps id and UID, the others are new."""
    row = live.thing(segment_id)
    box = live.box(segment_id)
    sizes = np.bincount(labels.ravel())
    keep = int(np.argmax(sizes[1:])) + 1
    rows: dict[int, Row | None] = {segment_id: _edited(row)}
    new_ids = np.zeros(len(sizes), np.int32)
    for number in range(1, len(sizes)):
        if number == keep or not sizes[number]:
            continue
        new_ids[number] = live.new_id()
        new_id = int(new_ids[number])
        segment = replace(row.segment, id=new_id, origin=_edited(row).segment.origin, tracking_uid=make_uid(new_id))
        rows[new_id] = Row(segment, organ=row.organ, is_node=row.is_node)
    new_ids[keep] = segment_id
    whole = Region(box, labels > 0)
    return live.make_edit("split", segment_id, live.flat(whole), new_ids[labels[labels > 0]], rows)


def relabel(live: LiveMap, segment_id: int, class_id: int) -> Edit:
    """Give a lesion another class. Raises ReviewError (REVIEW-CLASS) if it is not one of things."""
    row = live.thing(segment_id)
    _check_class(live, class_id)
    changed = replace(_edited(row), segment=replace(_edited(row).segment, class_id=class_id))
    return live.make_edit(
        "relabel", segment_id, rows={segment_id: row if row.segment.class_id == class_id else changed}
    )


def delete(live: LiveMap, segment_id: int) -> Edit:
    """Take a lesion out of map and table; one that the reader holds for wrong is better rejected: it stays listed."""
    live.thing(segment_id)
    at = live.flat(live.region(segment_id))
    return live.make_edit("delete", segment_id, at, live.tissue_ids(at))


def add(live: LiveMap, region: Region, class_id: int, make_uid: MakeUid) -> Edit:
    """Make a region, as far as it is free, a new lesion, accepted since the reader drew it.

    Raises ReviewError: REVIEW-CLASS; REVIEW-FREE if other lesions hold every voxel of the region.
    """
    _check_class(live, class_id)
    new_id = live.new_id()
    segment = Segment(new_id, class_id, origin="added", verdict="accepted", tracking_uid=make_uid(new_id))
    return _place(live, "add", Row(segment), region)


def take_in(live: LiveMap, number: int, dropped: Dropped, make_uid: MakeUid) -> Edit:
    """Make a candidate that fusion dropped a lesion, accepted since the reader took it in.

    number : its place in the result's ``dropped``. Raises ReviewError: REVIEW-FREE; REVIEW-DROPPED if it is in already
    or its mask is not known.
    """
    if any(row.taken_in == number for row in live.rows.values()):
        raise ReviewError("REVIEW-DROPPED", f"candidate {number} is in the review already")
    if dropped.mask is None:
        raise ReviewError("REVIEW-DROPPED", "the candidate's mask was not stored; segment the image again, or draw it")
    new_id = live.new_id()
    segment = Segment(new_id, dropped.class_id, float(dropped.score), "predicted", "accepted", make_uid(new_id))
    return _place(live, "take in", Row(segment, taken_in=number), Region(dropped.box, dropped.mask))


def _place(live: LiveMap, action: str, row: Row, region: Region) -> Edit:
    new_id = row.segment.id
    at = live.free_for(new_id, live.flat(region))
    if not len(at):
        raise ReviewError("REVIEW-FREE", "other lesions hold every voxel there; nothing was added")
    return live.make_edit(action, new_id, at, new_id, {new_id: row})


def set_verdict(live: LiveMap, segment_ids: Sequence[int], verdict: Verdict, note: str | None = None) -> Edit:
    """Set what the reader thinks of lesions and, if not None, the note. Raises ReviewError (REVIEW-VERDICT)."""
    if verdict not in get_args(Verdict) or not segment_ids:
        raise ReviewError(
            "REVIEW-VERDICT", f"a verdict is one of {', '.join(get_args(Verdict))}, for one lesion or more"
        )
    rows: dict[int, Row | None] = {}
    for segment_id in segment_ids:
        row = live.thing(segment_id)
        said = row.note if note is None else note
        rows[segment_id] = replace(row, segment=replace(row.segment, verdict=verdict), note=said)
    return live.make_edit(verdict, segment_ids[0], rows=rows)


def set_fields(live: LiveMap, segment_id: int, action: str, **fields: Any) -> Edit:
    """Set fields of a lesion's ``Row``."""
    row = live.thing(segment_id)
    return live.make_edit(action, segment_id, rows={segment_id: replace(row, **fields)})


def set_tracking(live: LiveMap, segment_id: int, tracking_uid: str) -> Edit:
    """Give a lesion the tracking UID that it had at an earlier time.

    Raises ReviewError (REVIEW-TRACKING) if another lesion of this time has it: one UID names one lesion.
    """
    row = live.thing(segment_id)
    others = [i for i, r in live.rows.items() if i != segment_id and r.segment.tracking_uid == tracking_uid]
    if others and tracking_uid:
        raise ReviewError("REVIEW-TRACKING", f"lesion {others[0]} has this tracking UID; take it from there first")
    changed = replace(row, segment=replace(row.segment, tracking_uid=tracking_uid))
    return live.make_edit("match", segment_id, rows={segment_id: changed})


def _edited(row: Row) -> Row:
    if row.segment.origin != "predicted":
        return row
    return replace(row, segment=replace(row.segment, origin="edited"))


def _check_class(live: LiveMap, class_id: int) -> None:
    things = {c.id: c.name for c in live.base.classes.things}
    if class_id not in things:
        raise ReviewError("REVIEW-CLASS", f"class {class_id} is not one of the countable classes {things}")
