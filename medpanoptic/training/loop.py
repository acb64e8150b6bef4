"""The training loop: one function to read from top to bottom."""

from __future__ import annotations

import copy
import csv
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medpanoptic.bundle import Bundle, load_bundle, pack_bundle
from medpanoptic.errors import DataError, ModelError
from medpanoptic.networks.backbone import EfficientNetLite, imagenet_state, load_imagenet
from medpanoptic.networks.layers import speed_up_one_thread
from medpanoptic.networks.net import PanopticNet, TwoNetworks
from medpanoptic.training.augment import build_augmentation, draw_patch
from medpanoptic.training.cases import Case, prepare, to_batch
from medpanoptic.training.layouts import read_layout
from medpanoptic.training.validate import validate

log = logging.getLogger(__name__)
Network = PanopticNet | TwoNetworks


def train(
    bundle: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    device: str = "cpu",
    steps: int | None = None,
    seed: int | None = None,
    threads: int | None = None,
    fine_tune: bool = False,
    progress: bool = True,
) -> Path:
    """Train a bundle's network and return the folder of the trained bundle, ``output/bundle``.

    bundle : a shipped bundle's name or a folder; its configs/train.json holds every setting.
    data : a folder in one of the layouts of ``layouts.read_layout``.
    output : run folder: log.csv, curves.png, checkpoint.pt, bundle/. A run found there goes on where it stopped.
    steps, seed : replace those of train.json. threads : CPU threads of torch.
    fine_tune : start from the bundle's own weights, not from ImageNet or noise.
    Raises ModelError, DataError.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    source = load_bundle(bundle, weights=fine_tune)
    config = json.loads((source.folder / "configs" / "train.json").read_text(encoding="utf-8"))
    config |= {k: v for k, v in {"steps": steps, "seed": seed}.items() if v is not None}
    run = Path(output)
    run.mkdir(parents=True, exist_ok=True)
    cases, held_out = load_cases(source, config, Path(data))
    torch.manual_seed(config["seed"])
    network = source.load_network() if fine_tune else source.build_network()
    if config.get("imagenet", False) and not fine_tune:
        _start_from_imagenet(network)
    return _run(source, network, config, cases, held_out, run, torch.device(device), progress)


def load_cases(bundle: Bundle, config: Mapping[str, Any], data: Path) -> tuple[list[Case], list[Case]]:
    """Return train and validation cases on the network's grid. Raises DataError (DATA-EMPTY) without train cases."""
    codes = {int(k): v for k, v in config.get("codes", {}).items()}
    parts: dict[str, list[Case]] = {"train": [], "val": []}
    for annotated in read_layout(data, bundle.channels, codes):
        parts[annotated.split].append(prepare(annotated, bundle.preprocessing, bundle.classes))
    if not parts["train"]:
        raise DataError("DATA-EMPTY", f"{data.name}: no case of the train part was found")
    return parts["train"], parts["val"]


def learning_rate(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Return the rate of a step: linear warm-up, then a cosine down to a hundredth."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    turn = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * turn)))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the running average of weights and norm statistics towards the network."""
    for a, b in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if a.dtype.is_floating_point:
            a.lerp_(b, 1 - decay)
        else:
            a.copy_(b)


def _run(
    bundle: Bundle,
    network: Network,
    config: Mapping[str, Any],
    cases: Sequence[Case],
    held_out: Sequence[Case],
    run: Path,
    device: torch.device,
    progress: bool,
) -> Path:
    layout = torch.channels_last if network_dims(bundle) == 2 else torch.contiguous_format
    network.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    if device.type == "cpu" and torch.get_num_threads() == 1:
        speed_up_one_thread(network)
    average = copy.deepcopy(network).eval()
    optimizer = torch.optim.AdamW(network.parameters(), lr=config["learning_rate"], weight_decay=config["weight_decay"])
    state = _resume(run, network, average, optimizer, device)
    augmentation = build_augmentation(config["augmentation"])
    running: dict[str, float] = {}
    started = time.process_time() - state["cpu_seconds"]
    for step in _bar(range(state["step"], config["steps"]), progress, config["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config["steps"], config["learning_rate"], config["warm_up"])
        how = (config["patch"], config["sampling"], augmentation)
        drawn = [
            draw_patch(cases, *how, (config["seed"], step, i), config["margin"], config.get("paste"))
            for i in range(config["batch_size"])
        ]
        image, targets = to_batch([p for p, _ in drawn], [labels for _, labels in drawn])
        image, targets = image.to(device, memory_format=layout), targets.to(device)
        torch.manual_seed(hash((config["seed"], step)) % 2**31)  # the heads sample proposals
        network.train()
        # never on a CPU: torch 2.13's bfloat16 kernels gave infinite gradients there, in other steps on each run
        with torch.autocast(device.type, torch.bfloat16, enabled=config["amp"] and device.type == "cuda"):
            losses = network.loss(image, targets)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), config["clip_norm"])
        if not bool(torch.isfinite(norm)):
            raise ModelError(
                "TRAIN-DIVERGED", f"step {step}: the gradient is not finite; lower learning_rate or clip_norm"
            )
        optimizer.step()
        update_average(average, network, min(config["ema"], (1 + step) / (10 + step)))
        for name, value in losses.items():
            running[name] = 0.95 * running.get(name, float(value.detach())) + 0.05 * float(value.detach())
        last = step + 1 == config["steps"]
        if (step + 1) % config["validate_every"] == 0 or last:
            part = held_out if last else held_out[:: max(1, len(held_out) // config["validate_cases"])]
            scores = validate(average, part, bundle, device)
            cpu = time.process_time() - started
            _log_row(
                run / "log.csv", {"step": step + 1, "cpu_seconds": round(cpu), "cases": len(part)} | scores | running
            )
            state = {"step": step + 1, "cpu_seconds": cpu}
            _save(run, network, average, optimizer, state)
            _export(bundle, average, config, run)
    return run / "bundle"


def network_dims(bundle: Bundle) -> int:
    """Return the number of spatial axes of a bundle's network."""
    return int(bundle.network_def["spatial_dims"])


def _start_from_imagenet(network: nn.Module) -> None:
    state = imagenet_state()
    for module in network.modules():
        if isinstance(module, EfficientNetLite):
            load_imagenet(module, state)


def _bar(steps: range, progress: bool, total: int) -> Any:
    if not progress:
        return steps
    from rich.console import Console
    from rich.progress import track

    return track(steps, f"training, step {steps.start} to {total}", console=Console(stderr=True))


def _resume(
    run: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> dict[str, Any]:
    path = run / "checkpoint.pt"
    if not path.is_file():
        return {"step": 0, "cpu_seconds": 0.0}
    saved = torch.load(path, map_location=device, weights_only=True)
    network.load_state_dict(saved["network"])
    average.load_state_dict(saved["average"])
    optimizer.load_state_dict(saved["optimizer"])
    log.info("going on from step %d", saved["state"]["step"])
    state: dict[str, Any] = saved["state"]
    return state


def _save(
    run: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    parts = {"network": network.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(parts | {"state": dict(state)}, run / "checkpoint.tmp")
    os.replace(run / "checkpoint.tmp", run / "checkpoint.pt")


def _log_row(path: Path, row: Mapping[str, float]) -> None:
    """Append a row; the columns are those of the first one, which a resumed run repeats."""
    new = not path.is_file()
    with open(path, "a", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        if new:
            writer.writerow(row)
        writer.writerow([f"{v:.5g}" if isinstance(v, float) else v for v in row.values()])


def _export(bundle: Bundle, average: nn.Module, config: Mapping[str, Any], run: Path) -> None:
    """Write the averaged weights as a bundle of its own, and the curves."""
    target = run / "bundle"
    if target.resolve() != bundle.folder.resolve():
        shutil.copytree(bundle.folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = {k: v.detach().to("cpu", memory_format=torch.contiguous_format) for k, v in average.state_dict().items()}
    pack_bundle(target, weights)
    (target / "configs" / "train.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
    plot_curves(run / "log.csv", run / "curves.png")


def plot_curves(log_csv: Path, png: Path) -> None:
    """Draw every column of a log against the step. Needs matplotlib (the train extra); without it no plot is made."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        log.warning("no curves.png: matplotlib is not installed; run: pip install 'medpanoptic[train]'")
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with open(log_csv, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    names = [n for n in rows[0] if n not in ("step", "cpu_seconds", "cases")]
    figure = Figure(figsize=(4 * min(4, len(names)), 3 * math.ceil(len(names) / 4)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(math.ceil(len(names) / 4), min(4, len(names)), squeeze=False)).ravel()
    for axis, name in zip(axes, names, strict=False):
        axis.plot([int(r["step"]) for r in rows], [float(r[name] or "nan") for r in rows], marker=".")
        axis.set(title=name, xlabel="step")
    figure.savefig(png, dpi=80)
