"""Choose a dense head's decoding and fusion settings on the validation part.

    python benchmarks/decoding.py BUNDLE DATA

Runs the network once a case, then sweeps one setting after the other, keeping the best of each (coordinate ascent on
the mean of pooled and per-image binary PQ). Prints every value tried; writes nothing: settings are moved into the
bundle by hand, and only from validation cases.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from medpanoptic.bundle import Bundle, load_bundle
from medpanoptic.fusion import fuse
from medpanoptic.metrics import binary_quality, mean_pq, pooled
from medpanoptic.networks.centre_head import CentreHead
from medpanoptic.networks.flips import FlipAverage
from medpanoptic.networks.outputs import Prediction, calibrate
from medpanoptic.training.cases import Case, prepare
from medpanoptic.training.layouts import read_layout
from medpanoptic.training.validate import truth_map

GRID = {
    "peak_threshold": (0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    "merge_distance": (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0),
    "score_threshold": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "reach": (6.0, 10.0, 16.0, 24.0, 40.0),
    "min_size": (4, 12, 20, 30, 60, 120),
    "peak_window": (3, 5, 7, 9),
}


def load(bundle: Bundle, data: Path) -> list[Case]:
    import json

    config = json.loads((bundle.folder / "configs" / "train.json").read_text(encoding="utf-8"))
    codes = {int(k): v for k, v in config["codes"].items()}
    return [
        prepare(a, bundle.preprocessing, bundle.classes) for a in read_layout(data, bundle.channels, codes, ("val",))
    ]


@torch.no_grad()
def run_network(bundle: Bundle, cases: Sequence[Case]) -> tuple[CentreHead, list[tuple[torch.Tensor, torch.Tensor]]]:
    network: Any = bundle.load_network()
    if bundle.flips:
        network = FlipAverage(network, bundle.flips)
    outputs = []
    for case in cases:
        shape = case.semantic.shape
        pad = [v for n in reversed(shape) for v in (0, (-n) % network.divisor)]
        out = network(F.pad(torch.from_numpy(case.image)[None], pad))
        inside = (slice(None), slice(None), *(slice(0, n) for n in shape))
        outputs.append((out.raw[inside], out.semantic_logits[inside]))
    return network.instance_head, outputs


def score(
    head: CentreHead,
    outputs: Sequence[tuple[torch.Tensor, torch.Tensor]],
    cases: Sequence[Case],
    is_thing: Sequence[bool],
    settings: Mapping[str, float],
    calibration: tuple[float, float] = (1.0, 0.0),
) -> tuple[float, float]:
    """Return pooled and per-image mean binary PQ; thresholds are held against calibrated scores, as in a run."""
    for name, value in settings.items():
        if name != "score_threshold":
            setattr(head, name, value)
    counts = []
    things = [k + 1 for k, thing in enumerate(is_thing) if thing]
    for (raw, logits), case in zip(outputs, cases, strict=True):
        found = head.instances(raw, None, logits)[0]
        found = replace(found, scores=calibrate(found.scores, *calibration))
        fused = fuse(Prediction(logits[0], found), is_thing, score_threshold=settings["score_threshold"])
        segments = {s.id: s.channel + 1 for s in fused.segments}
        counts.append(binary_quality(fused.ids.numpy(), segments, *truth_map(case, is_thing), things))
    return pooled(counts).pq, mean_pq(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bundle = load_bundle(args.bundle)
    cases = load(bundle, args.data)
    head, outputs = run_network(bundle, cases)
    is_thing = [c.is_thing for c in bundle.classes]
    best = {name: getattr(head, name) for name in GRID if name != "score_threshold"}
    best["score_threshold"] = float(bundle.fusion.get("score_threshold", 0.5))
    reference = score(head, outputs, cases, is_thing, best, bundle.calibration)
    print(f"{len(cases)} cases; the bundle's own: pooled {reference[0]:.4f}, per image {reference[1]:.4f}", flush=True)
    for name, values in GRID.items():
        tried = {}
        for value in values:
            tried[value] = score(head, outputs, cases, is_thing, best | {name: value}, bundle.calibration)
            print(f"  {name:16s} {value:<6g} pooled {tried[value][0]:.4f}  per image {tried[value][1]:.4f}", flush=True)
        top = max(tried, key=lambda v: float(np.mean(tried[v])))
        if np.mean(tried[top]) > np.mean(reference):
            best[name], reference = top, tried[top]
    print({k: float(v) for k, v in best.items()}, f"pooled {reference[0]:.4f}, per image {reference[1]:.4f}")


if __name__ == "__main__":
    main()
