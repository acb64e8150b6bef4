"""Cases ready for drawing patches: on the network's grid, classes as channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medpanoptic.classes import ClassTable
from medpanoptic.errors import DataError
from medpanoptic.networks.outputs import Targets
from medpanoptic.preprocess import Steps, build_transforms, volume_to_metatensor
from medpanoptic.training.layouts import VOID, AnnotatedVolume


@dataclass(frozen=True, eq=False)
class Case:
    """image (C, *S) float32; semantic (*S) int16 channel k or -1; instances (*S) int32; labels (N + 1,) int64."""

    id: str
    group: str
    image: NDArray[np.float32]
    semantic: NDArray[np.int16]
    instances: NDArray[np.int32]
    labels: NDArray[np.int64]


def prepare(annotated: AnnotatedVolume, steps: Steps, classes: ClassTable) -> Case:
    """Bring a case to the network's grid and its codes to channels.

    A class name that the bundle does not have becomes unknown (-1). Instances are kept for thing classes only and
    renumbered 1..n; each takes the class of most of its pixels.
    Raises DataError (DATA-CLASSES) if none of the case's class names is known to the bundle.
    """
    channel_of = {c.name: k for k, c in enumerate(classes)}
    if not set(annotated.code_names.values()) & set(channel_of):
        raise DataError(
            "DATA-CLASSES",
            f"the data's {sorted(annotated.code_names.values())} and the bundle's {sorted(channel_of)} share no name",
        )
    if not annotated.volume.calibrated:  # nothing to resample by, as in inference
        steps = [step for step in steps if step["_target_"] != "Spacingd"]
    image = volume_to_metatensor(annotated.volume)
    truth = {"codes": annotated.codes, "ids": annotated.instances}
    data = {"image": image} | {k: image.new_tensor(v[None].astype(np.float32)) for k, v in truth.items()}
    out = build_transforms(steps, ("codes", "ids"))(data)
    codes, ids = (np.asarray(out[k][0]).round().astype(np.int32) for k in ("codes", "ids"))
    semantic = np.full(codes.shape, -1, np.int16)
    for code in np.unique(codes):
        if code != VOID:
            semantic[codes == code] = channel_of.get(annotated.code_names.get(int(code), ""), -1)
    instances, labels = instance_classes(ids, semantic, [k for k, c in enumerate(classes) if c.is_thing])
    return Case(annotated.id, annotated.group, np.asarray(out["image"], np.float32), semantic, instances, labels)


def instance_classes(
    ids: NDArray[np.int32], semantic: NDArray[np.int16], thing_channels: Sequence[int]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Keep the ids whose most frequent channel is a thing, renumbered 1..n; return them and labels (n + 1,)."""
    inside = (ids > 0) & np.isin(semantic, list(thing_channels))
    found, index = np.unique(ids[inside], return_inverse=True)
    votes = np.zeros((len(found), max(thing_channels) + 1), np.int64)
    np.add.at(votes, (index, semantic[inside]), 1)
    renumbered = np.zeros(ids.shape, np.int32)
    renumbered[inside] = index + 1
    return renumbered, np.concatenate([[0], votes.argmax(1) if len(found) else []]).astype(np.int64)


def to_batch(patches: Sequence[Mapping[str, Tensor]], labels: Sequence[NDArray[np.int64]]) -> tuple[Tensor, Targets]:
    """Stack patches with keys image (C, *S), semantic (1, *S) channel + 1 (0 = unknown) and instances (1, *S)."""
    # plain tensors: MONAI's MetaTensor would follow every operation of the network in Python
    image, semantic, instances = (
        torch.stack([torch.as_tensor(p[key]).as_subclass(torch.Tensor) for p in patches])
        for key in ("image", "semantic", "instances")
    )
    semantic, instances = semantic[:, 0].round().long() - 1, instances[:, 0].round().long()
    return image.float(), Targets(semantic, instances, tuple(torch.from_numpy(v) for v in labels))
