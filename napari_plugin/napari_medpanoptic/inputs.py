"""What the Segment widget can run on: the studies and images among the viewer's layers. No Qt."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medpanoptic.volume import Channel, Volume
from napari_medpanoptic.layers import KEY
from napari_medpanoptic.orientation import DISPLAY_DIRECTIONS


@dataclass(frozen=True, eq=False)
class Input:
    """One thing to segment. ``image`` is what the Segmenter is given, ``volume`` what the viewer shows of it.

    candidates : {modality: {handle: volume}} where a folder holds several series and a person must choose.
    """

    title: str
    image: Path | Volume
    volume: Volume
    candidates: Mapping[str, Mapping[str, Volume]] = field(default_factory=dict)


def find_inputs(layers: Iterable[Any]) -> list[Input]:
    """Return one input per study opened by us (all its channels) and one per other image layer.

    A study that still stands on disk is given as its path, so that the widget, the command line and a script read
    the same series and give the same result.
    """
    groups: dict[Hashable, list[Any]] = {}
    for layer in layers:
        if _is_image(layer):
            groups.setdefault(_group(layer), []).append(layer)
    return [_input(group) for group in groups.values()]


def _group(layer: Any) -> Hashable:
    """Return what layers of one input share: their folder where its series are shown apart, else their volume."""
    meta = layer.metadata.get(KEY, {})
    if "series" in meta and meta["path"].exists():
        return str(meta["path"])
    return id(meta.get("volume", layer))


def _is_image(layer: Any) -> bool:
    return type(layer).__name__ == "Image" and layer.ndim in (2, 3) and not layer.multiscale


def _input(group: list[Any]) -> Input:
    meta = group[0].metadata.get(KEY)
    if meta is None:
        volume = volume_of_layer(group[0])
        return Input(group[0].name, volume, volume)
    path = meta.get("path")
    if "series" in meta and path.exists():
        return Input(path.name, path, meta["volume"], _candidates(group))
    if path is None or not path.exists():
        return Input(group[0].name, meta["volume"], meta["volume"])
    return Input(path.name, path, meta["volume"])


def _candidates(group: list[Any]) -> dict[str, dict[str, Volume]]:
    found: dict[str, dict[str, Volume]] = {}
    for layer in group:
        meta = layer.metadata[KEY]
        found.setdefault(meta["modality"], {})[meta["series"]] = meta["volume"]
    return found


def candidate_text(handle: str, volume: Volume) -> str:
    """Return how a series is offered: its handle, as in the layer's name, and its grid."""
    grid = " x ".join(str(n) for n in volume.shape)
    spacing = " x ".join(f"{v:.2g}" for v in volume.spacing)
    return f"{handle}: {grid} voxels of {spacing} mm"


def volume_of_layer(layer: Any) -> Volume:
    """Return an image layer that another reader made as a Volume.

    Nothing is known of its orientation, so it is taken as it stands on the screen: result and image then lie over
    each other. Scale counts as mm if the layer has length units, else the pixels have no known size.
    """
    data = np.asarray(layer.data)
    array = np.moveaxis(data, -1, 0) if layer.rgb else data[None]
    if layer.rgb:
        array = array[:3]  # transparency is no channel
    names = ("red", "green", "blue") if layer.rgb else (layer.name,)
    spacing, calibrated = _spacing_mm(layer)
    return Volume(array, _affine(layer, spacing), tuple(Channel(n) for n in names), calibrated=calibrated)


def _spacing_mm(layer: Any) -> tuple[np.ndarray, bool]:
    factors = [(1 * unit) for unit in layer.units]
    if not all(factor.check("[length]") for factor in factors):
        return np.asarray(layer.scale, float), False
    return np.array([s * f.to("mm").magnitude for s, f in zip(layer.scale, factors, strict=True)]), True


def _affine(layer: Any, spacing: np.ndarray) -> np.ndarray:
    from medpanoptic.geometry import spatial_affine

    if layer.ndim == 2:
        return spatial_affine(spacing)
    affine = np.eye(4)
    affine[:3, :3] = DISPLAY_DIRECTIONS.T * spacing
    affine[:3, 3] = DISPLAY_DIRECTIONS.T @ (np.asarray(layer.translate) * spacing / np.asarray(layer.scale))
    return affine
