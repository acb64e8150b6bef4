"""OME-Zarr 0.4: the id map and the stuff map as labels, with the image if it is given.

Source: https://ngff.openmicroscopy.org/0.4 (multiscales, labels, image-label), stored as Zarr version 2, which napari,
Fiji, OMERO and QuPath's Bio-Formats all read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medpanoptic.geometry import voxel_spacing
from medpanoptic.measure import is_calibrated
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.volume import Volume

if TYPE_CHECKING:
    import zarr

NAME = "panoptic.ome.zarr"
VERSION = "0.4"
_CHUNK = 256  # pixels along row and column
_CHUNK_SLICES = 16
_SMALLEST = 1024  # a level whose sides are no longer than this is the last one
_COLORS = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}


def write_ome_zarr(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write panoptic.ome.zarr: labels/panoptic (int32 ids) and, if there is a stuff map, labels/stuff (class ids).

    The image is written too if ``volume`` is given: then the root opens as an image with two label layers. Each has
    levels of half the size, down to 1024 pixels; they take every second pixel, so that ids stay ids. Scale is the pixel
    size in mm (3D) or um (2D). OME-Zarr 0.4 has no rotation, shear or flip: the affine is in the attribute
    ``medpanoptic`` of each label, with classes and provenance.
    """
    import zarr

    path = folder / NAME
    root = zarr.open_group(path, mode="w", zarr_format=2)
    axes, scale = _axes(result)
    if volume is not None:
        _write_levels(root, volume.array, [{"name": "c", "type": "channel"}, *axes], [1.0, *scale], "image")
        root.attrs["omero"] = {
            "channels": [_channel(c.name, a) for c, a in zip(volume.channels, volume.array, strict=True)]
        }
    maps: dict[str, NDArray] = {"panoptic": result.ids}
    if result.stuff is not None:
        maps["stuff"] = result.stuff
    labels = root.create_group("labels")
    labels.attrs["labels"] = list(maps)
    for name, array in maps.items():
        label = labels.create_group(name)
        _write_levels(label, array, axes, scale, name)
        label.attrs["image-label"] = {
            "version": VERSION,
            **(_segment_rows(result) if name == "panoptic" else _class_rows(result)),
            **({} if volume is None else {"source": {"image": "../../"}}),
        }
        label.attrs["medpanoptic"] = {
            "affine_lps": result.affine.tolist(),
            "classes": result.classes.to_json(),
            "provenance": {k: v for k, v in vars(result.provenance).items() if k != "parameters"},
        }
    return [path]


def _axes(result: PanopticResult) -> tuple[list[dict[str, str]], list[float]]:
    """Return the spatial axes and the step along each in their unit; without a known pixel size no unit."""
    names = "zyx"[-result.ndim :]
    if not is_calibrated(result):
        return [{"name": n, "type": "space"} for n in names], [1.0] * result.ndim
    unit, factor = ("millimeter", 1.0) if result.ndim == 3 else ("micrometer", 1e3)
    steps = voxel_spacing(result.affine, result.ndim) * factor
    return [{"name": n, "type": "space", "unit": unit} for n in names], [float(s) for s in steps]


def _write_levels(group: zarr.Group, array: NDArray, axes: list[dict[str, str]], scale: list[float], name: str) -> None:
    """Write (..., row, column) as levels 0, 1, ... of a group and describe them."""
    datasets: list[dict[str, Any]] = []
    level, step = array, 1
    while True:
        path = str(len(datasets))
        _write_array(group, path, level)
        steps = [*scale[:-2], scale[-2] * step, scale[-1] * step]
        datasets.append({"path": path, "coordinateTransformations": [{"type": "scale", "scale": steps}]})
        if max(level.shape[-2:]) <= _SMALLEST:
            break
        # the first pixel of each two keeps its centre, so no level needs a translation
        level, step = level[..., ::2, ::2], step * 2
    group.attrs["multiscales"] = [
        {"version": VERSION, "name": name, "axes": axes, "datasets": datasets, "type": "nearest"}
    ]


def _write_array(group: zarr.Group, path: str, array: NDArray) -> None:
    from numcodecs import Zlib

    lead = [1] * (array.ndim - 3) + [min(_CHUNK_SLICES, array.shape[-3])] if array.ndim > 2 else []
    group.create_array(
        path,
        data=np.ascontiguousarray(array),
        chunks=(*lead, *(min(_CHUNK, n) for n in array.shape[-2:])),
        # what every reader has
        compressors=[Zlib(level=3)],
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )


def _channel(name: str, array: NDArray) -> dict[str, Any]:
    low, high = float(array.min()), float(array.max())
    high = max(high, low + 1)  # a window must have a width
    window = {"min": low, "start": low, "end": high, "max": high}
    return {"label": name, "color": _COLORS.get(name, "FFFFFF"), "window": window, "active": True}


def _segment_rows(result: PanopticResult) -> dict[str, list[dict[str, Any]]]:
    segments = sorted(result.segments, key=lambda s: s.id)
    return {
        "colors": [_color(s.id, result.segment_color(s)) for s in segments],
        "properties": [_properties(result, s) for s in segments],
    }


def _properties(result: PanopticResult, segment: Segment) -> dict[str, Any]:
    info = result.classes[segment.class_id]
    return {
        "label-value": segment.id,
        "class": info.name,
        "is_thing": info.is_thing,
        "score": float(segment.score),
        "origin": segment.origin,
        "verdict": segment.verdict,
        "tracking_uid": segment.tracking_uid,
    }


def _class_rows(result: PanopticResult) -> dict[str, list[dict[str, Any]]]:
    return {
        "colors": [_color(c.id, c.color) for c in result.classes.stuff],
        "properties": [{"label-value": c.id, "class": c.name} for c in result.classes.stuff],
    }


def _color(value: int, rgb: tuple[int, int, int]) -> dict[str, Any]:
    return {"label-value": value, "rgba": [*rgb, 255]}
