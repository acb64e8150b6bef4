"""Fit an image to a model: choose its channels, and say where it lies outside what the model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medpanoptic.bundle import Bundle
from medpanoptic.errors import ModelError, ReadError
from medpanoptic.volume import Channel, ChannelSpec, Volume

# 2 GiB of float32 per channel: beyond it a pixel size is wrong rather than an image large
MAX_NETWORK_VOXELS = 2**29
# values looked at for the intensity check; enough for a 0.1th percentile
_SAMPLES = 200_000


class InputWarning(NamedTuple):
    """A doubt about an input that still gives a result; ``code`` is stable."""

    code: str
    text: str


def volume_from_array(array: NDArray, affine: NDArray[np.float64] | None, bundle: Bundle) -> Volume:
    """Wrap (C, *S) or, for one channel, (*S); affine index -> LPS mm, None = no pixel size is known."""
    channels_first = array if array.ndim != bundle.spatial_dims else array[None]
    names = [c.name for c in bundle.channels] if len(bundle.channels) == len(channels_first) else None
    return Volume.from_array(channels_first, affine, names)


def fit_channels(volume: Volume, bundle: Bundle) -> Volume:
    """Return the volume with the bundle's channels in its order, and zeros for an optional one that is missing.

    Names decide. Where no name is known to the bundle, order decides if the counts agree or the bundle takes one
    image with whatever channels it has (gray, RGB).
    Raises ModelError: INPUT-DIMS, INPUT-CHANNELS, INPUT-UNIT (Bq/ml for a model of SUV, say); ReadError (INPUT-NAN).
    """
    if volume.ndim != bundle.spatial_dims:
        raise ModelError(
            "INPUT-DIMS", f"model {bundle.name} takes {bundle.spatial_dims}D images, the input is {volume.ndim}D"
        )
    if np.issubdtype(volume.array.dtype, np.floating) and not np.isfinite(volume.array).all():
        raise ReadError("INPUT-NAN", "the image holds NaN or infinite values; replace them first")
    names, wanted = [c.name for c in volume.channels], bundle.channels
    if not set(names) & {spec.name for spec in wanted} and len(wanted) in (1, len(names)):
        return _check_units(volume, bundle)
    missing = [spec.name for spec in wanted if spec.required and spec.name not in names]
    if missing:
        raise ModelError(
            "INPUT-CHANNELS",
            f"model {bundle.name} needs channel {', '.join(missing)}; the input has {', '.join(names)}",
        )
    if names == [spec.name for spec in wanted]:
        return _check_units(volume, bundle)
    empty = np.zeros_like(volume.array[0])
    arrays = [volume.array[names.index(s.name)] if s.name in names else empty for s in wanted]
    channels = [volume.channels[names.index(s.name)] if s.name in names else _absent(s) for s in wanted]
    return _check_units(replace(volume, array=np.stack(arrays), channels=tuple(channels)), bundle)


def _check_units(volume: Volume, bundle: Bundle) -> Volume:
    """Return the volume. A unit that is known and wrong would give a wrong result without a sign."""
    for channel, spec in zip(volume.channels, bundle.channels, strict=False):
        if channel.unit and spec.unit and channel.unit != spec.unit:
            raise ModelError(
                "INPUT-UNIT",
                f"channel {spec.name} is in {channel.unit}, model {bundle.name} takes {spec.unit}; convert it first",
            )
    return volume


def network_steps(volume: Volume, bundle: Bundle) -> tuple[dict[str, Any], ...]:
    """Return the preprocessing for this volume: without a known pixel size there is nothing to resample by.

    Raises ModelError (INPUT-SIZE) if the network's grid would be absurdly large: a wrong pixel size, most likely.
    """
    steps = [dict(step) for step in bundle.preprocessing]
    if not volume.calibrated:
        return tuple(step for step in steps if step["_target_"] != "Spacingd")
    for step in steps:
        if step["_target_"] == "Spacingd":
            unit = 1.0 if volume.ndim == 3 else 1e-3  # pixdim is in um for 2D, see preprocess
            target = [float(v) * unit for v in step["pixdim"]]
            voxels = prod(volume.shape) * prod(volume.spacing) / prod(target)
            if voxels > MAX_NETWORK_VOXELS:
                raise ModelError(
                    "INPUT-SIZE",
                    f"at the model's spacing {target} mm the image would have {voxels:.2g} voxels; its own spacing is "
                    f"{volume.spacing.tolist()} mm: check the pixel size",
                )
    return tuple(steps)


def find_warnings(volume: Volume, bundle: Bundle) -> list[InputWarning]:
    """Compare a volume with fitted channels to the bundle's channels and limits."""
    found = _channel_warnings(volume, bundle.channels)
    if not volume.calibrated:
        if any(step["_target_"] == "Spacingd" for step in bundle.preprocessing) or "spacing_mm" in bundle.limits:
            found.append(InputWarning("UNCALIBRATED", "no pixel size is known; the model's own is assumed"))
    else:
        extent = volume.spacing * volume.shape
        found += _range_warnings("LIMIT-SPACING", "spacing", volume.spacing, bundle.limits.get("spacing_mm"))
        found += _range_warnings("LIMIT-FIELD-OF-VIEW", "field of view", extent, bundle.limits.get("field_of_view_mm"))
    return found + _intensity_warnings(volume, bundle.limits.get("intensity"))


def _absent(spec: ChannelSpec) -> Channel:
    return Channel(spec.name, spec.modality, spec.unit, present=False)


def _channel_warnings(volume: Volume, specs: Sequence[ChannelSpec]) -> list[InputWarning]:
    found = []
    for channel, spec in zip(volume.channels, specs, strict=False):
        if not channel.present:
            found.append(
                InputWarning("CHANNEL-MISSING", f"channel {spec.name} is missing; the model goes on without it")
            )
        if channel.modality and spec.modality and channel.modality != spec.modality:
            text = f"channel {spec.name}: modality is {channel.modality}, the model was trained on {spec.modality}"
            found.append(InputWarning("CHANNEL-MODALITY", text))
    return found


def _range_warnings(code: str, what: str, values: NDArray[np.float64], limits: Any) -> list[InputWarning]:
    """Warn if a length in mm lies outside [low, high], one pair for all axes or one per axis; 1 % is allowed."""
    if limits is None:
        return []
    low, high = np.broadcast_to(np.asarray(limits, float), (len(values), 2)).T
    if np.all((values >= low * 0.99) & (values <= high * 1.01)):
        return []
    shown, lows, highs = (np.round(v, 4).tolist() for v in (values, low, high))
    return [InputWarning(code, f"{what} {shown} mm; the model was trained on {lows} to {highs} mm")]


def _intensity_warnings(volume: Volume, limits: Any) -> list[InputWarning]:
    """Warn if the 0.1th to 99.9th percentile of a channel is not inside its [low, high]."""
    if limits is None:
        return []
    pairs = limits if isinstance(limits[0], list) else [limits] * len(volume.channels)
    found = []
    for channel, array, limit in zip(volume.channels, volume.array, pairs, strict=False):
        if not channel.present:
            continue
        values = array.ravel()[:: max(1, array.size // _SAMPLES)]
        low, high = np.percentile(values, [0.1, 99.9])
        if low < limit[0] or high > limit[1]:
            seen = f"channel {channel.name}: values {low:.4g} to {high:.4g}"
            text = f"{seen}; the model was trained on {limit[0]} to {limit[1]}"
            found.append(InputWarning("LIMIT-INTENSITY", text))
    return found
