"""COCO panoptic: a JSON with one entry per image, and in the folder of the same name a PNG whose colour is the id.

Source: https://cocodataset.org/#format-data, "Panoptic Segmentation"; id = R + 256 G + 65536 B, 0 = void.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medpanoptic.classes import ClassInfo
from medpanoptic.errors import WriteError
from medpanoptic.io.result_files import write_json
from medpanoptic.result import PanopticResult, Segment, without_rejected
from medpanoptic.volume import Volume

TABLE = "coco_panoptic.json"
MAX_ID = 256**3 - 1


def ids_to_rgb(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Turn an id map (row, column) into (row, column, 3) uint8."""
    return np.stack([(ids >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def rgb_to_ids(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Turn (row, column, 3) uint8 back into an int32 id map."""
    return rgb.astype(np.int32) @ np.array([1, 256, 65536], np.int32)


def write_coco(result: PanopticResult, folder: Path, volume: Volume | None = None) -> list[Path]:
    """Write coco_panoptic.json and coco_panoptic/panoptic.png, or panoptic_0000.png ... for volumes.

    This is the layout that panopticapi takes without a further argument: ``pq_compute(truth_json, predicted_json)``.
    Beside what the format asks for, categories hold colour and codes, and segments their score. Rejected things are
    void: the format could not say that they are rejected.
    Raises WriteError (FORMAT-ID-RANGE) if an id does not fit into three bytes.
    """
    if result.segments and max(s.id for s in result.segments) > MAX_ID:
        raise WriteError("FORMAT-ID-RANGE", f"COCO panoptic holds ids up to {MAX_ID}; number the segments from 1 again")
    result = without_rejected(result)
    planes = result.ids if result.ndim == 3 else result.ids[None]
    names = ["panoptic.png"] if result.ndim == 2 else [f"panoptic_{k:04d}.png" for k in range(len(planes))]
    pictures = folder / Path(TABLE).stem
    pictures.mkdir()
    for plane, name in zip(planes, names, strict=True):
        Image.fromarray(ids_to_rgb(plane)).save(pictures / name)
    table = write_json(folder / TABLE, _table(result, planes, names))
    return [table, *(pictures / name for name in names)]


def _table(result: PanopticResult, planes: NDArray[np.int32], names: list[str]) -> dict[str, Any]:
    height, width = planes.shape[1:]
    segments = {s.id: s for s in result.segments}
    # "shape" tells the slices of one volume from many images of one size. The pictures themselves are not written:
    # their names are those under which a training set would bring them.
    pictures = [name.replace("panoptic", "image") for name in names]
    return {
        "info": {"description": "medpanoptic result; research use only", "shape": list(result.ids.shape)},
        "images": [{"id": k, "file_name": name, "height": height, "width": width} for k, name in enumerate(pictures)],
        "annotations": [
            {"image_id": k, "file_name": name, "segments_info": _plane_segments(plane, segments)}
            for k, (plane, name) in enumerate(zip(planes, names, strict=True))
        ],
        "categories": [_category(c) for c in result.classes],
    }


def _category(info: ClassInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "name": info.name,
        "supercategory": info.category.meaning,
        "isthing": int(info.is_thing),
        "color": list(info.color),
        "codes": {"category": info.category.to_json(), "type": info.type.to_json()},
    }


def _plane_segments(plane: NDArray[np.int32], segments: dict[int, Segment]) -> list[dict[str, Any]]:
    # compact numbers first: find_objects makes a slot for every number up to the largest
    present, compact, counts = np.unique(plane, return_inverse=True, return_counts=True)
    boxes = ndimage.find_objects(compact.reshape(plane.shape).astype(np.int32) + 1)
    return [
        {
            "id": int(i),
            "category_id": segments[int(i)].class_id,
            "area": int(n),
            "bbox": _xywh(box),
            "iscrowd": 0,
            "score": float(segments[int(i)].score),
        }
        for i, n, box in zip(present, counts, boxes, strict=True)
        if i != 0
    ]


def _xywh(box: tuple[slice, slice]) -> list[int]:
    rows, columns = box
    return [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
