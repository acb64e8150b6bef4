"""Data layouts on disk -> one stream of annotated volumes.

Known layouts, told apart by their files:
- ours: ``index.csv`` (or one in the parent folder that lists this folder), see ``../shared/README.md``;
- nnU-Net v2: ``dataset.json``, ``imagesTr/``, ``labelsTr/`` and, for instances, ``instancesTr/``;
- COCO panoptic: a JSON with ``annotations`` and ``categories``, images and PNGs in folders named by it;
- signed reviews: result folders with ``review/v1/signature.json``, see ``reviews``.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from errno import ENOENT
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import DataError
from medpanoptic.io import read_labels, read_study, read_volume
from medpanoptic.io.coco_read import read_png_ids
from medpanoptic.volume import ChannelSpec, Volume

log = logging.getLogger(__name__)
VOID = -1
THING_CODE = 100  # consep's type codes are shifted by this, so that they do not collide with its tissue codes


@dataclass(frozen=True, eq=False)
class AnnotatedVolume:
    """One case as it lies on disk.

    codes : (*S) int32 class code per pixel, VOID where unknown; code_names : code -> class name.
    instances : (*S) int32, 0 = no thing. split : "train" or "val". group : a kind of image, for balanced drawing.
    """

    id: str
    split: str
    group: str
    volume: Volume
    codes: NDArray[np.int32]
    instances: NDArray[np.int32]
    code_names: Mapping[int, str]


def read_layout(
    folder: Path, channels: Sequence[ChannelSpec], codes: Mapping[int, str], splits: Sequence[str] = ("train", "val")
) -> Iterator[AnnotatedVolume]:
    """Yield the cases of ``splits`` in a fixed order.

    codes : code -> class name for our own folders; the other layouts carry names themselves.
    Raises DataError (DATA-LAYOUT) if the folder is of no known layout.
    """
    from medpanoptic.training.reviews import is_reviews, read_reviews  # it fills the classes of this module

    folder = Path(folder)
    coco = [p for p in sorted(folder.glob("*.json")) if _is_coco(p)]
    if (folder / "index.csv").is_file() or (folder.parent / "index.csv").is_file():
        cases = _read_own(folder, channels, codes, splits)
    elif (folder / "dataset.json").is_file():
        cases = _read_nnunet(folder, channels, splits)
    elif coco:
        cases = _read_coco(folder, coco, splits)
    elif is_reviews(folder):
        cases = read_reviews(folder, channels, splits)
    else:
        raise DataError(
            "DATA-LAYOUT",
            f"{folder.name}: no index.csv, nnU-Net dataset.json, COCO panoptic JSON or signed review",
        )
    yield from cases


def split_by_hash(case_id: str) -> str:
    """Put a fifth of the cases into ``val`` where a data set brings no split; a fixed function of the id."""
    return "val" if int(hashlib.sha256(case_id.encode()).hexdigest(), 16) % 5 == 0 else "train"


def _read_own(
    folder: Path, channels: Sequence[ChannelSpec], codes: Mapping[int, str], splits: Sequence[str]
) -> Iterator[AnnotatedVolume]:
    root = folder if (folder / "index.csv").is_file() else folder.parent
    with open(root / "index.csv", newline="", encoding="utf-8") as f:
        rows = [r for r in csv.DictReader(f) if r["split"] in splits]
    if root != folder:
        rows = [r for r in rows if r.get("folder") == folder.name]
    for row in rows:
        where = root / row.get("folder", "")
        name = row["id"]
        try:
            if (where / "images").is_dir():
                volume, truth, instances = _own_image(where, name)
            else:
                volume, truth, instances = _own_volume(where, name, channels)
        except FileNotFoundError as error:
            raise DataError(
                "DATA-MISSING", f"case {name}: {Path(str(error.filename)).name} is in the index but not on disk"
            ) from None
        yield AnnotatedVolume(name, row["split"], row.get("kind", ""), volume, truth, instances, codes)


def _own_image(where: Path, name: str) -> tuple[Volume, NDArray[np.int32], NDArray[np.int32]]:
    volume = read_volume(where / "images" / f"{name}.png")
    instances = _labels(where / "labels" / f"{name}.png", volume)
    if not (where / "types").is_dir():
        return volume, (instances > 0).astype(np.int32), instances
    tissue = _labels(where / "tissue_weak" / f"{name}.png", volume)
    codes = np.where(tissue == 255, VOID, tissue)
    types = _labels(where / "types" / f"{name}.png", volume)
    return volume, np.where(instances > 0, types + THING_CODE, codes).astype(np.int32), instances


def _own_volume(
    where: Path, name: str, channels: Sequence[ChannelSpec]
) -> tuple[Volume, NDArray[np.int32], NDArray[np.int32]]:
    paths = {c.name: where / f"{name}_{c.name}.nii.gz" for c in channels}
    volume = read_study({k: p for k, p in paths.items() if p.is_file()}, channels)
    codes, instances = (_labels(where / f"{name}_{kind}.nii.gz", volume) for kind in ("sem", "inst"))
    return volume, codes, instances


def _labels(path: Path, volume: Volume) -> NDArray[np.int32]:
    if not path.is_file():
        raise FileNotFoundError(ENOENT, "no labels", str(path))
    return read_labels(path, volume).array[0]


def _read_nnunet(folder: Path, channels: Sequence[ChannelSpec], splits: Sequence[str]) -> Iterator[AnnotatedVolume]:
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    names = {int(v): str(k) for k, v in description["labels"].items() if not isinstance(v, list)}
    ending = description.get("file_ending", ".nii.gz")
    has_instances = (folder / "instancesTr").is_dir()
    if not has_instances:
        log.warning("no instancesTr/: every connected component of a thing class is taken as one instance")
    own_split = _nnunet_split(folder)
    for path in sorted((folder / "labelsTr").glob(f"*{ending}")):
        name = path.name.removesuffix(ending)
        split = own_split.get(name) or split_by_hash(name)
        if split not in splits:
            continue
        order = {str(v).lower(): int(k) for k, v in description["channel_names"].items()}
        files = {
            c.name: folder / "imagesTr" / f"{name}_{order.get(c.name.lower(), i):04d}{ending}"
            for i, c in enumerate(channels)
        }
        volume = read_study({k: p for k, p in files.items() if p.is_file()}, channels)
        codes = read_labels(path, volume).array[0]
        if has_instances:
            instances = read_labels(folder / "instancesTr" / path.name, volume).array[0]
        else:
            instances = _components_per_code(codes)
        yield AnnotatedVolume(name, split, "", volume, codes, instances, names)


def _nnunet_split(folder: Path) -> dict[str, str]:
    path = folder / "splits_final.json"
    if not path.is_file():
        return {}
    fold = json.loads(path.read_text(encoding="utf-8"))[0]
    return {name: split for split in ("train", "val") for name in fold[split]}


def _components_per_code(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Number the connected pieces (all neighbours) of each code > 0; stuff codes are numbered too and ignored later."""
    import cc3d

    labels: NDArray[np.int32] = cc3d.connected_components(codes, connectivity=26 if codes.ndim == 3 else 8).astype(
        np.int32
    )
    return labels


def _is_coco(path: Path) -> bool:
    data = json.loads(path.read_text(encoding="utf-8"))
    return isinstance(data, dict) and {"annotations", "categories", "images"} <= set(data)


def _read_coco(folder: Path, files: Sequence[Path], splits: Sequence[str]) -> Iterator[AnnotatedVolume]:
    for path in files:
        data = json.loads(path.read_text(encoding="utf-8"))
        names = {int(c["id"]): str(c["name"]) for c in data["categories"]}
        images = {i["id"]: i["file_name"] for i in data["images"]}
        for annotation in data["annotations"]:
            image = _find(folder, images[annotation["image_id"]], path)
            name = Path(images[annotation["image_id"]]).stem
            split = next((s for s in ("val", "train") if s in path.stem), "") or split_by_hash(name)
            if split not in splits:
                continue
            codes, instances = coco_maps(_find(folder, annotation["file_name"], path), annotation["segments_info"])
            yield AnnotatedVolume(name, split, "", read_volume(image), codes, instances, names)


def _find(folder: Path, file_name: str, json_path: Path) -> Path:
    """Look where COCO, Cityscapes and their like put images and PNGs: beside the JSON or in a folder named like it."""
    folders = [folder, folder / json_path.stem, *sorted(p for p in folder.iterdir() if p.is_dir())]
    for where in folders:
        if (where / file_name).is_file():
            return where / file_name
    raise DataError("DATA-MISSING", f"{json_path.name} names {Path(file_name).name}, which is in none of its folders")


def coco_maps(path: Path, segments_info: Sequence[Mapping[str, int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Read a COCO panoptic PNG into class codes and a map of segment numbers 1..n.

    Crowd segments and pixels of no segment become VOID.
    """
    ids = read_png_ids(path)
    codes = np.full(ids.shape, VOID, np.int32)
    instances = np.zeros(ids.shape, np.int32)
    for number, segment in enumerate(segments_info, start=1):
        if not segment.get("iscrowd", 0):
            mask = ids == segment["id"]
            codes[mask] = segment["category_id"]
            instances[mask] = number
    return codes, instances
