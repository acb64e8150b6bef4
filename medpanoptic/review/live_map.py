"""The id map and the table while they are edited; every change goes through an Edit and keeps all sums in step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import ReviewError
from medpanoptic.identity import identify
from medpanoptic.result import Box, PanopticResult, Provenance, Segment, count_ids, look_up
from medpanoptic.review.edit import Edit, Row
from medpanoptic.review.regions import Region, bounding_box, slices
from medpanoptic.volume import Source

_FEW = 1000  # segments


class LiveMap:
    """A result being changed. Work is in the box of an edit; the whole map is only read when it starts and is frozen.

    base : the result that the review starts from. ids : (*S) int32, C order. rows : id -> Row, stuff included.
    tissue : (*S) uint8 stuff class ids under the things: what an erased voxel returns to; 0 (void) where not known.
    """

    def __init__(
        self,
        base: PanopticResult,
        source: Source | None = None,
        rows: Mapping[int, Row] | None = None,
        last_id: int = 0,
    ) -> None:
        """Start from ``base``. source : what its outputs will point at, if ``base`` was read from files without it.

        rows : what an earlier review said of its segments. last_id : up to which ids were used before.
        Things without a tracking UID get the one that DICOM outputs of ``base`` carry: it must outlive edits.
        """
        if base.ids.size > np.iinfo(np.int32).max:
            raise ReviewError("REVIEW-SIZE", f"a map of {base.ids.size} voxels is too large to review; crop it")
        self.base, self.source = base, source or base.source
        self.ids = np.array(base.ids, np.int32, order="C")
        said = rows or {}
        self.rows = {s.id: replace(said[s.id], segment=s) if s.id in said else Row(s) for s in base.segments}
        self._things: list[int] | None = None  # worked out when asked for: each key press does so several times
        self._name_things()
        self.tissue = base.stuff if base.stuff is not None else _tissue_of(base)
        self.next_id = max([last_id, *self.rows]) + 1
        self._tissue_rows = {r.segment.class_id: r for i, r in self.rows.items() if not self.is_thing(i)}
        # _bounds may be wider than the segments in _loose
        self._sizes, self._bounds, self._loose = _count(base)

    def _name_things(self) -> None:
        unnamed = [s for s in self.base.things if not s.tracking_uid]
        if unnamed:
            identity = identify(self.base, self.source)
            for segment in unnamed:
                named = replace(segment, tracking_uid=identity.tracking_uid(segment))
                self.rows[segment.id] = replace(self.rows[segment.id], segment=named)

    # ---- reading

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape S."""
        return self.ids.shape

    @property
    def things(self) -> list[int]:
        """Ids of the things, in order."""
        if self._things is None:
            is_thing = {c.id: c.is_thing for c in self.base.classes}
            self._things = sorted(i for i, row in self.rows.items() if is_thing[row.segment.class_id])
        return list(self._things)

    def is_thing(self, segment_id: int) -> bool:
        """Tell things from stuff."""
        return self.base.classes[self.rows[segment_id].segment.class_id].is_thing

    def thing(self, segment_id: int) -> Row:
        """Return the row of a thing. Raises ReviewError: REVIEW-ID (no such id), REVIEW-STUFF (tissue)."""
        row = self.rows.get(segment_id)
        if row is None:
            raise ReviewError("REVIEW-ID", f"there is no lesion {segment_id}; it may have been deleted or merged")
        if not self.is_thing(segment_id):
            raise ReviewError("REVIEW-STUFF", f"segment {segment_id} is tissue; a review edits countable things only")
        return row

    def size(self, segment_id: int) -> int:
        """Return the voxel count of a segment."""
        return self._sizes.get(segment_id, 0)

    def box(self, segment_id: int) -> Box:
        """Return the bounding box of a thing, half-open."""
        outer = self._bounds[segment_id]
        if segment_id in self._loose:
            inner = bounding_box(self.ids[slices(outer)] == segment_id)
            outer = tuple((o[0] + a, o[0] + b) for o, (a, b) in zip(outer, inner, strict=True))
            self._bounds[segment_id] = outer
            self._loose.discard(segment_id)
        return outer

    def region(self, segment_id: int) -> Region:
        """Return the box and mask of a thing."""
        box = self.box(segment_id)
        return Region(box, self.ids[slices(box)] == segment_id)

    def flat(self, region: Region) -> NDArray[np.int32]:
        """Return the sorted flat indices of a region. Raises ReviewError (REVIEW-REGION) if it leaves the image."""
        fits = len(region.box) == len(self.shape)
        fits = fits and all(a >= 0 and b <= n for (a, b), n in zip(region.box, self.shape, strict=True))
        if not fits and region.mask.any():
            raise ReviewError("REVIEW-REGION", f"the region {region.box} is not inside the image {self.shape}")
        inside = np.nonzero(region.mask)
        places = tuple(i + start for i, (start, _) in zip(inside, region.box, strict=True))
        return np.ravel_multi_index(places, self.shape).astype(np.int32)

    def ids_at(self, at: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the ids at flat indices."""
        return self.ids.reshape(-1)[at]

    def free_for(self, segment_id: int, at: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return those flat indices that ``segment_id`` may take: tissue, void, its own and rejected things."""
        here = self.ids_at(at)
        present = np.unique(here)
        held = [i for i in present.tolist() if i not in (0, segment_id) and self._is_protected(i)]
        return at[~np.isin(here, held)] if held else at

    def free_mask(self, box: Box) -> NDArray[np.bool_]:
        """Return which voxels of a box a new lesion may take."""
        here = self.ids[slices(box)]
        held = [i for i in np.unique(here).tolist() if i and self._is_protected(i)]
        return ~np.isin(here, held)

    def _is_protected(self, segment_id: int) -> bool:
        return self.is_thing(segment_id) and self.rows[segment_id].segment.verdict != "rejected"

    def tissue_ids(self, at: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the segment ids that belong at flat indices once no thing is there.

        A tissue class without a segment gets one: its id is fixed here and enters the table with the edit.
        """
        classes = self.tissue.reshape(-1)[at]
        lookup = np.zeros(256, np.int32)
        for class_id in np.unique(classes).tolist():
            if class_id:
                lookup[class_id] = self._tissue_row(class_id).segment.id
        return lookup[classes]

    def _tissue_row(self, class_id: int) -> Row:
        if class_id not in self._tissue_rows:
            self._tissue_rows[class_id] = Row(Segment(self.new_id(), class_id, origin="added"))
        return self._tissue_rows[class_id]

    def new_id(self) -> int:
        """Return an id never used in this review."""
        self.next_id += 1
        return self.next_id - 1

    # ---- changing

    def make_edit(
        self,
        action: str,
        segment: int,
        at: NDArray[np.int32] | None = None,
        after: NDArray[np.int32] | int = 0,
        rows: Mapping[int, Row | None] | None = None,
    ) -> Edit:
        """Return the Edit that writes ``after`` at the flat indices ``at`` (sorted) and puts ``rows`` into the table.

        A segment left without a voxel leaves the table, tissue that comes back enters it, and a predicted thing whose
        voxels change becomes ``edited``. Nothing is changed yet.
        """
        at = np.zeros(0, np.int32) if at is None else at
        values = np.broadcast_to(np.asarray(after, np.int32), at.shape)
        before = self.ids_at(at)
        changed = before != values
        at, before, values = at[changed], before[changed], values[changed]
        new_rows = {**(rows or {}), **self._rows_after(before, values, dict(rows or {}))}
        new_rows = {i: row for i, row in new_rows.items() if row != self.rows.get(i)}
        old_rows = {i: self.rows.get(i) for i in new_rows}
        return Edit(action, segment, self._box_of(at), at, before, values, old_rows, new_rows)

    def _rows_after(
        self, before: NDArray[np.int32], after: NDArray[np.int32], rows: dict[int, Row | None]
    ) -> dict[int, Row | None]:
        found: dict[int, Row | None] = {}
        for segment_id, change in _count_changes(before, after).items():
            row = rows.get(segment_id, self.rows.get(segment_id))
            if row is None:
                row = next(r for r in self._tissue_rows.values() if r.segment.id == segment_id)
            if self.size(segment_id) + change == 0:
                found[segment_id] = None
            elif segment_id in self.rows and self.is_thing(segment_id) and row.segment.origin == "predicted":
                found[segment_id] = replace(row, segment=replace(row.segment, origin="edited"))
            else:
                found[segment_id] = row
        return found

    def _box_of(self, at: NDArray[np.int32]) -> Box | None:
        if not len(at):
            return None
        places = np.unravel_index(at, self.shape)
        return tuple((int(p.min()), int(p.max()) + 1) for p in places)

    def apply(self, edit: Edit) -> None:
        """Write an edit into the map and the table."""
        self.ids.reshape(-1)[edit.at] = edit.after
        if any((row is None) == (i in self.rows) for i, row in edit.rows_after.items()):
            self._things = None
        for segment_id, row in edit.rows_after.items():
            if row is None:
                self.rows.pop(segment_id, None)
            else:
                self.rows[segment_id] = row
                self.next_id = max(self.next_id, segment_id + 1)
                if not self.is_thing(segment_id):
                    self._tissue_rows.setdefault(row.segment.class_id, row)
        for segment_id, change in _count_changes(edit.before, edit.after).items():
            self._sizes[segment_id] = self.size(segment_id) + change
            self._loose.add(segment_id)
            if edit.box is not None:
                self._bounds[segment_id] = _union(self._bounds.get(segment_id), edit.box)
            if not self._sizes[segment_id]:
                del self._sizes[segment_id], self._bounds[segment_id]
                self._loose.discard(segment_id)

    def freeze(self, provenance: Provenance | None = None) -> PanopticResult:
        """Return what the review says now as a result: rejected things left out, tissue in their place."""
        ids, rows = self.ids.copy(), dict(self.rows)
        flat = ids.reshape(-1)
        for segment_id in self.things:
            if rows[segment_id].segment.verdict == "rejected":
                at = self.flat(self.region(segment_id))
                flat[at] = self.tissue_ids(at)
                del rows[segment_id]
        for row in self._tissue_rows.values():
            rows.setdefault(row.segment.id, row)
        present = count_ids(ids)
        segments = tuple(rows[i].segment for i in sorted(rows) if i in present)
        stuff = self.tissue if self.base.stuff is not None or self.base.classes.stuff else None
        made = provenance or self.base.provenance
        return replace(self.base, ids=ids, segments=segments, stuff=stuff, source=self.source, provenance=made)


def _count(result: PanopticResult) -> tuple[dict[int, int], dict[int, Box], set[int]]:
    """Return sizes, outer bounds, and the ids whose bounds may be too wide.

    In a volume with few segments, counting slice by slice gives the slices of each; the rest of its box is found when
    it is asked for. That takes a fifth of the time of the boxes of all segments, stuff included.
    """
    ids = result.ids
    if ids.ndim == 2 or len(result.segments) > _FEW or ids.max(initial=0) > 2 * _FEW:
        return dict(result.sizes), dict(result.boxes), set()
    bins = int(ids.max(initial=0)) + 1
    counts = np.array([np.bincount(plane.ravel(), minlength=bins) for plane in ids])
    sizes = {s.id: int(counts[:, s.id].sum()) for s in result.segments}
    bounds: dict[int, Box] = {}
    for segment_id in sizes:
        planes = np.flatnonzero(counts[:, segment_id])
        bounds[segment_id] = ((int(planes[0]), int(planes[-1]) + 1), *((0, n) for n in ids.shape[1:]))
    return sizes, bounds, set(sizes)


def _tissue_of(result: PanopticResult) -> NDArray[np.uint8]:
    """Return the stuff class of each voxel; void under things, where a result without a stuff map knows none."""
    kept = np.zeros(256, np.uint8)
    for info in result.classes.stuff:
        kept[info.id] = info.id
    return look_up(kept, result.class_map())


def _count_changes(before: NDArray[np.int32], after: NDArray[np.int32]) -> dict[int, int]:
    """Return {id: voxels won minus lost}, 0 (void) left out."""
    counts: dict[int, int] = {}
    for values, sign in ((before, -1), (after, 1)):
        found, numbers = np.unique(values, return_counts=True)
        for segment_id, number in zip(found.tolist(), numbers.tolist(), strict=True):
            counts[segment_id] = counts.get(segment_id, 0) + sign * number
    counts.pop(0, None)
    return counts


def _union(box: Box | None, other: Iterable[tuple[int, int]]) -> Box:
    if box is None:
        return tuple(other)
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(box, other, strict=True))
