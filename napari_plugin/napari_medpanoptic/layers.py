"""Volumes and results as napari layer data: pure functions, no napari import.

A layer is a tuple (data, attributes, type). ``metadata["medpanoptic"]`` of each holds what napari cannot show and the
writer needs: ``role`` (image, things, stuff), ``affine_lps`` (true 4x4, native index -> LPS mm), ``order``
(``DisplayOrder``), ``source``, ``volume``, and on Labels ``result``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpanoptic.classes import ClassInfo
from medpanoptic.io.result_files import is_calibrated, measure_name
from medpanoptic.result import PanopticResult
from medpanoptic.volume import Channel, Volume
from napari_medpanoptic.orientation import DisplayOrder, display_order, display_placement
from napari_medpanoptic.windows import Preset, percentile_window

LayerData = tuple[Any, dict[str, Any], str]
KEY = "medpanoptic"

# a lesion's own texture must stay visible under its colour
THINGS_OPACITY = 0.45
STUFF_OPACITY = 0.2
# soft-tissue window of CT, level 40 width 400 HU; SUV 0-10 is the usual oncology display
HU_WINDOW = (-160.0, 240.0)
SUV_WINDOW = (0.0, 10.0)
# inferno: lightness rises evenly, also for the colour blind and in print; added light leaves the anatomy readable
FUSION_LOOK = MappingProxyType({"colormap": "inferno", "blending": "additive", "opacity": 0.7})
PET_ALONE_LOOK = MappingProxyType({"colormap": "gray_r", "blending": "translucent", "opacity": 1.0})
_CHANNEL_COLORS = ("gray", "green", "magenta", "cyan", "yellow")
_RGB_NAMES = ({"r", "g", "b"}, {"red", "green", "blue"})


def volume_layers(
    volume: Volume, name: str = "", path: Path | None = None, windows: Mapping[str, Sequence[Preset]] | None = None
) -> list[LayerData]:
    """Return one image layer per present channel, or one RGB layer; PET comes last, so that it lies on top.

    name : prefix of the layer names. path : the folder that a study was read from, for the Segment widget.
    windows : {modality: those stored in that series}; the series opens with its first.
    """
    order = display_order(volume.affine, volume.ndim)
    metadata = _metadata("image", volume.affine, order, volume.source, volume=volume, path=path)
    base = {**_placement(volume, volume.shape, order, volume.calibrated), "metadata": {KEY: metadata}}
    if is_rgb(volume):
        return [(np.moveaxis(volume.array, 0, -1), {**base, "name": name or "image", "rgb": True}, "image")]
    if volume.ndim == 3:
        base["interpolation2d"] = "linear"  # as radiology viewers draw; pathology pixels stay pixels
    shown = [(i, c) for i, c in enumerate(volume.channels) if c.present]
    shown.sort(key=lambda pair: pair[1].unit == "SUV")
    layers: list[LayerData] = []
    for place, (index, channel) in enumerate(shown):
        data = order.to_display(volume.array[index])
        look = _look(data, channel, place, [c for _, c in shown])
        stored = () if channel.unit == "SUV" else tuple((windows or {}).get(channel.modality, ()))
        if stored:
            look["contrast_limits"] = stored[0].window(data)
        layer_name = " ".join(filter(None, (name, channel.name if len(shown) > 1 or not name else "")))
        own = {**metadata, "channel": channel.name, "windows": stored}
        layers.append((data, {**base, **look, "name": layer_name, "metadata": {KEY: own}}, "image"))
    return layers


def is_rgb(volume: Volume) -> bool:
    """Tell whether a volume is a colour picture: 2D, 8 bit, channels red, green, blue."""
    names = [c.name.lower() for c in volume.channels]
    return volume.ndim == 2 and volume.array.dtype == np.uint8 and len(names) == 3 and set(names) in _RGB_NAMES


def result_layers(result: PanopticResult, name: str = "", volume: Volume | None = None) -> list[LayerData]:
    """Return the stuff and the things Labels layer (both always, so that either can be painted).

    Things show ``Segment.id``; stuff shows class ids, also under the things where the result knows them.
    volume : the image on the result's grid; it is kept for the writer's overlay picture and DICOM SEG.
    """
    order = display_order(result.affine, result.ndim)
    metadata = _metadata("", result.affine, order, result.source, result=result, volume=volume)
    base = _placement(result, result.ids.shape, order, is_calibrated(result))
    prefix = f"{name} " if name else ""
    layers: list[LayerData] = []
    for role, data, colors, features, opacity in (
        ("stuff", stuff_map(result), _stuff_colors(result), stuff_table(result), STUFF_OPACITY),
        ("things", thing_map(result), _thing_colors(result), thing_table(result), THINGS_OPACITY),
    ):
        attributes = {
            **base,
            "name": prefix + role,
            "opacity": opacity,
            "features": features,
            "colormap": colors,  # a plain dict; napari makes a DirectLabelColormap of it
            "metadata": {KEY: {**metadata, "role": role}},
        }
        layers.append((np.array(order.to_display(data), order="C"), attributes, "labels"))
    return layers


def thing_map(result: PanopticResult) -> NDArray[np.int32]:
    """Return (*S) int32: the id of the thing at each voxel, 0 elsewhere."""
    lookup = np.zeros(max((s.id for s in result.segments), default=0) + 1, np.int32)
    for segment in result.things:
        lookup[segment.id] = segment.id
    return lookup[result.ids]


def stuff_map(result: PanopticResult) -> NDArray[np.uint8]:
    """Return (*S) uint8: the stuff class id at each voxel, under things too if the result knows it, else 0."""
    if result.stuff is not None:
        return result.stuff
    classes = result.class_map()
    things = [c.id for c in result.classes.things]
    return np.where(np.isin(classes, things), np.uint8(0), classes)


def thing_table(result: PanopticResult) -> pd.DataFrame:
    """Return one row per thing: index (id), class, score, size (voxels) and volume_mm3 or area_mm2, verdict."""
    rows = [
        {
            "index": s.id,
            "class": result.classes[s.class_id].name,
            "score": round(s.score, 3),
            **_sizes(result, result.sizes[s.id]),
            "origin": s.origin,
            "verdict": s.verdict,
        }
        for s in result.things
    ]
    return _table(rows, result, ("score",), ("origin", "verdict"))


def stuff_table(result: PanopticResult) -> pd.DataFrame:
    """Return one row per stuff class: index (class id), class, size (voxels, things excluded), volume or area."""
    size_of = {s.class_id: result.sizes[s.id] for s in result.segments}
    rows = [{"index": c.id, "class": c.name, **_sizes(result, size_of.get(c.id, 0))} for c in result.classes.stuff]
    return _table(rows, result)


def _table(
    rows: list[dict[str, Any]],
    result: PanopticResult,
    before: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
) -> pd.DataFrame:
    # the columns are named, so that an empty table has them too
    return pd.DataFrame(rows, columns=["index", "class", *before, *_sizes(result, 0), *after])


def _sizes(result: PanopticResult, size: int) -> dict[str, Any]:
    # pixels of unknown size have no mm2
    physical = {measure_name(result.ndim): round(size * result.voxel_size, 6)} if is_calibrated(result) else {}
    return {"size": size, **physical}


def _metadata(role: str, affine: NDArray, order: DisplayOrder, source: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "affine_lps": affine, "order": order, "source": source, **more}


def _placement(grid: Volume | PanopticResult, shape: tuple[int, ...], order: DisplayOrder, calibrated: bool) -> dict:
    scale, translate = display_placement(grid.affine, shape, order)
    return {"scale": scale, "translate": translate, "units": ("mm" if calibrated else "pixel",) * grid.ndim}


def _look(data: NDArray, channel: Channel, place: int, shown: list[Channel]) -> dict[str, Any]:
    """Choose window, colours and blending: CT by HU, PET by SUV on top of anatomy, the rest by its own values."""
    if channel.unit == "SUV":
        if len(shown) == 1:
            return {"contrast_limits": SUV_WINDOW, **PET_ALONE_LOOK}
        return {"contrast_limits": SUV_WINDOW, **FUSION_LOOK}
    if channel.unit == "HU":
        return {"contrast_limits": HU_WINDOW, "colormap": "gray"}
    look: dict[str, Any] = {"contrast_limits": percentile_window(data), "colormap": "gray"}
    if any(c.unit for c in shown):
        # a second anatomy, as MR beside CT, would only cover the first; it is one click away
        return {**look, "visible": place == 0}
    if len(shown) > 1:
        return {**look, "colormap": _CHANNEL_COLORS[place % len(_CHANNEL_COLORS)], "blending": "additive"}
    return look


def _thing_colors(result: PanopticResult) -> dict[int | None, tuple[float, ...]]:
    # None colours what is painted anew, before it has a row in the table
    colors: dict[int | None, tuple[float, ...]] = {None: (1.0, 1.0, 1.0, 1.0), 0: (0.0,) * 4}
    return colors | {s.id: _rgba(result.segment_color(s)) for s in result.things}


def _stuff_colors(result: PanopticResult) -> dict[int | None, tuple[float, ...]]:
    colors: dict[int | None, tuple[float, ...]] = {None: (0.0,) * 4, 0: (0.0,) * 4}
    return colors | {c.id: _stuff_rgba(c) for c in result.classes.stuff}


def _rgba(color: tuple[int, int, int]) -> tuple[float, ...]:
    return (*(v / 255 for v in color), 1.0)


def _stuff_rgba(info: ClassInfo) -> tuple[float, ...]:
    # black stands for background (outside the body, empty glass): a veil over it would only dim the image
    return (0.0,) * 4 if info.color == (0, 0, 0) else _rgba(info.color)
