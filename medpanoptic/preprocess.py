"""From a Volume to the network's grid and back, by MONAI dictionary transforms.

Units inside MONAI: mm for volumes, micrometres for 2D, because MONAI compares affines with absolute tolerances of
1e-3; so ``Spacingd``'s ``pixdim`` is in mm for 3D bundles and in um for 2D ones. One of
the two files where RAS appears (the other is ``io/nifti.py``): MONAI's affines are RAS.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageReader, MetaTensor
from monai.transforms import Compose, Invertd, MapTransform, Orientationd, Spacingd
from numpy.typing import NDArray
from torch import Tensor

from medpanoptic.errors import ModelError
from medpanoptic.geometry import Affine, lps_to_ras
from medpanoptic.volume import Volume

Steps = Sequence[Mapping[str, Any]]
# values looked at before a percentile is taken
_SAMPLES = 10_000


class VolumeReader(ImageReader):
    """MONAI ImageReader over our readers: ``LoadImaged(keys, reader=VolumeReader(), ensure_channel_first=True)``.

    Takes a path that ``medpanoptic.read_volume`` reads, or a Volume; the array is (C, *S) float32 with an index -> RAS
    affine in the metadata.
    """

    def verify_suffix(self, filename: Any) -> bool:
        """Every path is tried: a DICOM folder has no suffix."""
        return True

    def read(self, data: Any, **kwargs: Any) -> Volume:
        """Return the Volume at a path (arguments as for ``read_volume``), or the Volume given."""
        from medpanoptic.io import read_volume

        if isinstance(data, Volume):
            return data
        path = data[0] if isinstance(data, (list, tuple)) and len(data) == 1 else data
        return read_volume(path, **kwargs)

    def get_data(self, img: Volume) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Return the array and MONAI's metadata."""
        affine = lps_to_ras(img.affine)
        if img.ndim == 2:
            affine = np.diag([1000.0, 1000.0, 1000.0, 1.0]) @ affine
        meta = {
            "affine": affine,
            "original_affine": affine.copy(),
            "spatial_shape": np.asarray(img.shape),
            "original_channel_dim": 0,
        }
        return np.ascontiguousarray(img.array, dtype=np.float32), meta


class ToChannelsd(MapTransform):
    """Give the image ``channels`` channels: gray is repeated, an equal count is kept, alpha beyond RGB is left out.

    Raises ModelError (INPUT-CHANNELS) for any other count.
    """

    def __init__(self, keys: KeysCollection, channels: int) -> None:
        super().__init__(keys)
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a new dictionary."""
        out = dict(data)
        for key in self.keys:
            image = out[key]
            found = image.shape[0]
            if found == 1 and self.channels > 1:
                out[key] = image.repeat(self.channels, *(1,) * (image.ndim - 1))
            elif found != self.channels:
                raise ModelError(
                    "INPUT-CHANNELS",
                    f"the model takes {self.channels} channels but the image has {found}; choose or merge them",
                )
        return out


class NormalizeChannelsd(MapTransform):
    """Map intensities to about [0, 1], one rule per channel, or one rule for all channels together.

    rules : each ``{"window": [low, high]}`` (fixed, for HU and SUV) or ``{"percentiles": [low, high]}`` (of this image,
        over its non-zero voxels if ``"nonzero": true``); ``"power": p`` then raises the clipped value to p (0.5 opens
        up low SUV). A channel that is constant becomes 0.
    """

    def __init__(self, keys: KeysCollection, rules: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(keys)
        self.rules = rules

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a new dictionary."""
        out = dict(data)
        for key in self.keys:
            if len(self.rules) == 1:
                out[key] = normalize_intensity(out[key], **self.rules[0])
                continue
            out[key] = image = out[key].clone()
            for channel, rule in enumerate(self.rules):
                image[channel] = normalize_intensity(image[channel], **rule)
        return out


def normalize_intensity(
    image: Tensor,
    window: Sequence[float] | None = None,
    percentiles: Sequence[float] | None = None,
    nonzero: bool = False,
    power: float = 1.0,
) -> Tensor:
    """Return ``image`` clipped to a window, or to percentiles of itself, and scaled to [0, 1]: NormalizeChannelsd."""
    if window is not None:
        low, high = window
    else:
        values = np.asarray(image[image != 0] if nonzero else image)
        if values.size == 0:
            return torch.zeros_like(image)
        low, high = (percentile(values, q) for q in percentiles or (0, 100))
    if high <= low:
        return torch.zeros_like(image)
    scaled = (image - low).div_(high - low).clamp_(0, 1)
    return scaled if power == 1 else scaled.pow_(power)


def percentile(values: NDArray[np.float32], q: float) -> float:
    """Return the ``q``-th percentile, 0 to 100, of an array of any shape without NaN: ``np.percentile`` to the bit.

    A sample tells a value that it surely does not pass, and only what lies beyond that is sorted: an image of 12
    million values takes a fifth of the time.
    """
    flat = values.reshape(-1)
    place = q / 100 * (flat.size - 1)
    below = math.floor(place)
    above = min(below + 1, flat.size - 1)
    sample = np.sort(flat[:: max(1, flat.size // _SAMPLES)])
    bound = round(q / 100 * len(sample))
    margin = len(sample) // 100 + 1
    if q <= 50:
        tail, skipped = flat[flat <= sample[min(bound + margin, len(sample) - 1)]], 0
    else:
        tail = flat[flat >= sample[max(bound - margin, 0)]]
        skipped = flat.size - len(tail)
    if not (skipped <= below and above < skipped + len(tail)):  # the sample was not like the rest
        tail, skipped = flat, 0
    tail = np.partition(tail, (below - skipped, above - skipped))
    low, high, part = tail[below - skipped], tail[above - skipped], place - below
    step = float(high - low)
    return float(low) + step * part if part < 0.5 else float(high) - step * (1 - part)


# the allow-list: a bundle's preprocessing may name these and nothing else
SPATIAL_STEPS = {"Orientationd": Orientationd, "Spacingd": Spacingd}
INTENSITY_STEPS = {"ToChannelsd": ToChannelsd, "NormalizeChannelsd": NormalizeChannelsd}


def build_transforms(steps: Steps, truth_keys: tuple[str, ...] = ()) -> Compose:
    """Build MONAI transforms on the key ``image`` from a bundle's data-only list ``[{"_target_": name, ...}]``.

    truth_keys : label maps that follow the spatial steps by nearest neighbour (training).
    Raises ModelError (BUNDLE-UNSAFE) for a name outside the allow-list.
    """
    built = []
    for step in steps:
        name = step["_target_"]
        arguments = {k: v for k, v in step.items() if k != "_target_"}
        keys = ("image", *truth_keys)
        if name == "Orientationd":
            built.append(Orientationd(keys, labels=(("L", "R"), ("P", "A"), ("I", "S")), **arguments))
        elif name == "Spacingd":
            modes = ("bilinear", *("nearest",) * len(truth_keys))
            built.append(Spacingd(keys, mode=modes, dtype=np.float32, **arguments))
        elif name in INTENSITY_STEPS:
            built.append(INTENSITY_STEPS[name]("image", **arguments))
        else:
            allowed = sorted({**SPATIAL_STEPS, **INTENSITY_STEPS})
            raise ModelError("BUNDLE-UNSAFE", f"preprocessing step {name!r} is not allowed; allowed are {allowed}")
    return Compose(built)


def volume_to_metatensor(volume: Volume) -> MetaTensor:
    """Return (C, *S) float32 with an index -> RAS affine; the array is copied."""
    array, meta = VolumeReader().get_data(volume)
    affine = torch.from_numpy(meta.pop("affine"))
    own = array.copy() if np.may_share_memory(array, volume.array) else array
    return MetaTensor(torch.from_numpy(own), affine=affine, meta=meta)


def grid_affine(image: MetaTensor) -> Affine:
    """Return index -> LPS mm of an image that ``Preprocessing`` made."""
    affine = np.asarray(image.affine, float)
    return lps_to_ras(np.diag([1e-3, 1e-3, 1e-3, 1.0]) @ affine if image.ndim == 3 else affine)


class Preprocessing:
    """A bundle's way to the network's grid and back. MONAI inverts only with the very transforms that it applied.

    steps : the bundle's ``preprocessing`` list.
    """

    def __init__(self, steps: Steps) -> None:
        self.transforms = build_transforms(steps)

    def __call__(self, volume: Volume) -> MetaTensor:
        """Return (C, *S') float32 on the network's grid."""
        image: MetaTensor = self.transforms({"image": volume_to_metatensor(volume)})["image"]
        return image

    def to_native(self, labels: Tensor | NDArray, image: MetaTensor) -> NDArray:
        """Bring a label map (*S') back to the grid of the volume that ``image`` was made from, nearest neighbour.

        Keeps the dtype of ``labels``; values must be exact in float64.
        """
        values = MetaTensor(torch.as_tensor(labels).to(torch.float64)[None], meta=image.meta)
        invert = Invertd("values", self.transforms, orig_keys="image", nearest_interp=True, to_tensor=True)
        native = invert({"values": values, "image": image})["values"][0].as_subclass(Tensor)
        return native.round().to(torch.as_tensor(labels).dtype).cpu().numpy()
