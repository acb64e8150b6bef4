"""From the network's grid back to the grid of the image: the map, what lies under it, and what fusion dropped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from medpanoptic.bundle import Bundle
from medpanoptic.fusion import DroppedInstance, Fused
from medpanoptic.identity import array_digest, uid_from
from medpanoptic.preprocess import Preprocessing
from medpanoptic.result import Box, Dropped, PanopticResult, Provenance, Segment
from medpanoptic.volume import Volume

_BLUR_VOXELS = 0.7


def to_result(
    fused: Fused,
    grid: MetaTensor,
    volume: Volume,
    preprocessing: Preprocessing | None,
    bundle: Bundle,
    provenance: Provenance,
) -> PanopticResult:
    """Bring a fused map to the grid of ``volume``; ``preprocessing`` None where it is the network's grid already."""
    classes = bundle.classes.classes
    # -1, no stuff class, takes the last entry: void
    stuff_ids = np.array([*(c.id for c in classes), 0], np.uint8)[fused.stuff.numpy()]
    ids = fused.ids.numpy()
    if preprocessing is not None:
        things = [s.id for s in fused.segments if classes[s.channel].is_thing]
        ids = smooth_ids(ids, things, preprocessing, grid)
        stuff_ids = smooth_ids(stuff_ids.astype(np.int32), [], preprocessing, grid).astype(np.uint8)
    present = np.unique(ids)
    present = present[present > 0]
    lost = [s for s in fused.segments if s.id not in set(present.tolist())]
    numbered = np.searchsorted(np.concatenate(([0], present)), ids).astype(np.int32)
    place = Placing(grid, volume) if preprocessing is not None else None
    dropped = [place_dropped(d, classes[d.channel].id, place) for d in fused.dropped]
    dropped += [
        place_dropped(_as_dropped(fused, s.id, s.channel, s.score), classes[s.channel].id, place)
        for s in lost
        if classes[s.channel].is_thing
    ]
    key = (_input_key(volume), bundle.weights_sha256, repr(provenance), array_digest(numbered))
    kept = [s for s in fused.segments if s not in lost]
    segments = tuple(
        Segment(i, classes[s.channel].id, s.score, tracking_uid=uid_from("tracking", *key, str(i)))
        for i, s in enumerate(kept, start=1)
    )
    return PanopticResult(
        numbered, segments, bundle.classes, volume.affine, volume.source, provenance, stuff_ids, tuple(dropped)
    )


def smooth_ids(
    ids: NDArray[np.int32], things: Sequence[int], preprocessing: Preprocessing, grid: MetaTensor
) -> NDArray[np.int32]:
    """Bring an id map (*S') to the native grid without the steps of the coarser grid.

    At each native voxel, all things together, every stuff segment and void compete by their share of its surroundings:
    a mask blurred by 0.7 voxels of the coarse grid, linearly interpolated (without the blur its steps would stay). A
    plate one voxel thick still wins its middle. Where things win, the nearest thing takes the voxel: rims are smooth,
    borders between touching things are nearest neighbour. Equal shares go to things, then to the smaller id.
    """
    is_thing = np.isin(ids, things)
    others = [int(i) for i in np.unique(ids) if i not in set(things)]

    def share_of(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        blurred = ndimage.gaussian_filter(mask.astype(np.float32), _BLUR_VOXELS, mode="nearest")
        return preprocessing.to_native_share(blurred, grid)

    best = share_of(is_thing)
    native = np.zeros(best.shape, np.int32)
    if is_thing.any():
        nearest = ndimage.distance_transform_edt(~is_thing, return_distances=False, return_indices=True)
        native = preprocessing.to_native(ids[tuple(nearest)], grid)
    for other in others:
        share = share_of(ids == other)
        better = share > best
        native[better], best[better] = other, share[better]
    return native


class Placing:
    """Voxel indices of the native grid <-> of the network's grid."""

    def __init__(self, grid: MetaTensor, volume: Volume) -> None:
        ndim = volume.ndim
        native = np.asarray(grid.meta["original_affine"], float)
        network = np.asarray(grid.affine, float)
        self.shape = volume.shape
        # least squares: in 2D the third index column says nothing
        inverse = np.linalg.pinv(network[:3, :ndim])
        self.matrix = inverse @ native[:3, :ndim]
        self.shift = inverse @ (native[:3, 3] - network[:3, 3])

    def native_box(self, box: Box) -> Box:
        """Return the smallest native box around a network box, at least one voxel, inside the image."""
        edges = np.array(np.meshgrid(*[(a - 0.5, b - 0.5) for a, b in box], indexing="ij")).reshape(len(box), -1)
        corners = np.linalg.solve(self.matrix, edges - self.shift[:, None]) + 0.5
        start = np.clip(np.floor(corners.min(1) + 1e-6), 0, np.array(self.shape) - 1).astype(int)
        stop = np.clip(np.ceil(corners.max(1) - 1e-6), start + 1, self.shape).astype(int)
        return tuple(zip(start.tolist(), stop.tolist(), strict=True))

    def native_mask(self, mask: NDArray[np.bool_], box: Box, native: Box) -> NDArray[np.bool_]:
        """Take the mask of a network box at the voxel centres of a native box, nearest neighbour."""
        index = np.stack(np.meshgrid(*[np.arange(a, b) for a, b in native], indexing="ij"), -1)
        inner = np.rint(index @ self.matrix.T + self.shift).astype(int) - [a for a, _ in box]
        inside = ((inner >= 0) & (inner < mask.shape)).all(-1)
        inner = np.where(inside[..., None], inner, 0)
        taken: NDArray[np.bool_] = mask[tuple(np.moveaxis(inner, -1, 0))] & inside
        return taken


def place_dropped(dropped: DroppedInstance, class_id: int, place: Placing | None) -> Dropped:
    """Bring what fusion dropped to the native grid; None where it is there already."""
    mask = dropped.mask.cpu().numpy()
    if place is None:
        return Dropped(class_id, dropped.score, dropped.reason, dropped.box, mask)
    box = place.native_box(dropped.box)
    return Dropped(class_id, dropped.score, dropped.reason, box, place.native_mask(mask, dropped.box, box))


def _as_dropped(fused: Fused, segment_id: int, channel: int, score: float) -> DroppedInstance:
    """Describe a thing too small for any voxel of the native grid."""
    where = (fused.ids == segment_id).nonzero()
    start, stop = where.amin(0).tolist(), (where.amax(0) + 1).tolist()
    box = tuple(zip(start, stop, strict=True))
    return DroppedInstance(channel, score, "area", box, fused.ids[tuple(slice(a, b) for a, b in box)] == segment_id)


def _input_key(volume: Volume) -> str:
    """Return what names an input: its series, or for other files its content."""
    return volume.source.series_uid or array_digest(volume.array)
