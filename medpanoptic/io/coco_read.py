"""COCO panoptic back into a result: one image, or the slices of one volume.

Source: https://cocodataset.org/#format-data, "Panoptic Segmentation".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.errors import ReadError
from medpanoptic.geometry import spatial_affine
from medpanoptic.io.coco import rgb_to_ids
from medpanoptic.io.foreign import any_color
from medpanoptic.io.limits import check_size
from medpanoptic.result import PanopticResult, Provenance, Segment, count_ids
from medpanoptic.volume import Source, Volume

# for categories of others, which carry no codes. Source: SNOMED CT
_THING = (Code("49755003", "SCT", "Morphologically Abnormal Structure"), Code("52988006", "SCT", "Lesion"))
_STUFF = (Code("85756007", "SCT", "Tissue"), Code("85756007", "SCT", "Tissue"))


def read_coco(path: Path, image: Volume | None = None) -> PanopticResult:
    """Read a COCO panoptic JSON of one image or of one volume's slices.

    image : gives affine and source; without it 1 mm per pixel stands in and ``is_calibrated`` is False. A JSON of
    several images that we did not write is taken for slices only where a volume of that many slices is given.
    Crowd segments become void; several segments of a stuff class become one; ``parameters["notes"]`` says so.
    Raises ReadError: RESULT-FORMAT, RESULT-MISSING (a PNG), RESULT-DAMAGED, RESULT-SHAPE, RESULT-AMBIGUOUS (many
    images), RESULT-IDS (PNG and JSON disagree), READ-TOO-LARGE; ResultError.
    """
    data = _load(path)
    try:
        classes = ClassTable(tuple(_class(entry) for entry in data["categories"]))
        annotations = _ordered(data)
        shape = _shape(data, image, path)
        rows = [{int(s["id"]): dict(s) for s in a["segments_info"]} for a in annotations]
        files = [png_path(path, str(a["file_name"])) for a in annotations]
        notes: list[str] = []
        planes = [_plane(f, r, shape[-2:], notes) for f, r in zip(files, rows, strict=True)]
        ids = planes[0] if len(shape) == 2 else np.stack(planes)
        segments = _segments(rows, classes, ids, notes, path)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ReadError(
            "RESULT-FORMAT", f"{path} lacks or garbles what COCO panoptic asks for ({type(error).__name__})"
        ) from None
    known = image is not None and image.shape == shape
    parameters: dict[str, Any] = {"calibrated": image.calibrated if image is not None and known else False}
    if notes:
        parameters["notes"] = sorted(set(notes))
    return PanopticResult(
        ids,
        segments,
        classes,
        image.affine if image is not None else spatial_affine((1.0,) * len(shape)),
        image.source if image is not None else Source(),
        Provenance(parameters=parameters),
    )


def png_path(table: Path, file_name: str) -> Path:
    """Return the PNG that a COCO JSON names: in the folder called like it, or beside it; never outside its folder.

    Raises ReadError: RESULT-MISSING, RESULT-FORMAT (a name that leads out of the folder).
    """
    root = table.parent.resolve()
    for place in (table.with_suffix("") / file_name, table.parent / file_name):
        if not place.resolve().is_relative_to(root):
            raise ReadError("RESULT-FORMAT", f"{table.name} names a PNG outside its own folder")
        if place.is_file():
            return place
    raise ReadError("RESULT-MISSING", f"{table.name} names {Path(file_name).name}, which is not beside it")


def read_png_ids(path: Path) -> NDArray[np.int32]:
    """Read a COCO panoptic PNG as (row, column) int32 ids. Raises ReadError: RESULT-DAMAGED, READ-TOO-LARGE."""
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            check_size((picture.height, picture.width), 7, path.name)
            if picture.mode not in ("RGB", "RGBA"):
                raise ReadError("RESULT-DAMAGED", f"{path.name}: ids are RGB colours, this PNG is {picture.mode}")
            return rgb_to_ids(np.asarray(picture.convert("RGB")))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ReadError("RESULT-DAMAGED", f"{path.name}: not a readable PNG ({type(error).__name__})") from None


def _load(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ReadError("RESULT-FORMAT", f"{path} is not JSON; was it cut short?") from None
    if not isinstance(data, dict) or not {"images", "annotations", "categories"} <= set(data):
        raise ReadError("RESULT-FORMAT", f"{path} is not COCO panoptic: images, annotations or categories are missing")
    return data


def _class(entry: Mapping[str, Any]) -> ClassInfo:
    is_thing = bool(entry["isthing"])
    category, kind = _THING if is_thing else _STUFF
    codes = entry.get("codes")
    if codes:
        category, kind = Code.from_json(codes["category"]), Code.from_json(codes["type"])
    r, g, b = (int(v) for v in entry.get("color") or any_color(int(entry["id"])))
    return ClassInfo(int(entry["id"]), str(entry["name"]), is_thing, (r, g, b), category, kind)


def _ordered(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return one annotation per image, in the order of ``images``."""
    of_image = {a["image_id"]: a for a in data["annotations"]}
    return [of_image[image["id"]] for image in data["images"]]


def _shape(data: Mapping[str, Any], image: Volume | None, path: Path) -> tuple[int, ...]:
    """Return the shape of the map, (row, column) or (slice, row, column), before any PNG is opened."""
    images = data["images"]
    sizes = {(int(i["height"]), int(i["width"])) for i in images}
    if len(sizes) != 1:
        raise ReadError("RESULT-SHAPE", f"{path} lists images of {len(sizes)} sizes: a data set, not one result")
    plane = sizes.pop()
    info = data.get("info")
    ours = list(info.get("shape") or ()) if isinstance(info, dict) else []
    in_3d = len(ours) == 3 or (image is not None and image.ndim == 3)
    if len(images) > 1 and not in_3d:
        raise ReadError(
            "RESULT-AMBIGUOUS",
            f"{path} lists {len(images)} images; if they are the slices of one volume, give that volume (--image)",
        )
    shape = (len(images), *plane) if in_3d else plane
    if image is not None and image.shape != shape:
        raise ReadError("RESULT-SHAPE", f"{path} holds {shape}, the image given has {image.shape}")
    check_size(shape, 7, path.name)
    return shape


def _plane(
    path: Path, rows: Mapping[int, Mapping[str, Any]], shape: Sequence[int], notes: list[str]
) -> NDArray[np.int32]:
    ids = read_png_ids(path)
    if ids.shape != tuple(shape):
        raise ReadError("RESULT-SHAPE", f"{path.name} has shape {ids.shape}, the JSON says {tuple(shape)}")
    unknown = sorted(set(count_ids(ids)) - set(rows))
    if unknown:
        raise ReadError("RESULT-IDS", f"{path.name} holds ids that the JSON does not list; first ones: {unknown[:10]}")
    crowd = [i for i, row in rows.items() if row.get("iscrowd")]
    if crowd:
        notes.append("crowd segments are void")
    return np.where(np.isin(ids, crowd), 0, ids).astype(np.int32)


def _segments(
    rows: Sequence[Mapping[int, Mapping[str, Any]]],
    classes: ClassTable,
    ids: NDArray[np.int32],
    notes: list[str],
    path: Path,
) -> tuple[Segment, ...]:
    """Build the table; ``ids`` is changed where a stuff class has several segments."""
    present = count_ids(ids)
    found: dict[int, Segment] = {}
    stuff: dict[int, int] = {}
    for number, row in ((i, row) for plane in rows for i, row in sorted(plane.items()) if i in present):
        segment = Segment(number, int(row["category_id"]), float(row.get("score", 1.0)))
        other = found.setdefault(number, segment)
        if other.class_id != segment.class_id:
            raise ReadError("RESULT-IDS", f"{path}: id {number} has two classes; are the images slices of one volume?")
        if not classes[segment.class_id].is_thing:
            first = stuff.setdefault(segment.class_id, number)
            if first != number:
                notes.append("several segments of a stuff class are one")
                ids[ids == number] = first
                del found[number]
    return tuple(found[i] for i in sorted(found))
