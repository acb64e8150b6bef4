"""One step of a review: which voxels and which rows changed, from what to what. Undo and redo need nothing else."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import ReviewError
from medpanoptic.result import Box, Segment

# two end points (x, y, z), LPS mm
Line = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Row:
    """What the table of a review says of one segment.

    note : the reader's words. long_axis, short_axis : lines that the reader drew in place of the computed ones, LPS mm.
    organ, is_node, is_target : what RECIST 1.1 needs to know of a lesion. taken_in : its number among the result's
    dropped candidates, if it was one.
    """

    segment: Segment
    note: str = ""
    long_axis: Line | None = None
    short_axis: Line | None = None
    organ: str = ""
    is_node: bool = False
    is_target: bool = False
    taken_in: int | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        """Read one row of a journal line."""
        fields = dict(data)
        for name in ("long_axis", "short_axis"):
            if fields.get(name) is not None:
                start, stop = fields[name]
                fields[name] = (tuple(map(float, start)), tuple(map(float, stop)))
        return cls(**{**fields, "segment": Segment(**fields["segment"])})

    def to_json(self) -> dict[str, Any]:
        """Return the plain form, without what has its default."""
        default = Row(self.segment)
        plain = {k: v for k, v in asdict(self).items() if k == "segment" or v != getattr(default, k)}
        doubt = self.segment.uncertainty
        numbers = {"score": float(self.segment.score), "uncertainty": None if doubt is None else float(doubt)}
        plain["segment"] = {**plain["segment"], **numbers}
        return plain


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of the id map and of the table.

    action : paint, merge, accept ... segment : the id it is about. box : around the changed voxels, None without any.
    at : (n,) int32 sorted flat (C order) indices of the changed voxels; before, after : (n,) int32 ids there.
    rows_before, rows_after : id -> row, None where the table has no such row.
    """

    action: str
    segment: int
    box: Box | None
    at: NDArray[np.int32]
    before: NDArray[np.int32]
    after: NDArray[np.int32]
    rows_before: Mapping[int, Row | None] = field(default_factory=dict)
    rows_after: Mapping[int, Row | None] = field(default_factory=dict)

    @property
    def touched(self) -> tuple[int, ...]:
        """Ids of which a voxel or a row changed."""
        return tuple(
            sorted({*self.rows_before, *np.unique(self.before).tolist(), *np.unique(self.after).tolist()} - {0})
        )

    def inverse(self) -> Edit:
        """Return the edit that takes this one back."""
        return Edit(
            self.action, self.segment, self.box, self.at, self.after, self.before, self.rows_after, self.rows_before
        )


@dataclass(frozen=True)
class Change:
    """What listeners are told after each edit, undo and redo.

    action : as in ``Edit``, with "undo " or "redo " before it. box : where voxels changed, None if none did.
    ids : segments whose voxels or rows changed, those that are gone included.
    """

    action: str
    box: Box | None
    ids: tuple[int, ...]


def edit_to_json(edit: Edit) -> dict[str, Any]:
    """Return the plain form of a journal line: rows as they are, voxels packed.

    Voxels: base64 of zlib of little-endian int32: steps between the indices, ids before, ids after. A painted region
    is runs of equal numbers, so it packs to a small part of its size.
    """
    rows = {
        str(i): [r.to_json() if r is not None else None for r in (edit.rows_before[i], edit.rows_after[i])]
        for i in sorted(edit.rows_before)
    }
    plain: dict[str, Any] = {"action": edit.action, "segment": edit.segment, "rows": rows}
    if edit.box is not None:
        steps = np.diff(edit.at, prepend=np.int32(0))
        numbers = np.concatenate([steps, edit.before, edit.after]).astype("<i4")
        plain["voxels"] = base64.b64encode(zlib.compress(numbers.tobytes(), 1)).decode("ascii")
        plain["count"] = len(edit.at)
        plain["box"] = [list(pair) for pair in edit.box]
    return plain


def edit_from_json(plain: Mapping[str, Any]) -> Edit:
    """Read a journal line back. Raises ReviewError (JOURNAL-DAMAGED) if it is not one of an edit."""
    try:
        count = int(plain.get("count", 0))
        packed = base64.b64decode(plain.get("voxels", ""), validate=True)
        # a bound before unpacking: the line says how much there is
        raw = zlib.decompressobj().decompress(packed, 12 * count) if count else b""
        steps, before, after = np.frombuffer(raw, "<i4").astype(np.int32).reshape(3, count)
        rows = {
            int(i): tuple(None if r is None else Row.from_json(r) for r in pair) for i, pair in plain["rows"].items()
        }
        box = tuple((int(a), int(b)) for a, b in plain["box"]) if count else None
        return Edit(
            str(plain["action"]),
            int(plain["segment"]),
            box,
            np.cumsum(steps, dtype=np.int32),
            before,
            after,
            {i: pair[0] for i, pair in rows.items()},
            {i: pair[1] for i, pair in rows.items()},
        )
    except (KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise ReviewError(
            "JOURNAL-DAMAGED", f"a journal line does not hold a whole edit ({type(error).__name__})"
        ) from error
