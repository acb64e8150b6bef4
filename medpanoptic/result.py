"""The one result type: an id map and a table of segments."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpanoptic.classes import ClassTable
from medpanoptic.errors import ResultError
from medpanoptic.geometry import Affine, check_affine, voxel_size
from medpanoptic.volume import Source

Origin = Literal["predicted", "edited", "added"]
Verdict = Literal["unread", "accepted", "rejected", "unsure"]
Reason = Literal["score", "overlap", "empty", "area"]
# ((start, stop) per spatial axis), half-open, in voxels of the native grid
Box = tuple[tuple[int, int], ...]
_BLOCK = 2**18  # voxels that are counted at once: their int64 copy stays in the cache
_SPARSE, _FEW = 4, 10_000  # ids up to 4 (segments + 10,000) index tables as they are


@dataclass(frozen=True)
class Segment:
    """One row of the table: a thing instance, or the single segment of a stuff class. ``score`` in [0, 1].

    uncertainty : in [0, 1], how much passes over mirrored images disagreed on this thing; None where it is not known.
    """

    id: int
    class_id: int
    score: float = 1.0
    origin: Origin = "predicted"
    verdict: Verdict = "unread"
    tracking_uid: str = ""
    uncertainty: float | None = None


@dataclass(frozen=True, eq=False)
class Dropped:
    """A candidate that fusion left out: why, where, and its mask inside the box (bool, shape of the box)."""

    class_id: int
    score: float
    reason: Reason
    box: Box
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Provenance:
    """Which model and which settings made a result. ``created`` is an ISO time or "" (kept out for determinism)."""

    bundle: str = ""
    bundle_version: str = ""
    weights_sha256: str = ""
    medpanoptic_version: str = ""
    created: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PanopticResult:
    """A panoptic map, valid once constructed.

    ids : (*S) int32, native grid of the reference image; 0 = void, else ``Segment.id``.
    segments : ids in the table == ids in the map; one segment per stuff class.
    affine : (4, 4) float64, index -> LPS mm.
    stuff : (*S) uint8 class ids under the things, so that a rejected thing leaves tissue and not a hole; or None.
    Raises ResultError: RESULT-DTYPE, RESULT-SHAPE, RESULT-IDS, RESULT-STUFF.
    """

    ids: NDArray[np.int32]
    segments: tuple[Segment, ...]
    classes: ClassTable
    affine: Affine
    source: Source = field(default_factory=Source)
    provenance: Provenance = field(default_factory=Provenance)
    stuff: NDArray[np.uint8] | None = None
    dropped: tuple[Dropped, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "affine", check_affine(self.affine))
        if self.ids.dtype != np.int32:
            raise ResultError("RESULT-DTYPE", f"the id map must be int32, got {self.ids.dtype}")
        if self.ids.ndim not in (2, 3):
            raise ResultError("RESULT-SHAPE", f"the id map must be 2D or 3D, got shape {self.ids.shape}")
        if self.ids.min(initial=0) < 0:
            raise ResultError("RESULT-IDS", "the id map holds a negative id; ids start at 1, 0 is void")
        if self.stuff is not None and self.stuff.shape != self.ids.shape:
            raise ResultError(
                "RESULT-SHAPE", f"stuff map {self.stuff.shape} and id map {self.ids.shape} differ in shape"
            )
        table = [s.id for s in self.segments]
        present = set(count_ids(self.ids))
        if len(set(table)) != len(table) or set(table) != present:
            odd = sorted(set(table) ^ present)[:10]
            raise ResultError("RESULT-IDS", f"ids in the map and in the table differ or repeat; first odd ones: {odd}")
        stuff_classes = [s.class_id for s in self.segments if not self.classes[s.class_id].is_thing]
        if len(set(stuff_classes)) != len(stuff_classes):
            raise ResultError("RESULT-STUFF", "a stuff class has more than one segment")

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return self.ids.ndim

    @cached_property
    def boxes(self) -> dict[int, Box]:
        """Bounding box of each segment id, half-open, in voxels."""
        values, index = self._compact()
        found = zip(values.tolist(), ndimage.find_objects(index), strict=False)
        return {i: tuple((s.start, s.stop) for s in box) for i, box in found if box is not None}

    @cached_property
    def sizes(self) -> dict[int, int]:
        """Pixel or voxel count of each segment id."""
        return count_ids(self.ids)

    def _compact(self) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Return (n,) ids, which may miss in the map, and (*S): n for the n-th of them from 1 on, 0 for void.

        The map itself serves where its ids are small; else they are numbered anew: one huge id must not cost gigabytes.
        """
        top = int(self.ids.max(initial=0))
        if top <= _SPARSE * (len(self.segments) + _FEW):
            return np.arange(1, top + 1), self.ids
        values, index = np.unique(self.ids, return_inverse=True)
        first = int(values[0] == 0)
        return values[first:], (index.reshape(self.ids.shape) + (1 - first)).astype(np.int32)

    @property
    def voxel_size(self) -> float:
        """mm2 of a pixel or mm3 of a voxel."""
        return voxel_size(self.affine, self.ndim)

    @property
    def things(self) -> tuple[Segment, ...]:
        """The instances."""
        return tuple(s for s in self.segments if self.classes[s.class_id].is_thing)

    def class_map(self) -> NDArray[np.uint8]:
        """Return (*S) uint8 class ids, 0 = void."""
        values, index = self._compact()
        class_of = {s.id: s.class_id for s in self.segments}
        lookup = np.array([0, *(class_of.get(i, 0) for i in values.tolist())], np.uint8)
        return look_up(lookup, index)

    def segment_color(self, segment: Segment) -> tuple[int, int, int]:
        """RGB 0-255: the class colour for stuff, a hue of its own near the class colour for each thing.

        The shift is a fixed function of the id, so that overlay, viewer and files agree.
        """
        base = self.classes[segment.class_id].color
        if not self.classes[segment.class_id].is_thing:
            return base
        h, lightness, s = colorsys.rgb_to_hls(*(v / 255 for v in base))
        # golden-ratio steps spread neighbours in id; +-0.06 in hue keeps the class readable
        turn = (segment.id * 0.618033988749895) % 1.0
        r, g, b = colorsys.hls_to_rgb(
            (h + 0.12 * (turn - 0.5)) % 1.0, min(0.8, max(0.3, lightness + 0.25 * (turn - 0.5))), s
        )
        return round(r * 255), round(g * 255), round(b * 255)


def count_ids(ids: NDArray[np.integer]) -> dict[int, int]:
    """Return {id: voxels} of an array of ids, none below 0, in order; 0 (void) left out.

    Block by block, so that the memory is that of a block, not several times that of a volume.
    """
    top = int(ids.max(initial=0))
    if top > max(ids.size, _BLOCK):
        values, counts = np.unique(ids, return_counts=True)
        return {int(i): int(n) for i, n in zip(values, counts, strict=True) if i}
    flat = ids.ravel(order="K")  # a view of what is contiguous in any order
    step = max(_BLOCK, top)  # adding up the bins costs no more than the voxels
    counts = np.zeros(top + 1, np.int64)
    for start in range(0, flat.size, step):
        counts += np.bincount(flat[start : start + step], minlength=top + 1)
    return {i: int(counts[i]) for i in np.flatnonzero(counts).tolist() if i}


def look_up(table: NDArray, index: NDArray[np.integer]) -> NDArray:
    """Return ``table[index]``, each index in 0..len(table) - 1, by slices: without an int64 copy of a whole volume."""
    found = np.empty(index.shape, table.dtype)
    for target, plane in zip(found, index, strict=True):
        # no index needs clipping; numpy takes this mode without a buffer
        np.take(table, plane, out=target, mode="clip")
    return found


def without_rejected(result: PanopticResult) -> PanopticResult:
    """Return a result as a report shows it: rejected things give way to void."""
    rejected = [s.id for s in result.things if s.verdict == "rejected"]
    if not rejected:
        return result
    kept = tuple(s for s in result.segments if s.id not in rejected)
    return replace(result, ids=np.where(np.isin(result.ids, rejected), 0, result.ids).astype(np.int32), segments=kept)
