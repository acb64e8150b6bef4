"""What leaves the network for one image, kept: fusing it again needs no network and no image.

``prediction.safetensors`` beside a result holds float16 logits, instances above a floor on their scores, and what the
way back to the native grid takes. A full run fuses the very same rounded values, so both give the same result.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from medpanoptic.classes import ClassTable
from medpanoptic.errors import ReadError, ResultError
from medpanoptic.native import Grids
from medpanoptic.result import Provenance

FILE = "prediction.safetensors"
# instances below it are noise to any reader; they are left out of full runs, too
SCORE_FLOOR = 0.05
_FORMAT, _VERSION = "medpanoptic-prediction", 1
# safetensors writes several entries in any order: one keeps the bytes the same
_KEY = "medpanoptic"


@dataclass(frozen=True, eq=False)
class StoredPrediction:
    """A network's answer on its grid, and where that lies. K classes, *S' the network's grid, N instances.

    semantic_logits : (K, *S') float16. boxes : (N, 2 D) int64, labels : (N,) int64 channel k, scores : (N,) float32,
    mask_logits : N float16 arrays of their box's shape, as in ``networks.outputs.Instances``.
    grids : native and network grid. resampled : False where they are one.
    fusion : the bundle's arguments of ``fusion.fuse``, with ``min_stuff_mm`` and ``min_thing_mm`` in mm2 or mm3.
    voxel_mm : mm2 or mm3 of a voxel of the network's grid, infinite where nothing is known.
    spread : (*S') float16, how much mirrored passes disagree, or None. input_key : names the input in tracking UIDs.
    provenance : of the full run, its parameters without ``fusion``.
    """

    semantic_logits: NDArray[np.float16]
    boxes: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    mask_logits: tuple[NDArray[np.float16], ...]
    classes: ClassTable
    grids: Grids
    resampled: bool
    fusion: Mapping[str, Any]
    voxel_mm: float
    input_key: str
    provenance: Provenance
    spread: NDArray[np.float16] | None = None

    def fusion_arguments(self, **changes: Any) -> dict[str, Any]:
        """Return the arguments of ``fusion.fuse``: the bundle's or those given, mm2 or mm3 turned into pixels."""
        chosen = {**self.fusion, **{k: v for k, v in changes.items() if v is not None}}
        arguments = {k: v for k, v in chosen.items() if not k.endswith("_mm")}
        for name in ("min_stuff", "min_thing"):
            arguments[f"{name}_size"] = math.ceil(float(chosen.get(f"{name}_mm", 0)) / self.voxel_mm - 1e-9)
        return arguments


def write_prediction(stored: StoredPrediction, folder: Path) -> Path:
    """Write ``prediction.safetensors`` into a case folder, whole or not at all; the same prediction, the same bytes."""
    tensors = {
        "semantic_logits": np.ascontiguousarray(stored.semantic_logits),
        "boxes": stored.boxes,
        "labels": stored.labels,
        "scores": stored.scores,
        "mask_logits": np.concatenate([np.zeros(0, np.float16), *(m.ravel() for m in stored.mask_logits)]),
    }
    if stored.spread is not None:
        tensors["spread"] = np.ascontiguousarray(stored.spread)
    path, part = folder / FILE, folder / f".{FILE}.part"
    described = json.dumps(_described(stored), sort_keys=True, default=_plain)
    part.write_bytes(save(tensors, metadata={_KEY: described}))
    os.replace(part, path)
    return path


def _described(stored: StoredPrediction) -> dict[str, Any]:
    """Everything but the arrays. Holds no UID of the source and no path."""
    provenance = {**asdict(replace(stored.provenance, parameters={})), "parameters": dict(stored.provenance.parameters)}
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "shape": list(stored.grids.shape),
        "affine_lps": stored.grids.affine.tolist(),
        "network_affine_lps": stored.grids.network_affine.tolist(),
        "resampled": stored.resampled,
        "classes": stored.classes.to_json(),
        "fusion": dict(stored.fusion),
        "voxel_mm": None if math.isinf(stored.voxel_mm) else stored.voxel_mm,
        "input_key": stored.input_key,
        "provenance": provenance,
    }


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def read_prediction(folder: Path) -> StoredPrediction:
    """Read ``prediction.safetensors`` of a case folder.

    Raises ReadError: PREDICTION-MISSING, PREDICTION-DAMAGED (or of an unknown version).
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise ReadError(
            "PREDICTION-MISSING", f"{folder} holds no {FILE}; run medpanoptic segment --keep-prediction first"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            described = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _parse(described, tensors)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, ResultError) as error:
        raise ReadError("PREDICTION-DAMAGED", f"{path} is damaged or of another version; run segment again") from error


def _parse(described: Mapping[str, Any], tensors: Mapping[str, NDArray]) -> StoredPrediction:
    if (described["format"], described["version"]) != (_FORMAT, _VERSION):
        raise ValueError("unknown version")
    grids = Grids(
        tuple(int(n) for n in described["shape"]),
        np.array(described["affine_lps"], float),
        np.array(described["network_affine_lps"], float),
    )
    boxes, logits = tensors["boxes"], tensors["semantic_logits"]
    ndim = len(grids.shape)
    if logits.ndim != ndim + 1 or boxes.shape != (len(tensors["scores"]), 2 * ndim):
        raise ValueError("shapes do not fit")
    if "spread" in tensors and tensors["spread"].shape != logits.shape[1:]:
        raise ValueError("shapes do not fit")
    classes = ClassTable.from_json(described["classes"])
    return StoredPrediction(
        logits,
        boxes,
        tensors["labels"],
        tensors["scores"],
        _cut_masks(tensors["mask_logits"], boxes[:, ndim:] - boxes[:, :ndim]),
        classes,
        grids,
        bool(described["resampled"]),
        described["fusion"],
        math.inf if described["voxel_mm"] is None else float(described["voxel_mm"]),
        str(described["input_key"]),
        Provenance(**described["provenance"]),
        tensors.get("spread"),
    )


def _cut_masks(flat: NDArray[np.float16], shapes: NDArray[np.int64]) -> tuple[NDArray[np.float16], ...]:
    ends = np.cumsum(shapes.prod(1, dtype=np.int64)) if len(shapes) else np.zeros(0, np.int64)
    if (shapes < 1).any() or (ends[-1] if len(ends) else 0) != flat.size:
        raise ValueError("masks do not fit their boxes")
    parts = np.split(flat, ends[:-1]) if len(ends) else []
    return tuple(part.reshape(shape) for part, shape in zip(parts, shapes.tolist(), strict=True))


def remove_prediction(folder: Path) -> None:
    """Remove a kept prediction: one of another run must not be taken for that of a new result."""
    (Path(folder) / FILE).unlink(missing_ok=True)
