"""From Labels layers, perhaps edited by a person, back to one valid result on the native grid. No napari import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpanoptic.classes import ClassTable
from medpanoptic.errors import WriteError
from medpanoptic.geometry import same_grid
from medpanoptic.identity import array_digest, uid_from
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.volume import Volume
from napari_medpanoptic.layers import KEY, LayerData, stuff_map, thing_map


def result_from_layers(layers: Sequence[LayerData]) -> PanopticResult:
    """Return the result that the layers show now, in the native grid and axis order.

    layers : layer data tuples; of the Labels among them one "things" and at most one "stuff" layer of the same
        result. Without a stuff layer the result's own stuff is kept.
    A segment whose mask changed becomes ``edited``, an unknown thing id a new segment ``added`` (its class from the
    features table, or the only thing class), a thing with no voxel left is dropped; tissue fills its place.
    Unchanged layers give the segments and ids back unchanged.
    Raises WriteError: LAYER-UNKNOWN, LAYER-MIXED, LAYER-SHAPE, LAYER-CLASS.
    """
    things, stuff = _our_layers(layers)
    meta = things[1]["metadata"][KEY]
    result: PanopticResult = meta["result"]
    thing_ids = _native(things, result)
    stuff_classes = stuff_map(result) if stuff is None else _native(stuff, result)
    _check_stuff(stuff_classes, result.classes)
    if np.array_equal(thing_ids, thing_map(result)) and np.array_equal(stuff_classes, stuff_map(result)):
        return result
    ids, added = _renumber(thing_ids, result)
    new = _new_segments(added, ids, things[1].get("features"), result)
    ids, stuff_segments = _fill_stuff(ids, stuff_classes, result, first_free=_first_free(result, new))
    return _rebuild(result, ids, [*new, *stuff_segments], stuff_classes)


def volume_from_layers(layers: Sequence[LayerData], result: PanopticResult) -> Volume | None:
    """Return the first volume known to the layers that lies on the grid of ``result``, or None."""
    for _, attributes, _ in layers:
        volume = attributes.get("metadata", {}).get(KEY, {}).get("volume")
        if volume is not None and same_grid(volume.affine, result.affine, volume.shape, result.ids.shape):
            return volume
    return None


def _our_layers(layers: Sequence[LayerData]) -> tuple[LayerData, LayerData | None]:
    found: dict[str, list[LayerData]] = {"things": [], "stuff": []}
    for layer in layers:
        role = layer[1].get("metadata", {}).get(KEY, {}).get("role")
        if layer[2] == "labels" and role not in found:
            raise WriteError(
                "LAYER-UNKNOWN",
                f"layer {layer[1].get('name')!r} was not made by medpanoptic: select only its things and stuff layers",
            )
        if role in found:
            found[role].append(layer)
    results = {id(layer[1]["metadata"][KEY]["result"]) for group in found.values() for layer in group}
    if len(found["things"]) != 1 or len(found["stuff"]) > 1 or len(results) != 1:
        names = [layer[1].get("name") for group in found.values() for layer in group]
        raise WriteError(
            "LAYER-MIXED",
            f"one things layer and its stuff layer make one case; selected are {names}: save one at a time",
        )
    return found["things"][0], found["stuff"][0] if found["stuff"] else None


def _native(layer: LayerData, result: PanopticResult) -> NDArray:
    data = np.asarray(layer[0])
    native = layer[1]["metadata"][KEY]["order"].to_native(data)
    if native.shape != result.ids.shape:
        raise WriteError(
            "LAYER-SHAPE",
            f"layer {layer[1].get('name')!r} has shape {native.shape}, its result {result.ids.shape}: "
            "it was cropped or resized; undo that before saving",
        )
    return native


def _check_stuff(stuff_classes: NDArray, classes: ClassTable) -> None:
    known = {0, *(c.id for c in classes.stuff)}
    odd = sorted(set(np.unique(stuff_classes).tolist()) - known)
    if odd:
        names = {c.id: c.name for c in classes.stuff}
        raise WriteError("LAYER-CLASS", f"the stuff layer holds labels {odd[:10]}; its classes are {names}")


def _renumber(thing_ids: NDArray, result: PanopticResult) -> tuple[NDArray[np.int32], dict[int, int]]:
    """Return (*S) int32 thing ids and {new id: painted label}; a painted label that stuff owns gets a free id."""
    known = {s.id for s in result.things}
    taken = {s.id for s in result.segments}
    ids = thing_ids.astype(np.int32)
    added: dict[int, int] = {}
    for label in sorted(set(np.unique(thing_ids).tolist()) - known - {0}):
        new_id = label if label not in taken and label > 0 else max(taken | set(np.unique(ids).tolist())) + 1
        ids[thing_ids == label] = new_id
        taken.add(new_id)
        added[new_id] = label
    return ids, added


def _new_segments(
    added: dict[int, int], ids: NDArray[np.int32], features: Any, result: PanopticResult
) -> list[Segment]:
    source = result.source.series_uid
    return [
        Segment(
            new_id,
            _class_of(label, features, result.classes),
            origin="added",
            tracking_uid=uid_from(source, "added", array_digest(ids == new_id)),
        )
        for new_id, label in added.items()
    ]


def _class_of(label: int, features: Any, classes: ClassTable) -> int:
    """Return the thing class of a painted label: its row in the features table, or the only class there is."""
    names = {c.name: c.id for c in classes.things}
    if features is not None and "index" in features:
        for name in features.loc[features["index"] == label, "class"]:
            if name in names:
                return names[name]
    if len(names) == 1:
        return next(iter(names.values()))
    raise WriteError(
        "LAYER-CLASS",
        f"label {label} was painted but has no class: add a row with index {label} and one of {sorted(names)} "
        "to the features of the things layer",
    )


def _first_free(result: PanopticResult, new: list[Segment]) -> int:
    return max((s.id for s in (*result.segments, *new)), default=0) + 1


def _fill_stuff(
    ids: NDArray[np.int32], stuff_classes: NDArray, result: PanopticResult, first_free: int
) -> tuple[NDArray[np.int32], list[Segment]]:
    """Return the id map with stuff where no thing is, and segments for stuff classes that had none."""
    segment_of = {s.class_id: s.id for s in result.segments if not result.classes[s.class_id].is_thing}
    bare = ids == 0
    new: list[Segment] = []
    filled = ids.copy()
    for class_id in sorted(set(np.unique(stuff_classes[bare]).tolist()) - {0}):
        if class_id not in segment_of:
            segment_of[class_id] = first_free + len(new)
            new.append(Segment(segment_of[class_id], class_id, origin="added"))
        filled[bare & (stuff_classes == class_id)] = segment_of[class_id]
    return filled, new


def _rebuild(
    result: PanopticResult, ids: NDArray[np.int32], new: list[Segment], stuff_classes: NDArray
) -> PanopticResult:
    changed = ids != result.ids
    touched = set(np.unique(result.ids[changed]).tolist()) | set(np.unique(ids[changed]).tolist())
    present = set(np.unique(ids).tolist())
    kept = [replace(s, origin="edited") if s.id in touched and s.origin == "predicted" else s for s in result.segments]
    segments = tuple(s for s in (*kept, *new) if s.id in present)
    stuff = None if result.stuff is None else stuff_classes.astype(np.uint8)
    return replace(result, ids=ids, segments=segments, stuff=stuff)
