"""Model bundles: one folder = one MONAI bundle, read as data and never as code.

MONAI evaluates ``$...`` and imports any ``_target_``; here both are refused: an expression, a target outside the
allow-list, YAML and Python files make a bundle unusable. MONAI's own ConfigParser reads the same folder.
Source: MONAI Bundle Specification; MONAI advisory GHSA-873f-pvrv-4x83.

    NAME/configs/metadata.json    MONAI's fields and a ``medpanoptic`` block, see ``Bundle``
         configs/inference.json   {"network_def": {"_target_": "medpanoptic.networks.build.NAME", arguments}}
         configs/train.json       settings of ``medpanoptic train``
         models/model.safetensors
         docs/README.md  LICENSE
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpanoptic.bundle_configs import check_data, check_files, check_sizes, read_json
from medpanoptic.classes import ClassTable
from medpanoptic.errors import ModelError, ResultError
from medpanoptic.volume import ChannelSpec

if TYPE_CHECKING:
    from torch import Tensor

    from medpanoptic.networks.net import PanopticNet, TwoNetworks

# the allow-lists: names as MONAI's ConfigParser would import them, and the steps of preprocess.build_transforms
NETWORKS = ("efficientps", "efficientps_centres", "fcn_mask_rcnn")
PREPROCESSING = ("Orientationd", "Spacingd", "ToChannelsd", "NormalizeChannelsd")
_BUILD = "medpanoptic.networks.build."
_WEIGHTS = Path("models") / "model.safetensors"
_METADATA, _INFERENCE = Path("configs") / "metadata.json", Path("configs") / "inference.json"
_MAX_WEIGHT_BYTES = 4 * 2**30


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model described: what it takes, what it finds, how it was made. Field names are those of the config.

    classes : network channel k is ``classes.classes[k]``.
    channels : what a study must or may hold; an optional channel that is missing is given as zeros.
    spacing_mm : of the network's grid, per spatial axis; None where images are taken as they are.
    preprocessing : ``[{"_target_": name, arguments}]`` for ``preprocess.Preprocessing``.
    window, overlap : of ``tiling.predict_image``, in voxels of the network's grid and parts of the window.
    fusion : arguments of ``fusion.fuse``, but ``min_stuff_mm``, ``min_thing_mm`` in mm2 (2D) or mm3 (3D).
    flips : spatial axes along which a run mirrors the image and averages what comes out; costs two per axis.
    calibration : (slope, intercept) on the log-odds of the head's scores, see ``outputs.calibrate``; thresholds are
        held against the scores that come out. It belongs to the weights.
    limits : what the model was trained on; outside it warns. ``field_of_view_mm``, ``spacing_mm``: [low, high] or one
        such pair per spatial axis; ``intensity``: [low, high] or one such pair per channel of the image, between
        which its 0.1th and 99.9th percentile lie.
    network_def : ``_target_`` and arguments of a function of ``networks.build``.
    weights_sha256 : of models/model.safetensors.
    """

    folder: Path
    name: str
    version: str
    description: str
    classes: ClassTable
    channels: tuple[ChannelSpec, ...]
    spacing_mm: tuple[float, ...] | None
    preprocessing: tuple[Mapping[str, Any], ...]
    window: tuple[int, ...]
    overlap: float
    network_def: Mapping[str, Any]
    weights_sha256: str = ""
    fusion: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    flips: tuple[int, ...] = ()
    calibration: tuple[float, float] = (1.0, 0.0)

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return int(self.network_def["spatial_dims"])

    @property
    def weights_path(self) -> Path:
        """Where the weights are or would be."""
        return self.folder / _WEIGHTS

    def build_network(self) -> PanopticNet | TwoNetworks:
        """Build the network with fresh weights. Raises ModelError (BUNDLE-SCHEMA) for arguments it does not take."""
        from medpanoptic.networks import build

        arguments = {k: v for k, v in self.network_def.items() if k != "_target_"}
        builder = getattr(build, self.network_def["_target_"].removeprefix(_BUILD))
        try:
            network: PanopticNet | TwoNetworks = builder(**arguments)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise ModelError("BUNDLE-SCHEMA", f"bundle {self.name}: network_def does not fit: {error}") from error
        return network

    def load_network(self) -> PanopticNet | TwoNetworks:
        """Build the network, load its weights strictly, set it to evaluate.

        Raises ModelError: MODEL-HASH, MODEL-WEIGHTS, BUNDLE-SCHEMA.
        """
        import torch

        from medpanoptic.networks.layers import NoInitialValues

        weights = load_weights(self.weights_path, self.weights_sha256)
        # without memory first: a network_def may ask for more than there is
        with torch.device("meta"), NoInitialValues():
            skeleton = self.build_network()
        _check_weights(weights, skeleton.state_dict(), self.name)
        network = self.build_network()
        try:
            network.load_state_dict(dict(weights), strict=True)
        except RuntimeError as error:
            what = f"bundle {self.name}: the weights are not those of its network_def: {error}"
            raise ModelError("MODEL-WEIGHTS", what) from error
        return network.eval()


def load_bundle(name_or_folder: str | Path, *, weights: bool = True) -> Bundle:
    """Read a shipped bundle by name, or a bundle folder ("./nuclei" where a name is also a folder).

    weights : also check that the weights are there and have the SHA-256 that the bundle names.
    Raises ModelError: MODEL-NAME, BUNDLE-UNSAFE, BUNDLE-SCHEMA, MODEL-WEIGHTS, MODEL-HASH.
    """
    folder = find_bundle(name_or_folder)
    check_files(folder)
    metadata, inference = read_json(folder / _METADATA), read_json(folder / _INFERENCE)
    check_data(metadata, "metadata.json", targets=PREPROCESSING)
    check_data(inference, "inference.json", targets=tuple(_BUILD + name for name in NETWORKS))
    check_sizes(inference)
    for path in sorted((folder / "configs").glob("*.json")):
        # train.json, whose names the trainer holds against its own list, and what other tools may be pointed at
        if path.name not in (_METADATA.name, _INFERENCE.name):
            check_data(read_json(path), path.name, targets=None)
    try:
        bundle = _parse(folder, metadata, inference)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, ResultError) as error:
        missing = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError("BUNDLE-SCHEMA", f"bundle {folder.name}: {missing}; see medpanoptic.bundle.Bundle") from error
    if weights:
        _read_weights(bundle.weights_path, bundle.weights_sha256)
    return bundle


def list_bundles() -> list[Bundle]:
    """Return the shipped bundles that have weights, by name."""
    folders = sorted(path for path in shipped_folder().glob("*") if (path / _WEIGHTS).is_file())
    return [load_bundle(folder, weights=False) for folder in folders]


def shipped_folder() -> Path:
    """Return where shipped bundles are: inside an installed package, or ``workflows/`` of the checkout."""
    here = Path(__file__).resolve().parent
    folders = (here / "workflows", here.parent / "workflows")
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def find_bundle(name_or_folder: str | Path) -> Path:
    """Return the folder of a shipped bundle or the folder given. Raises ModelError (MODEL-NAME), which lists names."""
    text = str(name_or_folder)
    if text and Path(text).name == text and not text.startswith(".") and (shipped_folder() / text).is_dir():
        return shipped_folder() / text
    if text and Path(text).is_dir():
        return Path(text)
    names = ", ".join(bundle.name for bundle in list_bundles()) or "none"
    raise ModelError("MODEL-NAME", f"no model {text!r} and no folder of that name; shipped models: {names}")


def load_weights(path: Path, sha256: str) -> Mapping[str, Tensor]:
    """Read safetensors whose SHA-256 (hex) is known. Raises ModelError: MODEL-WEIGHTS, MODEL-HASH."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = _read_weights(path, sha256)
    try:
        return load(data)
    except (SafetensorError, ValueError, OverflowError) as error:
        raise ModelError(
            "MODEL-WEIGHTS", f"{path.name} is no valid safetensors file (header or size): {error}"
        ) from error


def _check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> None:
    """Refuse weights of other names, shapes or kinds than the network has, and values that are no numbers."""
    for key in sorted({*weights, *expected}):
        if key not in weights or key not in expected:
            what = f"{key} is {'missing' if key in expected else 'not of this network'}"
        elif weights[key].shape != expected[key].shape:
            what = f"{key} has shape {tuple(weights[key].shape)}, the network takes {tuple(expected[key].shape)}"
        elif weights[key].is_floating_point() != expected[key].is_floating_point() or weights[key].is_complex():
            what = f"{key} has dtype {weights[key].dtype}, the network takes {expected[key].dtype}"
        elif weights[key].is_floating_point() and not bool(weights[key].isfinite().all()):
            what = f"{key} holds NaN or infinite values"
        else:
            continue
        raise ModelError("MODEL-WEIGHTS", f"bundle {name}: the weights are not those of its network_def: {what}")


def pack_bundle(
    folder: str | Path,
    weights: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, Any] | None = None,
    network_def: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write weights into a bundle folder and their SHA-256 into its metadata; return the bundle read back.

    weights : a state dict, on any device. metadata, network_def : make or replace the configs, else those there stay,
    but a calibration, which was that of other weights.
    The same weights give the same bytes. Raises ModelError as ``load_bundle``.
    """
    from safetensors.torch import save

    folder = Path(folder)
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    data = save({name: value.detach().cpu().contiguous() for name, value in weights.items()})
    described = dict(read_json(folder / _METADATA) if metadata is None else metadata)
    block = dict(described.get("medpanoptic", {}))
    if metadata is None:
        block.pop("calibration", None)
    described["medpanoptic"] = block | {"weights_sha256": hashlib.sha256(data).hexdigest()}
    _replace(folder / _WEIGHTS, data)
    _replace(folder / _METADATA, _json_bytes(described))
    if network_def is not None:
        _replace(folder / _INFERENCE, _json_bytes({"network_def": dict(network_def)}))
    return load_bundle(folder.resolve())


def _parse(folder: Path, metadata: Mapping[str, Any], inference: Mapping[str, Any]) -> Bundle:
    """Build a Bundle from configs that were found to be plain data."""
    block, network_def = metadata["medpanoptic"], inference["network_def"]
    if not isinstance(network_def, dict) or "_target_" not in network_def:
        raise ValueError("network_def must be an object with a _target_")
    classes = ClassTable.from_json(block["classes"])
    spacing = block.get("spacing_mm")
    bundle = Bundle(
        folder=folder,
        name=str(metadata.get("name") or folder.resolve().name),
        version=str(metadata["version"]),
        description=str(metadata.get("description", "")),
        classes=classes,
        channels=tuple(ChannelSpec(**entry) for entry in block["channels"]),
        spacing_mm=None if spacing is None else tuple(float(v) for v in spacing),
        preprocessing=tuple(block["preprocessing"]),
        window=tuple(int(v) for v in block["window"]),
        overlap=float(block["overlap"]),
        network_def=network_def,
        weights_sha256=str(block.get("weights_sha256", "")),
        fusion=dict(block.get("fusion", {})),
        limits=dict(block.get("limits", {})),
        flips=tuple(block.get("flips", ())),
        calibration=tuple(block.get("calibration", (1.0, 0.0))),
    )
    _check_values(bundle)
    return bundle


def _check_values(bundle: Bundle) -> None:
    """Raise ValueError for values that cannot work together."""
    dims, things = bundle.spatial_dims, [k for k, c in enumerate(bundle.classes) if c.is_thing]
    if dims not in (2, 3) or len(bundle.window) != dims or (bundle.spacing_mm and len(bundle.spacing_mm) != dims):
        raise ValueError(f"spatial_dims {dims}, window {bundle.window}, spacing_mm {bundle.spacing_mm} do not fit")
    if not bundle.channels or min(bundle.window) < 1 or not 0 <= bundle.overlap < 1:
        raise ValueError("channels must not be empty, the window positive, the overlap from 0 to below 1")
    if len(set(bundle.flips)) != len(bundle.flips) or not set(bundle.flips) <= set(range(dims)):
        raise ValueError(f"flips must be different axes below {dims}, got {bundle.flips}")
    slope, intercept = bundle.calibration
    if not _is_number(slope) or not _is_number(intercept) or not (slope > 0 and math.isfinite(slope + intercept)):
        raise ValueError(f"calibration must be [slope above 0, intercept], got {list(bundle.calibration)}")
    if int(bundle.network_def["out_channels"]) != len(bundle.classes):
        raise ValueError(f"out_channels {bundle.network_def['out_channels']} but {len(bundle.classes)} classes")
    if list(bundle.network_def["thing_channels"]) != things:
        raise ValueError(f"thing_channels {bundle.network_def['thing_channels']} but the thing classes are {things}")
    numbers = {k: v for k, v in bundle.fusion.items() if k != "method"}
    known = {"score_threshold", "overlap_threshold", "min_stuff_mm", "min_thing_mm"}
    if set(numbers) - known or not all(_is_number(v) for v in numbers.values()):
        raise ValueError(f"fusion takes a method and numbers for {sorted(known)}, got {dict(bundle.fusion)}")
    for name, limit in bundle.limits.items():
        _check_limit(name, limit, dims)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_limit(name: str, limit: Any, dims: int) -> None:
    """A limit is [low, high], or a list of those: one per axis, or for intensity one per channel of the image."""
    if name not in {"field_of_view_mm", "spacing_mm", "intensity"}:
        raise ValueError(f"limits: unknown entry {name!r}")
    pairs = limit if isinstance(limit, list) and limit and isinstance(limit[0], list) else [limit]
    well_formed = all(isinstance(p, list) and len(p) == 2 and all(map(_is_number, p)) and p[0] <= p[1] for p in pairs)
    if not well_formed or (name != "intensity" and len(pairs) not in (1, dims)):
        raise ValueError(f"limits: {name} must be [low, high] or one such pair per axis or channel, got {limit}")


def _read_weights(path: Path, sha256: str) -> bytes:
    """Return the file's bytes if they are what the bundle names; the bytes checked are the bytes used."""
    if path.suffix != ".safetensors":
        raise ModelError("MODEL-WEIGHTS", f"{path.name}: only safetensors weights are read; a pickle is unsafe")
    try:
        if path.stat().st_size > _MAX_WEIGHT_BYTES:
            raise ModelError("MODEL-WEIGHTS", f"{path.name} is larger than {_MAX_WEIGHT_BYTES >> 30} GiB")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError("MODEL-WEIGHTS", f"no weights at {path}: {error.strerror}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256.lower():
        raise ModelError(
            "MODEL-HASH",
            f"{path.name} has sha256 {found[:12]}..., the bundle names {sha256[:12] or 'none'}...: mismatch",
        )
    return data


def _json_bytes(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def _replace(path: Path, data: bytes) -> None:
    """Write whole or not at all."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
