"""COCO panoptic: a JSON with one entry per image and a PNG whose colour is the segment id.

Source: https://cocodataset.org/#format-data, "Panoptic Segmentation"; id = R + 256 G + 65536 B, 0 = void.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medpanoptic.errors import WriteError
from medpanoptic.io.result_files import write_json
from medpanoptic.result import PanopticResult
from medpanoptic.volume import Volume

_MAX_ID = 256**3 - 1


def ids_to_rgb(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Turn an id map (row, column) into (row, column, 3) uint8."""
    return np.stack([(ids >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def rgb_to_ids(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Turn (row, column, 3) uint8 back into an int32 id map."""
    return rgb.astype(np.int32) @ np.array([1, 256, 65536], np.int32)


def write_coco(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write coco_panoptic.json and coco_panoptic.png; for volumes one image per slice in coco_panoptic/.

    Raises WriteError (FORMAT-ID-RANGE) if an id does not fit into three bytes.
    """
    if result.segments and max(s.id for s in result.segments) > _MAX_ID:
        raise WriteError(
            "FORMAT-ID-RANGE", f"COCO panoptic holds ids up to {_MAX_ID}; number the segments from 1 again"
        )
    planes = result.ids if result.ndim == 3 else result.ids[None]
    names = _plane_names(result)
    if result.ndim == 3:
        (folder / "coco_panoptic").mkdir()
    for plane, name in zip(planes, names, strict=True):
        Image.fromarray(ids_to_rgb(plane)).save(folder / name)
    table = write_json(folder / "coco_panoptic.json", _table(result, planes, names))
    return [table, *(folder / name for name in names)]


def _plane_names(result: PanopticResult) -> list[str]:
    if result.ndim == 2:
        return ["coco_panoptic.png"]
    return [f"coco_panoptic/slice_{k:04d}.png" for k in range(result.ids.shape[0])]


def _table(result: PanopticResult, planes: NDArray[np.int32], names: list[str]) -> dict[str, Any]:
    height, width = planes.shape[1:]
    classes = {s.id: s.class_id for s in result.segments}
    return {
        "info": {"description": "medpanoptic result; research use only"},
        "images": [{"id": k, "file_name": name, "height": height, "width": width} for k, name in enumerate(names)],
        "annotations": [
            {"image_id": k, "file_name": name, "segments_info": _plane_segments(plane, classes)}
            for k, (plane, name) in enumerate(zip(planes, names, strict=True))
        ],
        "categories": [
            {
                "id": c.id,
                "name": c.name,
                "supercategory": c.category.meaning,
                "isthing": int(c.is_thing),
                "color": list(c.color),
            }
            for c in result.classes
        ],
    }


def _plane_segments(plane: NDArray[np.int32], classes: dict[int, int]) -> list[dict[str, Any]]:
    # compact numbers first: find_objects makes a slot for every number up to the largest
    present, compact, counts = np.unique(plane, return_inverse=True, return_counts=True)
    boxes = ndimage.find_objects(compact.reshape(plane.shape).astype(np.int32) + 1)
    return [
        {"id": int(i), "category_id": classes[int(i)], "area": int(n), "bbox": _xywh(box), "iscrowd": 0}
        for i, n, box in zip(present, counts, boxes, strict=True)
        if i != 0
    ]


def _xywh(box: tuple[slice, slice]) -> list[int]:
    rows, columns = box
    return [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
