"""Put the frames of a DICOM Segmentation into one id map; where segments overlap, a stated rule decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import ReadError
from medpanoptic.io.dicom_seg_table import SegmentTable
from medpanoptic.result import Segment, count_ids

Overlap = Literal["refuse", "first", "last"]


class Painter:
    """The id map while it is filled.

    ids : (*S) int32 zeros, filled in place. view : gives the part of an array like ``ids`` that the frames cover, in
    their axes. A thing wins over stuff, whose class is kept for ``stuff_map``. Of two of a kind ``overlap`` decides.
    """

    def __init__(
        self,
        ids: NDArray[np.int32],
        view: Callable[[NDArray], NDArray],
        table: SegmentTable,
        overlap: Overlap,
        name: str,
    ) -> None:
        self._ids, self._view, self._table = ids, view, table
        self._overlap, self._name = overlap, name
        self._target = view(ids)
        self._hidden: NDArray[np.uint8] | None = None
        # of two of a kind the lower segment number is the first; segments that became one have the number of the first
        self._number_of = {s.id: number for number, s in reversed(table.segments.items())}
        self._resolved: set[tuple[int, int]] = set()

    def paint_segments(
        self, slices: Sequence[int], numbers: Sequence[int], frames: Iterable[NDArray], cut: float
    ) -> None:
        """Add frames of one segment each, (row, column), inside where they are ``cut`` or more.

        Raises ReadError: SEG-DAMAGED, SEG-OVERLAP.
        """
        for k, number, frame in zip(slices, numbers, frames, strict=True):
            if number not in self._table.segments:
                raise ReadError("SEG-DAMAGED", f"{self._name}: a frame shows segment {number}, which is not described")
            self._paint(k, self._table.segments[number], frame >= cut)

    def paint_labelmap(self, slices: Sequence[int], frames: Iterable[NDArray]) -> None:
        """Add frames of segment numbers, (row, column). Raises ReadError: SEG-DAMAGED, SEG-OVERLAP."""
        known = np.array(sorted({*self._table.segments, self._table.background}))
        ids = np.array([self._table.segments[n].id if n in self._table.segments else 0 for n in known], np.int32)
        lookup = np.full(2**16 if known[-1] < 2**16 else int(known[-1]) + 1, -1, np.int32)
        lookup[known] = ids
        for k, frame in zip(slices, frames, strict=True):
            new = lookup[frame]
            if new.min() < 0:
                raise ReadError("SEG-DAMAGED", f"{self._name}: a frame has a number that no segment describes")
            if self._target[k].any():
                # two frames on one slice: as if they were of BINARY
                for i in np.unique(new[new > 0]):
                    self._paint(k, self._table.segments[self._number_of[int(i)]], new == i)
            else:
                self._target[k] = new

    def segments(self) -> tuple[Segment, ...]:
        """Return the segments that have a voxel, by number."""
        present = count_ids(self._ids)
        unique = {s.id: s for s in self._table.segments.values()}
        return tuple(s for s in unique.values() if s.id in present)

    def notes(self) -> Iterator[str]:
        """Yield what a person should know."""
        if self._hidden is not None:
            yield "things lie over stuff: the thing has the voxels, the stuff under it is kept"
        for a, b in sorted(self._resolved):
            yield f"segments {a} and {b} overlap: the {self._overlap} has the voxels"
        present = {s.id for s in self.segments()}
        blank = sorted(n for n, s in self._table.segments.items() if s.id not in present)
        if blank and len(blank) < len(self._table.segments):
            yield f"segments without a voxel: {', '.join(map(str, blank[:20]))}{' ...' if len(blank) > 20 else ''}"

    def stuff_map(self) -> NDArray[np.uint8] | None:
        """Return (*S) uint8 class ids of stuff, also under the things, or None where no thing lies over stuff."""
        if self._hidden is None:
            return None
        for segment in self.segments():
            if not self._is_thing(segment):
                self._hidden[self._ids == segment.id] = segment.class_id
        return self._hidden

    def _paint(self, k: int, segment: Segment, mask: NDArray[np.bool_]) -> None:
        plane = self._target[k]
        there = plane[mask]
        for other in np.unique(there[(there > 0) & (there != segment.id)]).tolist():
            rival = self._table.segments[self._number_of[other]]
            shared = mask & (plane == other)
            if not self._wins(segment, rival):
                mask = mask & ~shared
                if self._is_thing(rival) and not self._is_thing(segment):
                    self._hide(k, shared, segment)
            elif self._is_thing(segment) and not self._is_thing(rival):
                self._hide(k, shared, rival)
        plane[mask] = segment.id

    def _wins(self, new: Segment, old: Segment) -> bool:
        """Tell whether the new segment takes voxels from the old one. Raises ReadError (SEG-OVERLAP)."""
        if self._is_thing(new) != self._is_thing(old):
            return self._is_thing(new)
        numbers = sorted((self._number_of[new.id], self._number_of[old.id]))
        if self._overlap == "refuse":
            kind = "things" if self._is_thing(new) else "stuff"
            raise ReadError(
                "SEG-OVERLAP",
                f"{self._name}: segments {numbers[0]} and {numbers[1]} (both {kind}) overlap, and a panoptic map has "
                'one in each voxel; choose which wins: overlap="first" or "last" of read_dicom_seg or read_rtstruct',
            )
        self._resolved.add((numbers[0], numbers[1]))
        return (self._number_of[new.id] == numbers[0]) == (self._overlap == "first")

    def _is_thing(self, segment: Segment) -> bool:
        return self._table.classes[segment.class_id].is_thing

    def _hide(self, k: int, where: NDArray[np.bool_], stuff: Segment) -> None:
        if self._hidden is None:
            self._hidden = np.zeros(self._ids.shape, np.uint8)
        self._view(self._hidden)[k][where] = stuff.class_id
