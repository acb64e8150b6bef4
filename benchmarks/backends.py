"""Ways to run a network faster, each beside the way it is run, in one process: which are worth having?

    python benchmarks/backends.py [--packages FOLDER] [--model nuclei] [--rounds 3]

Rows: channels last or not, norms folded or not, several windows a pass, bfloat16, torch.compile (needs a C++
compiler), ONNX Runtime and OpenVINO. The last two are no dependencies: ``--packages`` names the site-packages of an
environment that has onnx, onnxruntime and openvino; what is missing is said. One thread, CPU seconds (a shared machine
disturbs them least), the best of some rounds in turn; a ratio below 0.67 wins by more than a third. gap: the largest
difference of logits and dense maps against the way it is run. Last: how many windows hold one value and could be
skipped.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medpanoptic.bundle import load_bundle
from medpanoptic.preprocess import Preprocessing
from medpanoptic.segmenter.devices import has_bfloat16
from medpanoptic.segmenter.folding import fold_norms
from medpanoptic.tiling import fit_window, shared_voxels, window_starts
from medpanoptic.volume import Volume

sys.path.insert(0, str(Path(__file__).parent))
from speed import NUCLEI, mosaic

Run = Callable[[Tensor], tuple[Any, Any]]


class Maps(nn.Module):
    """A dense network as exporters want it: one tensor in, logits and dense maps out."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, *S) -> (B, K, *S), (B, M, *S)."""
        out = self.network(x)
        return out.semantic_logits, out.raw


def eager(network: Any, channels_last: bool = True, amp: bool = False) -> Run:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    maps = Maps(network).to(memory_format=layout)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            logits, raw = maps(x.contiguous(memory_format=layout))
            return logits.float(), raw.float()

    return run


def compiled(network: Any) -> Run:
    """Compile the network as loaded: freezing folds norms itself, and it does not know our oneDNN convolution."""
    import torch._inductor.config

    torch._inductor.config.freezing = True
    run = torch.compile(Maps(network).to(memory_format=torch.channels_last), dynamic=False)
    return lambda x: run(x.contiguous(memory_format=torch.channels_last))


def onnx_runtime(network: Any, x: Tensor) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/network.onnx"
        torch.onnx.export(Maps(network), (x,), path, dynamo=False, opset_version=17, input_names=["x"])
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: tuple(torch.from_numpy(v) for v in session.run(None, {"x": x.numpy()}))


def open_vino(network: Any, x: Tensor) -> Run:
    import openvino

    model = openvino.convert_model(Maps(network), example_input=x, input=[tuple(x.shape)])
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    ready = openvino.Core().compile_model(model, "CPU", settings)
    return lambda x: tuple(torch.from_numpy(v.copy()) for v in ready(x.numpy()).values())


def ways(bundle: Any, x: Tensor) -> dict[str, Callable[[], Run] | str]:
    """Return what makes each way, by name, or why it cannot be run here; torch.compile, which takes minutes, last."""
    load = bundle.load_network
    found: dict[str, Callable[[], Run] | str] = {
        "channels first": lambda: eager(fold_norms(load()), channels_last=False),
        "norms not folded": lambda: eager(load()),
        "2 windows a pass": lambda: batched(eager(fold_norms(load())), 2),
        "4 windows a pass": lambda: batched(eager(fold_norms(load())), 4),
        "bfloat16": lambda: eager(fold_norms(load()), amp=True),
        "ONNX Runtime": lambda: onnx_runtime(load(), x),
        "OpenVINO": lambda: open_vino(load(), x),
        "torch.compile": lambda: compiled(load()),
    }
    if not has_bfloat16(torch.device("cpu")):
        found["bfloat16"] = "this CPU has no instructions for it"
    for name, package in (("ONNX Runtime", "onnxruntime"), ("OpenVINO", "openvino")):
        if importlib.util.find_spec(package) is None:
            found[name] = f"{package} is not installed"
    return found


def batched(run: Run, count: int) -> Run:
    """Return a run over ``count`` copies of a window; its time is divided by their number."""
    return lambda x: run(x.expand(count, *x.shape[1:]))


def seconds(run: Run, x: Tensor) -> float:
    """Return the CPU seconds of one pass."""
    before = time.process_time()
    run(x)
    return time.process_time() - before


def empty_windows(bundle: Any) -> tuple[int, int]:
    """Return how many windows of the validation images (more than one a image) hold one value only, and of how many."""
    from PIL import Image

    lines = (NUCLEI / "index.csv").read_text(encoding="utf-8").splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    shared = shared_voxels(bundle.window, bundle.overlap)
    empty = total = 0
    for name in (row["id"] for row in rows if row["split"] == "val"):
        with Image.open(NUCLEI / "images" / f"{name}.png") as image:
            array = np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
        grid = Preprocessing(bundle.preprocessing)(Volume.from_array(array)).as_tensor()
        window = fit_window(grid.shape[1:], bundle.window, 16, shared)
        axes = [window_starts(n, w, s) for n, w, s in zip(grid.shape[1:], window, shared, strict=True)]
        corners = list(itertools.product(*axes))
        if len(corners) > 1:
            cuts = [grid[:, a : a + window[0], b : b + window[1]] for a, b in corners]
            empty += sum(bool(cut.amin() == cut.amax()) for cut in cuts)
            total += len(cuts)
    return empty, total


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.packages is not None:
        sys.path.append(str(args.packages.resolve()))
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    bundle = load_bundle(args.model)
    image = Preprocessing(bundle.preprocessing)(Volume.from_array(mosaic(bundle.window[0]))).as_tensor()
    x = image[None].contiguous()
    usual = eager(fold_norms(bundle.load_network()))
    print(f"{args.model}: one window of {tuple(x.shape[2:])}, one thread, CPU seconds a window", flush=True)
    for name, make in ways(bundle, x).items():
        if isinstance(make, str):
            print(f"  {name:18s} not run: {make}")
            continue
        run = make()
        maps = run(x)  # the first pass compiles and takes memory
        usual_maps, count = usual(x), len(maps[0])
        rounds = [(seconds(usual, x), seconds(run, x) / count) for _ in range(args.rounds)]
        before, best = (min(column) for column in zip(*rounds, strict=True))
        gap = max(float((a[:1] - b).abs().max()) for a, b in zip(maps, usual_maps, strict=True))
        print(
            f"  {name:18s} {best:6.3f}  as it is run {before:6.3f}  ratio {best / before:5.2f}  gap {gap:.1e}",
            flush=True,
        )
    if args.model == "nuclei" and NUCLEI.is_dir():
        print("  windows of one value: {} of {} in validation images".format(*empty_windows(bundle)))


if __name__ == "__main__":
    main()
