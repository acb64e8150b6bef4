"""Annotated folders -> one truth per case, whatever the layout.

Known layouts, told apart by their files: result folders as ``write_result`` makes them; ``labels/ID.png`` (instances,
0 = background) with ``types/ID.png`` and ``tissue_weak/ID.png`` where there are classes; ``ID_sem.nii.gz`` with
``ID_inst.nii.gz``; plain label maps ``ID.png``, ``ID.tif``, ``ID.nii.gz`` (things of one kind, 0 = background).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import DataError
from medpanoptic.geometry import Affine
from medpanoptic.io import read_labels, read_result
from medpanoptic.result import PanopticResult

# class names of each code; a model may use any name of a row
Names = Mapping[int, tuple[str, ...]]
NUCLEI: Names = {1: ("nucleus",)}
ONE_KIND: Names = {1: ("thing", "nucleus", "tumour", "lesion")}
NUCLEUS_TYPES: Names = {
    1: ("other nucleus", "other"),
    2: ("inflammatory nucleus", "inflammatory"),
    3: ("epithelial nucleus", "epithelial"),
    4: ("spindle nucleus", "spindle"),
}
TISSUES: Names = {0: ("background",), 1: ("epithelium",), 2: ("stroma",)}
IGNORED_TISSUE = 255
BODY: Names = {
    0: ("outside the body", "background"),
    1: ("fat",),
    2: ("soft tissue",),
    3: ("bone",),
    4: ("lung",),
    6: ("CSF",),
    7: ("grey matter",),
    8: ("white matter",),
}
LESIONS: Names = {
    10: ("tumour", "lesion", "tumor"),
    11: ("lymph node",),
}
_CT_TISSUES = (1, 2, 3, 4)
_MAP_ENDINGS = (".nii.gz", ".nii", ".png", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of one case.

    ids : (*S) int32, 0 = unknown (void). segments : {id: class name}. things, stuff : names of the classes.
    affine : index -> LPS mm, None where the layout has no geometry.
    """

    ids: NDArray[np.int32]
    segments: Mapping[int, str]
    things: frozenset[str]
    stuff: frozenset[str]
    affine: Affine | None = None


def find_truth(folder: Path, known: Collection[str] = ()) -> dict[str, Callable[[], Truth]]:
    """Return {case name: function that reads it}. ``known`` are the class names that the prediction uses.

    Raises DataError (DATA-LAYOUT) if the folder has no known layout, DATA-CASES if two files claim one case.
    """
    found: dict[str, Callable[[], Truth]] = {}
    for name, read in _candidates(folder, known):
        if name in found:
            raise DataError("DATA-CASES", f"{folder} holds two truths named {name}; name one of its folders")
        found[name] = read
    if not found:
        raise DataError(
            "DATA-LAYOUT",
            f"{folder} has no truth: expected CASE/segments.json, labels/CASE.png, CASE_inst.nii.gz with "
            "CASE_sem.nii.gz, or label maps CASE.png, CASE.tif, CASE.nii.gz",
        )
    return found


def _candidates(folder: Path, known: Collection[str]) -> list[tuple[str, Callable[[], Truth]]]:
    results = sorted({*folder.glob("segments.json"), *folder.glob("*/segments.json")})
    if results:
        return [(p.parent.name, partial(_read_result_truth, p.parent)) for p in results]
    labels = sorted(folder.glob("labels/*.png"))
    if labels:
        return [(p.stem, partial(_read_label_truth, folder, p.stem, known)) for p in labels]
    pairs = sorted([*folder.glob("*_inst.nii.gz"), *folder.glob("*/*_inst.nii.gz")])
    if pairs:
        names = [p.name.removesuffix("_inst.nii.gz") for p in pairs]
        return [(n, partial(_read_volume_truth, p.parent, n, known)) for n, p in zip(names, pairs, strict=True)]
    maps = sorted(p for p in folder.glob("*") if p.name.lower().endswith(_MAP_ENDINGS))
    return [(p.name[: -len(_ending(p))], partial(_read_plain_truth, p, known)) for p in maps]


def _ending(path: Path) -> str:
    return next(e for e in _MAP_ENDINGS if path.name.lower().endswith(e))


def truth_of(result: PanopticResult) -> Truth:
    """Take a result as the truth."""
    segments = {s.id: result.classes[s.class_id].name for s in result.segments}
    things, stuff = (frozenset(c.name for c in part) for part in (result.classes.things, result.classes.stuff))
    return Truth(result.ids, segments, things, stuff, result.affine)


def _read_result_truth(folder: Path) -> Truth:
    return truth_of(read_result(folder))


def _read_label_truth(folder: Path, case: str, known: Collection[str]) -> Truth:
    instances = _png(folder / "labels" / f"{case}.png")
    if not (folder / "types").is_dir():
        background = np.where(instances == 0, 0, -1)
        return _combine(instances, (instances > 0).astype(np.int32), background, NUCLEI, TISSUES, known, None)
    types = _png(folder / "types" / f"{case}.png")
    tissue = _png(folder / "tissue_weak" / f"{case}.png")
    return _combine(
        instances, types, np.where(tissue == IGNORED_TISSUE, -1, tissue), NUCLEUS_TYPES, TISSUES, known, None
    )


def _read_volume_truth(folder: Path, case: str, known: Collection[str]) -> Truth:
    instances = read_labels(_existing(folder / f"{case}_inst.nii.gz"))
    semantic = read_labels(_existing(folder / f"{case}_sem.nii.gz"), instances).array[0]
    # 0 was annotated as air only where the body's tissues were
    is_air_known = np.isin(_CT_TISSUES, semantic).any()
    stuff = np.where(np.isin(semantic, list(LESIONS)) | ((semantic == 0) & (not is_air_known)), -1, semantic)
    return _combine(instances.array[0], semantic, stuff, LESIONS, BODY, known, instances.affine)


def _read_plain_truth(path: Path, known: Collection[str]) -> Truth:
    volume = read_labels(path)
    instances = volume.array[0]
    background = np.where(instances == 0, 0, -1)
    affine = volume.affine if volume.ndim == 3 else None
    return _combine(instances, (instances > 0).astype(np.int32), background, ONE_KIND, TISSUES, known, affine)


def _combine(
    instances: NDArray[np.int32],
    thing_codes: NDArray[np.int32],
    stuff_codes: NDArray[np.int32],
    thing_names: Names,
    stuff_names: Names,
    known: Collection[str],
    affine: Affine | None,
) -> Truth:
    """Put instances over stuff; each stuff code >= 0 becomes one segment, -1 stays unknown."""
    ids = instances.copy()
    numbers, first = np.unique(instances, return_index=True)
    codes = thing_codes.reshape(-1)[first]
    segments = {int(i): _name(thing_names, int(c), known) for i, c in zip(numbers, codes, strict=True) if i != 0}
    free = int(numbers.max()) + 1
    for code in np.unique(stuff_codes[instances == 0]):
        if code >= 0:
            ids[(stuff_codes == code) & (instances == 0)] = free + code
            segments[int(free + code)] = _name(stuff_names, int(code), known)
    things = frozenset(_name(thing_names, c, known) for c in thing_names)
    return Truth(ids, segments, things, frozenset(segments.values()) - things, affine)


def _name(names: Names, code: int, known: Collection[str]) -> str:
    candidates = names.get(code, (f"code {code}",))
    return next((n for n in candidates if n in known), candidates[0])


def _png(path: Path) -> NDArray[np.int32]:
    return read_labels(_existing(path)).array[0]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError("DATA-MISSING", f"{path} does not exist, but a file of the same case does")
    return path
