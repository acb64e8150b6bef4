"""Patches and their augmentation: where to cut is ours, the rest are MONAI's random transforms.

Every random choice comes from a seed given per patch, so that a resumed run draws what an unbroken one would.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any

import monai.transforms as mt
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform, RandomizableTransform
from numpy.typing import NDArray

from medpanoptic.errors import ModelError
from medpanoptic.training.cases import Case
from medpanoptic.training.paste import paste_things

KEYS = ("image", "semantic", "instances")
MODES = ("bilinear", "nearest", "nearest")
# MONAI's random transforms that a bundle's train.json may name; spatial ones act on labels too
SPATIAL = {"RandFlipd", "RandRotate90d", "RandAffined"}
INTENSITY = {
    "RandGaussianNoised",
    "RandGaussianSmoothd",
    "RandAdjustContrastd",
    "RandScaleIntensityd",
    "RandShiftIntensityd",
}


class StainJitterd(MapTransform, RandomizableTransform):
    """Scale and shift each channel in optical density, as stains and scanners vary. Image in [0, 1], RGB.

    strength : half width of the relative change per channel. Source of the idea: Tellez et al., TMI 2018, section 2.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.8, strength: float = 0.2) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.strength = strength

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a new dictionary."""
        out = dict(data)
        self.randomize(None)
        if self._do_transform:
            for key in self.keys:
                density = -torch.log(out[key].clamp(1 / 255, 1))
                shape = (density.shape[0], *(1,) * (density.ndim - 1))
                gain = torch.as_tensor(self.R.uniform(1 - self.strength, 1 + self.strength, shape), dtype=density.dtype)
                shift = torch.as_tensor(
                    self.R.uniform(-self.strength / 4, self.strength / 4, shape), dtype=density.dtype
                )
                out[key] = torch.exp(-(density * gain + shift)).clamp(0, 1)
        return out


class InvertIntensityd(MapTransform, RandomizableTransform):
    """Turn bright on dark into dark on bright: fluorescence and bright-field share one model. Image in [0, 1]."""

    def __init__(self, keys: KeysCollection, prob: float = 0.1) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a new dictionary."""
        out = dict(data)
        self.randomize(None)
        if self._do_transform:
            for key in self.keys:
                out[key] = 1 - out[key]
        return out


class ChannelDropoutd(MapTransform, RandomizableTransform):
    """Set one of ``channels`` to 0: a modality that a study may lack."""

    def __init__(self, keys: KeysCollection, channels: Sequence[int], prob: float = 0.3) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.channels = list(channels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a new dictionary."""
        out = dict(data)
        self.randomize(None)
        if self._do_transform:
            channel = int(self.R.choice(self.channels))
            for key in self.keys:
                image = out[key].clone()
                image[channel] = 0
                out[key] = image
        return out


OWN = {"StainJitterd": StainJitterd, "InvertIntensityd": InvertIntensityd, "ChannelDropoutd": ChannelDropoutd}


def build_augmentation(steps: Sequence[Mapping[str, Any]]) -> Compose:
    """Build the random transforms of a bundle's train.json. Raises ModelError (BUNDLE-UNSAFE) for a name not listed."""
    built = []
    for step in steps:
        name = step["_target_"]
        arguments = {k: v for k, v in step.items() if k != "_target_"}
        if name == "RandAffined":
            built.append(mt.RandAffined(KEYS, mode=MODES, padding_mode="zeros", **arguments))
        elif name in SPATIAL:
            built.append(getattr(mt, name)(KEYS, **arguments))
        elif name in INTENSITY:
            built.append(getattr(mt, name)("image", **arguments))
        elif name in OWN:
            built.append(OWN[name]("image", **arguments))
        else:
            raise ModelError(
                "BUNDLE-UNSAFE",
                f"augmentation {name!r} is not allowed; allowed are {sorted(SPATIAL | INTENSITY | set(OWN))}",
            )
    return Compose(built)


def draw_patch(
    cases: Sequence[Case],
    patch: Sequence[int],
    sampling: Mapping[str, float],
    augmentation: Compose,
    seed: Sequence[int],
    margin: float = 1.0,
    paste: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Draw one augmented patch and its instance labels.

    patch : spatial size. sampling : weights of ``thing`` (around a thing, moved at random), ``small_thing`` (the same,
        case and thing drawn by 1 / sqrt(size)), ``any`` (anywhere) and ``thing_free`` (the case cut beside its things).
    margin : patches are cut this much larger, so that rotation brings in real surroundings; MONAI's RandAffined
        ``spatial_size`` must then cut to ``patch``.
    paste : ``prob``, and ``most``, ``scale`` and ``gap`` of ``paste.paste_things``; None pastes nothing.
    Groups of cases are drawn by the square root of their size, thing classes evenly.
    """
    rng = np.random.default_rng(list(seed))
    kind = str(rng.choice(list(sampling), p=np.array(list(sampling.values())) / sum(sampling.values())))
    case = _choose_small(cases, rng) if kind == "small_thing" else _choose_case(cases, rng)
    size = np.ceil(np.asarray(patch) * margin).astype(int)
    low, high = np.zeros(len(size), int), np.asarray(case.semantic.shape)
    if kind == "thing_free":
        low, high = _beside_things(case, rng)
        case = crop_case(case, low, high - low)
        low, high = np.zeros(len(size), int), np.asarray(case.semantic.shape)
    if kind in ("thing", "small_thing") and len(case.labels) > 1:
        moved = rng.integers(-np.asarray(patch) // 3, np.asarray(patch) // 3 + 1)
        centre = _point_in_thing(case, rng, kind == "small_thing") + moved
    else:
        half = np.minimum(size // 2, high // 2)
        centre = rng.integers(half, np.maximum(high - half, half) + 1)
    # a patch larger than the image is centred on it; else it stays inside, but for a third that may hang over in 3D
    hang = size // 3 if len(size) == 3 else np.zeros(len(size), int)
    start = np.clip(
        centre - size // 2, np.minimum(-hang, (high - size) // 2), np.maximum(high - size + hang, (high - size) // 2)
    )
    cut = crop_case(case, start, size)
    if paste is not None and rng.random() < paste["prob"]:
        cut = paste_things(cut, cases, rng, **{k: v for k, v in paste.items() if k != "prob"})
    data = {
        "image": torch.from_numpy(cut.image),
        "semantic": torch.from_numpy(cut.semantic[None].astype(np.float32) + 1),
        "instances": torch.from_numpy(cut.instances[None].astype(np.float32)),
    }
    augmentation.set_random_state(seed=int(rng.integers(2**31)))
    return augmentation(data), cut.labels


def crop_case(case: Case, start: NDArray[np.int_], size: NDArray[np.int_]) -> Case:
    """Cut a box that may hang over the rim: outside, the image is 0, the class unknown and there is no thing."""
    shape = np.asarray(case.semantic.shape)
    begin, end = np.clip(start, 0, shape), np.clip(start + size, 0, shape)
    source = tuple(slice(b, e) for b, e in zip(begin, end, strict=True))
    target = tuple(slice(b - s, e - s) for b, e, s in zip(begin, end, start, strict=True))
    image = np.zeros((len(case.image), *size), np.float32)
    semantic = np.full(tuple(size), -1, np.int16)
    instances = np.zeros(tuple(size), np.int32)
    image[(slice(None), *target)] = case.image[(slice(None), *source)]
    semantic[target] = case.semantic[source]
    instances[target] = case.instances[source]
    return Case(case.id, case.group, image, semantic, instances, case.labels)


def _choose_case(cases: Sequence[Case], rng: np.random.Generator) -> Case:
    groups = sorted({c.group for c in cases})
    counts = np.array([sum(c.group == g for c in cases) for g in groups])
    group = groups[rng.choice(len(groups), p=np.sqrt(counts) / np.sqrt(counts).sum())]
    members = [c for c in cases if c.group == group]
    return members[int(rng.integers(len(members)))]


@cache
def _small_weights(case: Case) -> NDArray[np.float64]:
    """1 / sqrt(size) of each thing of a case; cases are never changed, so they may be keys."""
    sizes = np.bincount(case.instances.ravel(), minlength=len(case.labels))[1:]
    weights: NDArray[np.float64] = np.where(sizes > 0, 1 / np.sqrt(np.maximum(sizes, 1)), 0.0)
    return weights


def _choose_small(cases: Sequence[Case], rng: np.random.Generator) -> Case:
    weights = np.array([w.mean() if (w := _small_weights(c)).sum() else 0.0 for c in cases])
    return cases[rng.choice(len(cases), p=weights / weights.sum())] if weights.sum() else _choose_case(cases, rng)


def _point_in_thing(case: Case, rng: np.random.Generator, prefer_small: bool) -> NDArray[np.int_]:
    if prefer_small and (weights := _small_weights(case)).sum():
        wanted = 1 + rng.choice(len(weights), p=weights / weights.sum())
    else:
        present = np.unique(case.labels[1:])
        of_class = np.flatnonzero(case.labels == present[rng.integers(len(present))])
        wanted = of_class[of_class > 0][rng.integers((of_class > 0).sum())]
    pixels = np.argwhere(case.instances == wanted)
    return pixels[rng.integers(len(pixels))] if len(pixels) else np.asarray(case.instances.shape) // 2


def _beside_things(case: Case, rng: np.random.Generator) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Return a box (low, high) of the case without a thing: one of the slabs beside their common box, by size."""
    shape = np.asarray(case.instances.shape)
    pixels = np.argwhere(case.instances > 0)
    if len(pixels) == 0:
        return np.zeros(len(shape), int), shape
    first, last = pixels.min(0), pixels.max(0) + 1
    slabs = []
    for axis in range(len(shape)):
        before, after = shape.copy(), np.zeros(len(shape), int)
        before[axis], after[axis] = first[axis], last[axis]
        slabs += [(np.zeros(len(shape), int), before), (after, shape)]
    sizes = np.array([np.prod(h - l) for l, h in slabs], float)
    if sizes.sum() == 0:
        return np.zeros(len(shape), int), shape
    return slabs[rng.choice(len(slabs), p=sizes / sizes.sum())]
