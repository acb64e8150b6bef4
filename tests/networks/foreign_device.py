"""A device that is not the CPU, for machines without one: CPU memory behind tensors that say they lie elsewhere.

Every operation that mixes its tensors with the CPU's raises as on CUDA (a single number may mix), and every copy to
the CPU, or wait for it, is written down with the function that asked for it. Numbers are the CPU's own.
Built on torch's Python backend for a device of one's own (``torch.utils.backend_registration``), which is set up once
per process and leaves threads behind: run this file, ``python foreign_device.py``, which prints what it saw as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

ROOT = Path(__file__).resolve().parents[2]
aten = torch.ops.aten
WAITS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default)
# "file:function" that made the device wait for the CPU or copied to it -> how often
host_copies: Counter[str] = Counter()


class Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("foreign", backend_module=Backend())
torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) is made on the CPU, then moved: we see the move
DEVICE = torch.device("foreign:0")


class Foreign(torch.Tensor):
    """A tensor on the device; ``held`` is where its numbers are."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        size, strides, offset = held.size(), held.stride(), held.storage_offset()
        return torch.Tensor._make_wrapper_subclass(
            cls, size, strides=strides, storage_offset=offset, dtype=held.dtype, layout=held.layout, device=DEVICE
        )

    def __init__(self, held):
        self.held = held

    def tolist(self):
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol):  # checkpoints
        return self.held.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


class OnDevice(TorchDispatchMode):
    """Within it, tensors can be made on the device or moved there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [a for a in tree_flatten((args, kwargs))[0] if isinstance(a, torch.Tensor)]
    foreign = [t for t in tensors if isinstance(t, Foreign)]
    moves = func in (aten._to_copy.default, aten.copy_.default)
    if foreign and not moves and any(t.ndim for t in tensors if not isinstance(t, Foreign)):
        raise RuntimeError(f"{func}: tensors of the CPU and of the device are mixed, at {caller()}")
    target = kwargs.get("device")
    if func is aten.copy_.default:
        target = args[0].device
    elif target is None and foreign:
        target = DEVICE
    to_device = target is not None and torch.device(target).type == "foreign"
    if foreign and (func in WAITS or (moves and not to_device)):
        host_copies[caller()] += 1
    out = func(*tree_map(held, args), **tree_map(held, kwargs))
    if not to_device:
        return out
    return return_and_correct_aliasing(
        func, args, kwargs, tree_map(lambda t: Foreign(t) if isinstance(t, torch.Tensor) else t, out)
    )


def held(value: Any) -> Any:
    if isinstance(value, Foreign):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == "foreign" else value


def caller() -> str:
    """Return the innermost function of ours, "networks/boxes.py:nms"."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename.replace(os.sep, "/")
        if "/medpanoptic/" in path and "/tests/" not in path:
            return f"{path.rsplit('/medpanoptic/', 1)[1]}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "torch"


# ---- what is run on it


def trained_weights(folder: Path, builder: str, dims: int, device: str) -> dict[str, torch.Tensor]:
    """Train one real step, with validation, checkpoint and export; return the exported weights."""
    from safetensors.torch import load_file

    sys.path.insert(0, str(ROOT / "tests" / "training"))
    from tiny_training import nnunet_layout, own_layout, tiny_bundle

    from medpanoptic.training import loop

    loop.plot_curves = lambda *_: None  # costs more than all the rest
    data, bundle = folder / f"data{dims}", folder / f"{builder}{dims}"
    if not data.is_dir():
        (own_layout if dims == 2 else nnunet_layout)(data, *((3, (32, 32)) if dims == 2 else (True, (16, 16, 32))))
    if not bundle.is_dir():
        tiny_bundle(bundle, dims, [32, 32] if dims == 2 else [16, 16, 32], steps=1)
        path = bundle / "configs" / "inference.json"
        config = json.loads(path.read_text())
        if builder != "efficientps_centres":
            config["network_def"]["_target_"] = f"medpanoptic.networks.build.{builder}"
            config["network_def"] |= {"anchor_sizes": [4, 8, 16, 32], "max_detections": 10, "hidden": 16}
            config["network_def"] |= {"pre_nms": 50, "post_nms": 30, "roi_samples": 16}
            config["network_def"] |= {"roi_size": 3, "mask_roi_size": 4}
            if builder == "fcn_mask_rcnn":
                del config["network_def"]["head_channels"]
        path.write_text(json.dumps(config))
    run = folder / f"run_{builder}{dims}_{device[:3]}"
    return load_file(
        next((loop.train(bundle, data, run, device=device, progress=False) / "models").glob("*.safetensors"))
    )


def trainings(folder: Path) -> dict[str, Any]:
    report = {}
    kinds = [("efficientps_centres", 2), ("efficientps", 2), ("fcn_mask_rcnn", 2), ("efficientps_centres", 3)]
    for builder, dims in [*kinds, ("efficientps", 3)]:
        expected = trained_weights(folder, builder, dims, "cpu")
        # in one thread: we see who calls, and the backward pass does not wait for a thread of the device's own
        with OnDevice(), torch.autograd.set_multithreading_enabled(False):
            found = trained_weights(folder, builder, dims, "foreign:0")
        differences = [float((v.float() - found[k].float()).abs().mean()) for k, v in expected.items()]
        report[f"{builder} {dims}D"] = max(differences)
    return report


def segmentations() -> dict[str, Any]:
    """Segment with shipped weights, and with the proposal head and the baseline that stand beside them."""
    from PIL import Image

    from medpanoptic import Segmenter

    with Image.open(ROOT / "sample_data" / "nuclei_fluorescence.png") as image:
        cells = np.asarray(image.convert("RGB")).transpose(2, 0, 1)[:, :192, :192]
    volume = np.zeros((3, 24, 40, 40), np.float32)
    volume[0], volume[1, 6:16, 10:24, 12:26] = 40, 12
    arms = ROOT / "benchmarks" / "bundles"
    report = {}
    for name, model, flips, images in (
        ("dense 2D", "nuclei", None, (cells, cells[:, :96])),
        ("dense 2D, flips", "nuclei", True, (cells[:, :96, :96],)),
        ("dense 3D", "sarcoma_petct", None, (volume, volume[:, :20])),
        ("proposals 2D", arms / "nuclei_efficientps", None, (cells[:, :128, :128],)),
        ("baseline 2D", arms / "nuclei_fcn_mask_rcnn", None, (cells[:, :128, :128],)),
    ):
        report[name] = [on_both(Segmenter, model, flips, image) for image in images]
    return report


def on_both(segmenter: Any, model: Any, flips: bool | None, image: Any) -> dict[str, Any]:
    loaded = segmenter.load(model, "cpu", flips=flips)
    window = (96, 96) if len(loaded.bundle.window) == 2 else (16, 32, 32)
    bundle = replace(loaded.bundle, window=window)
    expected = loaded.__class__(bundle, bundle.load_network(), "cpu", flips=flips)(image)
    marks: list[int] = []
    with OnDevice():
        there = loaded.__class__(bundle, bundle.load_network(), "foreign:0", flips=flips)
        host_copies.clear()
        found = there(image, progress=lambda _: marks.append(host_copies.total()))
    scores = [abs(a.score - b.score) for a, b in zip(expected.segments, found.segments, strict=False)]
    return {
        "expected": len(expected.things),
        "other pixels": float((expected.ids != found.ids).mean()),
        "other scores": max(scores),
        "things": len(found.things),
        "in the loop": max(marks[:-1]),
        "windows": len(marks) - 1,
        "copies": dict(host_copies),
        "device": found.provenance.parameters["device"],
    }


def ladder() -> list[Any]:
    """Run out of memory on the device in whole windows, then in all: what each run resorted to."""
    from medpanoptic import Segmenter

    loaded = Segmenter.load("nuclei", "cpu")
    bundle = replace(loaded.bundle, window=(64, 64))
    image = (np.random.default_rng(0).random((3, 64, 96)) * 255).astype(np.uint8)
    found = []
    for largest in (64, 32, 0):
        with OnDevice():
            segmenter = Segmenter(bundle, bundle.load_network(), "foreign:0")
            usual = segmenter.network.forward

            def short(x: torch.Tensor, usual: Any = usual, largest: int = largest) -> Any:
                if x.device.type != "cpu" and max(x.shape[2:]) > largest:
                    raise torch.OutOfMemoryError("injected")
                return usual(x)

            segmenter.network.forward = short
            result = segmenter(image)
        codes = [w["code"] for w in result.provenance.parameters["warnings"]]
        found.append([result.provenance.parameters.get("fallback"), codes, result.ids.shape])
    return found


def mixing() -> str:
    with OnDevice(), contextlib.suppress(RuntimeError):
        return str(torch.zeros(3, device=DEVICE) + torch.zeros(3))
    return "raised"


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        report: dict[str, Any] = {"mixing": mixing(), "ladder": ladder()}
        report |= {"training": trainings(Path(folder)), "segmenting": segmentations()}
    print(json.dumps(report), flush=True)
    os._exit(0)  # the backward pass left a thread that never ends


if __name__ == "__main__":
    main()
