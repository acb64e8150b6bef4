"""Which lesion of the prior time is which of the current one: proposals for a reader to confirm."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from medpanoptic.errors import ReviewError
from medpanoptic.geometry import to_world
from medpanoptic.identity import identify
from medpanoptic.match.growth import doubling_time_days
from medpanoptic.match.registration import Registration
from medpanoptic.result import PanopticResult
from medpanoptic.volume import Source

Relation = Literal["same", "split", "merged", "regrouped", "new", "gone"]
Pair = tuple[int, int]
Trend = Literal["grown", "shrunken", "stable", ""]
# volumes of one nodule differ by up to 25 % between two CT scans of a day: where growth starts in the NELSON trial and
# in the guideline of the British Thoracic Society. Source: 10.1007/s00330-021-08302-0, introduction
STABLE_PART = 0.25
_MOST_POINTS = 20_000


@dataclass(frozen=True, eq=False)
class Lesion:
    """One lesion of one time. points_mm : (N, 3) LPS mm of its voxels (a regular part of them, if there are many)."""

    id: int
    class_id: int
    volume_mm3: float
    centroid_mm: NDArray[np.float64]
    points_mm: NDArray[np.float64]
    tracking_uid: str = ""

    @property
    def radius_mm(self) -> float:
        """Radius of a ball of its volume."""
        return float((3 * self.volume_mm3 / (4 * np.pi)) ** (1 / 3))


@dataclass(frozen=True)
class Link:
    """Lesions of two times that belong together.

    prior_ids, current_ids : one each for ``same``, several current ones for ``split``, several prior ones for
    ``merged``, several on both sides for ``regrouped``, none on one side for ``new`` and ``gone``; the largest first.
    distance_mm : between the middles of the two sides, NaN for new and gone. volume_change : (now - before) / before,
    -1 for gone, NaN for new. doubling_days : see ``doubling_time_days``, NaN where it is not known.
    confirmed : the reader confirmed every pair in it.
    """

    relation: Relation
    prior_ids: tuple[int, ...]
    current_ids: tuple[int, ...]
    distance_mm: float = float("nan")
    volume_change: float = float("nan")
    trend: Trend = ""
    doubling_days: float = float("nan")
    confirmed: bool = False


def lesions_of(result: PanopticResult, source: Source | None = None) -> list[Lesion]:
    """Return the lesions of a result, rejected ones left out.

    source : that of its image, where the result was read from files without it; a lesion without a tracking UID gets
    the one that the DICOM outputs of the result carry.
    """
    kept = [s for s in result.things if s.verdict != "rejected"]
    identity = None if all(s.tracking_uid for s in kept) else identify(result, source or result.source)
    uids = [s.tracking_uid if identity is None else identity.tracking_uid(s) for s in kept]
    return [_lesion(result, s.id, s.class_id, uid) for s, uid in zip(kept, uids, strict=True)]


def _lesion(result: PanopticResult, segment_id: int, class_id: int, uid: str) -> Lesion:
    box = result.boxes[segment_id]
    inside = np.argwhere(result.ids[tuple(slice(*axis) for axis in box)] == segment_id) + [start for start, _ in box]
    points = to_world(inside, result.affine)
    step = max(1, -(-len(points) // _MOST_POINTS))
    return Lesion(segment_id, class_id, len(inside) * result.voxel_size, points.mean(0), points[::step], uid)


@dataclass(frozen=True, eq=False)
class FollowUp:
    """The lesions of two times in one space and the pairs between them, proposed or the reader's; frozen.

    prior, current : LPS mm of the current study. pairs : (prior id, current id); one lesion may be in several.
    confirmed : those of the pairs that the reader confirmed. days : between the studies, None if not known.
    """

    prior: tuple[Lesion, ...]
    current: tuple[Lesion, ...]
    pairs: frozenset[Pair] = frozenset()
    confirmed: frozenset[Pair] = frozenset()
    days: float | None = None

    @property
    def links(self) -> list[Link]:
        """What the pairs amount to: links in the order of the prior ids, then new lesions."""
        groups = _groups([p.id for p in self.prior], [c.id for c in self.current], self.pairs)
        return [self._link(*group) for group in groups]

    def confirm(self, prior_id: int, current_id: int) -> FollowUp:
        """Confirm a pair; it need not have been proposed. Raises ReviewError (MATCH-ID)."""
        pair = self._known(prior_id, current_id)
        return replace(self, pairs=self.pairs | {pair}, confirmed=self.confirmed | {pair})

    def part(self, prior_id: int, current_id: int) -> FollowUp:
        """Take a pair apart. Raises ReviewError (MATCH-ID)."""
        pair = self._known(prior_id, current_id)
        return replace(self, pairs=self.pairs - {pair}, confirmed=self.confirmed - {pair})

    def among(self, prior_ids: Iterable[int], current_ids: Iterable[int]) -> list[Pair]:
        """Return the pairs meant by lesions chosen on both sides: those that are pairs already, else each with each."""
        chosen = list(itertools.product(prior_ids, current_ids))
        return [pair for pair in chosen if pair in self.pairs] or chosen

    def tracking_uids(self) -> dict[int, str]:
        """Return {current id: tracking UID} of the confirmed links, for ``ReviewSession.match``.

        The largest lesion of a link carries on the UID of the largest prior one; other parts keep their own.
        """
        uid_of = {p.id: p.tracking_uid for p in self.prior}
        sure = [k for k in self.links if k.confirmed]
        return {k.current_ids[0]: uid_of[k.prior_ids[0]] for k in sure}

    def _known(self, prior_id: int, current_id: int) -> Pair:
        if prior_id not in {p.id for p in self.prior} or current_id not in {c.id for c in self.current}:
            raise ReviewError("MATCH-ID", f"there is no prior lesion {prior_id} or no current lesion {current_id}")
        return prior_id, current_id

    def _link(self, prior_ids: set[int], current_ids: set[int]) -> Link:
        before = _by_size(x for x in self.prior if x.id in prior_ids)
        after = _by_size(x for x in self.current if x.id in current_ids)
        ids = tuple(x.id for x in before), tuple(x.id for x in after)
        if not (before and after):
            return Link("gone", *ids, volume_change=-1.0) if before else Link("new", *ids)
        volumes = sum(x.volume_mm3 for x in before), sum(x.volume_mm3 for x in after)
        change = volumes[1] / volumes[0] - 1
        trend: Trend = "stable" if abs(change) <= STABLE_PART else "grown" if change > 0 else "shrunken"
        several = len(before) > 1, len(after) > 1
        names: dict[tuple[bool, bool], Relation] = {
            (False, False): "same",
            (False, True): "split",
            (True, False): "merged",
            (True, True): "regrouped",
        }
        inside = {(a, b) for a, b in self.pairs if a in prior_ids}
        return Link(
            names[several],
            *ids,
            float(np.linalg.norm(_middle(after) - _middle(before))),
            change,
            trend,
            doubling_time_days(*volumes, self.days) if self.days else float("nan"),
            inside <= self.confirmed,
        )


def match_lesions(
    prior: Sequence[Lesion],
    current: Sequence[Lesion],
    registration: Registration | None = None,
    *,
    days: float | None = None,
    max_distance_mm: float = 20.0,
    max_ratio: float = 8.0,
) -> FollowUp:
    """Propose which lesions are the same.

    registration : None for one world space. days : between the studies, for doubling times.
    One to one by the Hungarian method. The cost is the distance in parts of its gate plus half the logarithm of the
    volumes' ratio in parts of its gate; over ``max_distance_mm`` (plus the larger radius) or ``max_ratio``, or of
    different classes, two lesions never match. Of those left over, a current one that lies in a matched prior lesion is
    a part of it (``split``), a prior one that lies in a matched current lesion went into it (``merged``).
    """
    moved = [_moved(lesion, registration) for lesion in prior]
    pairs = _assign(moved, current, max_distance_mm, max_ratio)
    pairs |= _parts(moved, current, pairs)
    named = frozenset((moved[i].id, current[j].id) for i, j in pairs)
    return FollowUp(tuple(moved), tuple(current), named, days=days)


def _moved(lesion: Lesion, registration: Registration | None) -> Lesion:
    if registration is None:
        return lesion
    centroid = registration.to_current(lesion.centroid_mm)[0]
    return replace(lesion, centroid_mm=centroid, points_mm=registration.to_current(lesion.points_mm))


def _assign(prior: Sequence[Lesion], current: Sequence[Lesion], max_distance_mm: float, max_ratio: float) -> set[Pair]:
    """Return the (index in prior, index in current) that match."""
    if not prior or not current:
        return set()
    distance = np.linalg.norm(_stack(prior)[:, None] - _stack(current)[None], axis=-1)
    radii = np.maximum.outer([p.radius_mm for p in prior], [c.radius_mm for c in current])
    gate = max_distance_mm + radii
    ratio = np.abs(np.subtract.outer(*[np.log([max(x.volume_mm3, 1e-9) for x in side]) for side in (prior, current)]))
    other = np.not_equal.outer([p.class_id for p in prior], [c.class_id for c in current])
    cost = distance / gate + 0.5 * ratio / np.log(max_ratio)
    barred = (distance > gate) | (ratio > np.log(max_ratio)) | other
    # dearer than any set of allowed pairs, so that as many as possible match
    cost[barred] = 2.0 * (min(cost.shape) + 1)
    rows, columns = linear_sum_assignment(cost)
    return {(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if not barred[i, j]}


def _stack(lesions: Sequence[Lesion]) -> NDArray[np.float64]:
    return np.array([lesion.centroid_mm for lesion in lesions])


def _parts(prior: Sequence[Lesion], current: Sequence[Lesion], pairs: set[Pair]) -> set[Pair]:
    """Return more pairs: lesions without a match that lie in a matched one of the other time."""
    taken_prior, taken_current = {i for i, _ in pairs}, {j for _, j in pairs}
    found = set()
    for j in set(range(len(current))) - taken_current:
        homes = [i for i in taken_prior if _lies_in(current[j], prior[i])]
        found |= {(i, j) for i in _nearest(current[j], prior, homes)}
    for i in set(range(len(prior))) - taken_prior:
        homes = [j for j in taken_current if _lies_in(prior[i], current[j])]
        found |= {(i, j) for j in _nearest(prior[i], current, homes)}
    return found


def _nearest(part: Lesion, lesions: Sequence[Lesion], homes: Sequence[int]) -> list[int]:
    """Return the one of ``homes`` whose middle is nearest, or none."""
    gaps = [(float(np.linalg.norm(lesions[i].centroid_mm - part.centroid_mm)), i) for i in homes]
    return [min(gaps)[1]] if gaps else []


def _lies_in(part: Lesion, whole: Lesion) -> bool:
    """Tell whether most of a part lies in a lesion of the same class, give or take what registration misses."""
    if part.class_id != whole.class_id:
        return False
    reach = max(2.0, 0.2 * whole.radius_mm)
    near, _ = cKDTree(whole.points_mm).query(part.points_mm, distance_upper_bound=reach + _spacing(whole))
    return float(np.isfinite(near).mean()) > 0.5


def _spacing(lesion: Lesion) -> float:
    """Return about the distance between neighbouring points of a lesion."""
    return float((lesion.volume_mm3 / len(lesion.points_mm)) ** (1 / 3))


def _by_size(lesions: Iterable[Lesion]) -> list[Lesion]:
    return sorted(lesions, key=lambda x: (-x.volume_mm3, x.id))


def _middle(lesions: Sequence[Lesion]) -> NDArray[np.float64]:
    """Return the middle of all their voxels together, LPS mm."""
    return np.asarray(np.average(_stack(lesions), axis=0, weights=[x.volume_mm3 for x in lesions]))


def _groups(prior: Sequence[int], current: Sequence[int], pairs: Iterable[Pair]) -> list[tuple[set[int], set[int]]]:
    """Return the (prior ids, current ids) that hang together, single ones too."""
    home = {i: ({i}, set[int]()) for i in prior}
    of_current: dict[int, tuple[set[int], set[int]]] = {}
    for a, b in sorted(pairs):
        group, other = home[a], of_current.get(b)
        group[1].add(b)
        if other is not None and other is not group:
            group[0].update(other[0])
            group[1].update(other[1])
        for i in group[0]:
            home[i] = group
        for j in group[1]:
            of_current[j] = group
    firsts = {min(group[0]): group for group in home.values()}
    return [*(firsts[i] for i in sorted(firsts)), *((set[int](), {j}) for j in current if j not in of_current)]
