"""What a review changed: the model's frozen result beside the live map, lesion by lesion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medpanoptic.result import Box, PanopticResult
from medpanoptic.review.live_map import LiveMap
from medpanoptic.review.regions import slices

Relation = Literal["unchanged", "changed", "added", "removed", "split", "merged", "regrouped"]
# a lesion of one map belongs to one of the other if they share this part of the smaller
_PART = 0.5


@dataclass(frozen=True)
class LesionChange:
    """One lesion, or the lesions that became one another.

    model_ids, review_ids : those that belong together; one side is empty for ``added`` and ``removed`` (deleted or
    rejected), several ids stand for ``split``, ``merged`` or, on both sides, ``regrouped``.
    dice : 2 |A and B| / (|A| + |B|) of all voxels of each side. size_model, size_review : voxels.
    volume_change : (review - model) / model; infinite for what was added. class_changed : of one lesion, its class.
    """

    relation: Relation
    model_ids: tuple[int, ...]
    review_ids: tuple[int, ...]
    dice: float
    size_model: int
    size_review: int
    class_changed: bool = False

    @property
    def volume_change(self) -> float:
        """Part by which the volume grew, negative where it shrank."""
        return (self.size_review - self.size_model) / self.size_model if self.size_model else float("inf")


def compare(model: PanopticResult, live: LiveMap) -> list[LesionChange]:
    """Return what became of each lesion of ``model``, and what was added; rejected lesions count as removed.

    Sorted by the model's ids, added lesions last. Looks into the boxes of lesions only.
    """
    old = [s.id for s in model.things]
    new = [i for i in live.things if live.rows[i].segment.verdict != "rejected"]
    shared = _overlaps(model, live, set(old), new)
    size_old, size_new = {i: model.sizes[i] for i in old}, {i: live.size(i) for i in new}
    groups = _groups(old, new, [k for k, n in shared.items() if n >= _PART * min(size_old[k[0]], size_new[k[1]])])
    class_of = {s.id: s.class_id for s in model.things}
    changes = []
    for ours, theirs in groups:
        sizes = sum(size_old[i] for i in ours), sum(size_new[i] for i in theirs)
        common = sum(shared.get((a, b), 0) for a in ours for b in theirs)
        other = len(ours) == len(theirs) == 1 and class_of[ours[0]] != live.rows[theirs[0]].segment.class_id
        relation = _relation(len(ours), len(theirs), same=common == sizes[0] == sizes[1] and not other)
        changes.append(LesionChange(relation, ours, theirs, 2 * common / sum(sizes), *sizes, class_changed=other))
    return sorted(changes, key=lambda c: (not c.model_ids, c.model_ids, c.review_ids))


def changed_voxels(model: PanopticResult, live: LiveMap, box: Box | None = None) -> NDArray[np.bool_]:
    """Return where the thing at a voxel is another than the model's; things that were rejected count as tissue.

    box : half-open; only this part is compared, as after one edit. Returns bool of the box, or (*S) without one.
    """
    where = slices(box) if box is not None else (slice(None),) * model.ndim
    kept = [i for i in live.things if live.rows[i].segment.verdict != "rejected"]
    was = _only(model.ids[where], [s.id for s in model.things])
    return np.asarray(was != _only(live.ids[where], kept))


def _only(ids: NDArray[np.int32], keep: Sequence[int]) -> NDArray[np.int32]:
    return np.where(np.isin(ids, keep), ids, 0).astype(np.int32, copy=False)


def _overlaps(model: PanopticResult, live: LiveMap, old: set[int], new: Sequence[int]) -> Mapping[tuple[int, int], int]:
    """Return {(model id, review id): voxels in both}."""
    shared: dict[tuple[int, int], int] = {}
    for segment_id in new:
        region = live.region(segment_id)
        under, counts = np.unique(model.ids[slices(region.box)][region.mask], return_counts=True)
        shared |= {(i, segment_id): n for i, n in zip(under.tolist(), counts.tolist(), strict=True) if i in old}
    return shared


def _groups(
    old: Sequence[int], new: Sequence[int], links: Sequence[tuple[int, int]]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the (model ids, review ids) that hang together by links."""
    place = {("old", i): n for n, i in enumerate(old)} | {("new", i): n + len(old) for n, i in enumerate(new)}
    if not place:
        return []
    rows = [place["old", a] for a, _ in links]
    columns = [place["new", b] for _, b in links]
    count, label = connected_components(
        coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(place),) * 2), False
    )
    groups: list[tuple[list[int], list[int]]] = [([], []) for _ in range(count)]
    for (kind, segment_id), node in place.items():
        groups[label[node]][kind == "new"].append(segment_id)
    return [(tuple(a), tuple(b)) for a, b in groups]


def _relation(ours: int, theirs: int, same: bool) -> Relation:
    if not ours or not theirs:
        return "removed" if ours else "added"
    if ours == theirs == 1:
        return "unchanged" if same else "changed"
    if ours > 1 and theirs > 1:
        return "regrouped"
    return "split" if theirs > 1 else "merged"
