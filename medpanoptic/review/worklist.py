"""The list of lesions to read: a table, its order, what is next, how far the reading is. Fluid with 50,000 rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpanoptic.geometry import to_world

if TYPE_CHECKING:
    from medpanoptic.review.session import ReviewSession

# above it the diameters of a lesion are worked out when it is looked at
MEASURE_AT_ONCE = 300
# name of a sort order -> column, and whether large comes first
SORT_KEYS = {
    "score": ("score", True),
    "suspicion": ("score", True),
    "size": ("size", True),
    "long axis": ("long_axis_mm", True),
    "place": ("place_key", False),
    "status": ("status_key", False),
    "class": ("class", False),
    "uncertainty": ("uncertainty", True),
    "id": ("id", False),
}
_STATUS_ORDER = {"unread": 0, "unsure": 1, "accepted": 2, "rejected": 3}


def worklist(session: ReviewSession, measure_all: bool = False) -> pd.DataFrame:
    """Return one row per lesion, indexed by id, in the order of the ids.

    Columns: id, class, score, uncertainty (``Segment.uncertainty``; NaN where it is not known), size (voxels),
    volume_mm3 or area_mm2 (NaN without a pixel size), long_axis_mm, short_axis_mm (the reader's where drawn; NaN where
    not worked out yet: ``update_rows`` of a measured lesion fills them), place (words), status, changed (voxels or
    class differ from the model's), note, organ, is_node, is_target, tracking_uid, and place_key and status_key to sort
    by.
    """
    ids = session.things
    measured = measure_all or len(ids) <= MEASURE_AT_ONCE
    return pd.DataFrame(
        [_row(session, i, measured) for i in ids], index=pd.Index(ids, name="index"), columns=_columns(session)
    )


def update_rows(table: pd.DataFrame, session: ReviewSession, ids: Sequence[int]) -> pd.DataFrame:
    """Return the table with the rows of ``ids`` as they are now; those that are gone are left out, new ones added.

    Give it the ``ids`` of a ``Change``. Diameters of these rows are worked out. Changes ``table`` in place where no row
    comes or goes.
    """
    things = {i for i in ids if i in session.live.rows and session.live.is_thing(i)}
    gone = [i for i in ids if i not in things and i in table.index]
    new = sorted(i for i in things if i not in table.index)
    for segment_id in sorted(things.difference(new)):
        write_row(table, table.index.get_loc(segment_id), _row(session, segment_id, True))
    if gone:
        table = table.drop(index=gone)
    if new:
        rows = pd.DataFrame(
            [_row(session, i, True) for i in new], index=pd.Index(new, name="index"), columns=table.columns
        )
        table = pd.concat([table, rows.astype(table.dtypes.to_dict())]) if len(table) else rows
    return table


def write_row(table: pd.DataFrame, place: int, values: Mapping[str, Any]) -> None:
    """Write row number ``place``, cell by cell where it differs: a tenth of the time of a whole row.

    values : column -> value; columns that the table does not have are left out.
    """
    for name, value in values.items():
        if name in table.columns:
            column = table.columns.get_loc(name)
            old = table.iat[place, column]
            if old != value and not (pd.isna(old) and pd.isna(value)):
                table.iat[place, column] = value


def sort_rows(table: pd.DataFrame, by: str = "score", descending: bool | None = None) -> pd.DataFrame:
    """Return the table in the order of a key of ``SORT_KEYS``; ties by id, unknown values last.

    descending : None takes what is usual for the key, such as the largest first.
    """
    column, large_first = SORT_KEYS[by]
    down = large_first if descending is None else descending
    return table.sort_values([column, "id"], ascending=[not down, True], kind="stable", na_position="last")


def filter_rows(table: pd.DataFrame, text: str) -> pd.DataFrame:
    """Return the rows in which every word of ``text`` occurs, in id, class, place, status, note or organ; case is no
    matter. "changed" and "target" also find the rows marked so.
    """  # fmt: skip
    words = text.lower().split()
    if not words or not len(table):
        return table
    keep = np.ones(len(table), bool)
    for word in words:
        keep &= _rows_with(table, word)
    return table[keep]


def _rows_with(table: pd.DataFrame, word: str) -> NDArray[np.bool_]:
    found = np.zeros(len(table), bool)
    for column, text in (("changed", "changed"), ("is_target", "target")):
        if word in text:
            found |= table[column].to_numpy(bool)
    if word.isdigit():
        found |= np.array([word in str(i) for i in table["id"].tolist()], bool)
    for column in ("class", "place", "status", "note", "organ"):
        # most rows share their class, status and organ: each text is looked at once
        codes, texts = pd.factorize(table[column].to_numpy(object))
        found |= np.array([word in str(text).lower() for text in texts], bool)[codes]
    return found


def next_row(table: pd.DataFrame, current: int | None, step: int = 1, unread: bool = False) -> int | None:
    """Return the id of the next row (``step`` 1) or the one before (-1) in the table's order, going round at its end.

    current : None or an id that is not in the table starts at the first or last row. unread : only rows not read.
    None if there is no such row; the current one only if it is the only one.
    """
    ids = table.index.to_numpy()
    wanted = _unread(table) if unread else np.ones(len(ids), bool)
    if not wanted.any():
        return None
    found = np.flatnonzero(ids == current) if current is not None else ids[:0]
    start = int(found[0]) if len(found) else (-1 if step > 0 else len(ids))
    order = (start + np.sign(step) * np.arange(1, len(ids) + 1)) % len(ids)
    places = order[wanted[order]]
    return int(ids[places[0]])


def progress(table: pd.DataFrame) -> tuple[int, int]:
    """Return how many lesions are read and how many there are."""
    return int((~_unread(table)).sum()), len(table)


def _unread(table: pd.DataFrame) -> NDArray[np.bool_]:
    return np.asarray(table["status"].to_numpy(object) == "unread", bool)  # pandas' own takes ten times as long


def progress_text(table: pd.DataFrame) -> str:
    """7 of 12 read."""
    read, total = progress(table)
    return f"{read} of {total} read" if total else "nothing found"


def _columns(session: ReviewSession) -> list[str]:
    size = "volume_mm3" if session.ids.ndim == 3 else "area_mm2"
    head = ["id", "class", "score", "uncertainty", "size", size, "long_axis_mm", "short_axis_mm", "place", "status"]
    return [*head, "changed", "note", "organ", "is_node", "is_target", "tracking_uid", "place_key", "status_key"]


def _row(session: ReviewSession, segment_id: int, measured: bool) -> dict[str, Any]:
    row, base = session.row(segment_id), session.live.base
    segment, size = row.segment, session.live.size(segment_id)
    calibrated = session.calibrated
    long_axis, short_axis = axes_mm(session, segment_id) if measured and calibrated else (np.nan, np.nan)
    place, key = _place(session, segment_id, calibrated)
    values = [
        segment_id,
        base.classes[segment.class_id].name,
        float(segment.score),
        np.nan if segment.uncertainty is None else float(segment.uncertainty),
        size,
        size * base.voxel_size if calibrated else np.nan,
        long_axis,
        short_axis,
        place,
        segment.verdict,
        segment.origin != "predicted",
        row.note,
        row.organ,
        row.is_node,
        row.is_target,
        segment.tracking_uid,
        key,
        _STATUS_ORDER[segment.verdict],
    ]
    return dict(zip(_columns(session), values, strict=True))


def axes_mm(session: ReviewSession, segment_id: int) -> tuple[float, float]:
    """Return the long and the short axis in mm: the lines that the reader drew, else the computed ones."""
    row, measures = session.row(segment_id), session.measures(segment_id)
    pairs = ((row.long_axis, measures.long_axis), (row.short_axis, measures.short_axis))
    long_mm, short_mm = (
        float(np.linalg.norm(np.subtract(*drawn))) if drawn is not None else computed.length_mm
        for drawn, computed in pairs
    )
    return long_mm, short_mm


def _place(session: ReviewSession, segment_id: int, calibrated: bool) -> tuple[str, float]:
    """Return where the middle of a lesion's box is, in words, and a number to sort by: head first, in 2D top first.

    3D: native slice counted from 1, then mm from the middle of the image towards the patient's left or right, front or
    back and head or feet (slice 42, L 31 P 12 H 104 mm).
    """
    box = session.live.box(segment_id)
    middle = [(a + b - 1) / 2 for a, b in box]
    if session.ids.ndim == 2:
        return f"row {middle[0]:.0f}, column {middle[1]:.0f}", middle[0]
    centre = [(n - 1) / 2 for n in session.ids.shape]
    here, there = to_world([middle, centre], session.live.base.affine)
    text = f"slice {middle[0] + 1:.0f}"
    if calibrated:
        # from the middle: R or L, A (front) or P (back), F (feet) or H (head), as at the rim of the picture
        sides = zip((here - there).tolist(), ("RL", "AP", "FH"), strict=True)
        text += ", " + " ".join(f"{s[v > 0]} {abs(v):.0f}" for v, s in sides) + " mm"
    return text, -float(here[2])
