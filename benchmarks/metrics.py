"""Time PQ of a crowd against MONAI and panoptica, and compare the figures; prints seconds, ratios and memory.

    python benchmarks/metrics.py [--size 2048] [--instances 3000] [--panoptica PYTHON]

MONAI's memory grows with pixels x instances, so it runs on a quarter of the area with a quarter of the instances
(--monai-size), ours beside it there; its time on the whole is at least 4 times that, which is said and not used for
the ratio. panoptica needs numpy < 2: give the Python of an environment of its own (pip install panoptica). Every tool
runs in a process of its own on one thread, the best of three; MONAI once. Each process times its own imports apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_TIMER = """
import sys, json, time
import numpy as np
maps = np.load(sys.argv[1]); pred, true = maps["pred"], maps["true"]
{prepare}
def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"): return int(line.split()[1]) / 1024
before, best = peak(), 1e9
for _ in range({runs}):
    start = time.perf_counter()
    {call}
    best = min(best, time.perf_counter() - start)
print(json.dumps(dict(seconds=best, mib=peak() - before, tp=int(tp), fp=int(fp), fn=int(fn), pq=float(pq))))
"""
OURS = (
    "from medpanoptic.metrics import panoptic_quality\n"
    "one = lambda ids: dict.fromkeys(np.flatnonzero(np.bincount(ids.ravel())).tolist(), 1)",
    "q = panoptic_quality(pred, one(pred), true, one(true), [1], void=None)[1]; "
    "tp, fp, fn, pq = q.tp, q.fp, q.fn, q.pq",
)
MONAI = (
    "import torch; from monai.metrics.panoptic_quality import compute_panoptic_quality\n"
    "pred, true = torch.from_numpy(pred.astype(int)), torch.from_numpy(true.astype(int))",
    "tp, fp, fn, s = compute_panoptic_quality(pred, true, match_iou_threshold=0.5, output_confusion_matrix=True)"
    ".tolist(); pq = s / (tp + fp / 2 + fn / 2)",
)
PANOPTICA = (
    "from panoptica import Panoptica_Evaluator, InputType, Metric, NaiveThresholdMatching\n"
    "run = Panoptica_Evaluator(expected_input=InputType.UNMATCHED_INSTANCE, instance_metrics=[Metric.IOU], "
    "global_metrics=[], log_times=False, verbose=False, "
    "instance_matcher=NaiveThresholdMatching(matching_threshold=0.5, strict_threshold=True))",
    "r = run.evaluate(pred, true, verbose=False)['ungrouped']; tp, fp, fn, pq = r.tp, r.fp, r.fn, r.pq",
)


def crowd(size: int, count: int, seed: int = 0) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Return prediction and truth: discs on a jittered grid; the prediction is moved, some missed, some invented."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(count)))
    step = size / side
    maps = np.zeros((2, size, size), np.uint16)
    axis = np.arange(size)
    for number in range(count):
        centre = (np.array(divmod(number, side)) + 0.5) * step + rng.uniform(-0.1, 0.1, 2) * step
        for layer, here, moved in ((1, rng.random() < 0.95, 0.0), (0, rng.random() < 0.95, 0.06 * step)):
            if here:
                middle, radius = centre + rng.normal(0, moved, 2), step * rng.uniform(0.25, 0.38)
                low = np.clip(middle - radius - 1, 0, size - 1).astype(int)
                high = np.clip(middle + radius + 2, 1, size).astype(int)
                rows, columns = axis[low[0] : high[0], None], axis[None, low[1] : high[1]]
                disc = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 <= radius**2
                maps[layer, low[0] : high[0], low[1] : high[1]][disc] = number + 1
    return maps[0], maps[1]


def measure(python: str, maps: Path, prepare: str, call: str, runs: int) -> dict[str, float]:
    """Run one tool in a process of its own."""
    code = _TIMER.format(prepare=prepare, call=call, runs=runs)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PANOPTICA_CITATION_REMINDER": "false"}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", code, str(maps)], capture_output=True, text=True, check=True, env=environment
    )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def show(name: str, found: dict[str, float]) -> None:
    print(
        f"  {name:10s} {found['seconds']:8.3f} s  {found['mib']:7.0f} MiB more than its input  "
        f"TP {found['tp']} FP {found['fp']} FN {found['fn']}  PQ {found['pq']:.8f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--instances", type=int, default=3000)
    parser.add_argument("--monai-size", type=int, default=1024)
    parser.add_argument("--panoptica", help="a Python with panoptica")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "maps.npz"

        def make(size: int) -> None:
            count = round(args.instances * (size / args.size) ** 2)
            pred, true = crowd(size, count)
            np.savez(path, pred=pred, true=true)
            print(f"{size}^2, {len(np.unique(pred)) - 1} predicted and {len(np.unique(true)) - 1} true", flush=True)

        make(args.monai_size)
        ours, monai = measure(sys.executable, path, *OURS, 3), measure(sys.executable, path, *MONAI, 1)
        show("ours", ours)
        show("MONAI", monai)
        print(f"  ratio {monai['seconds'] / ours['seconds']:.0f}, PQ differs by {abs(monai['pq'] - ours['pq']):.1e}")
        make(args.size)
        ours = measure(sys.executable, path, *OURS, 3)
        show("ours", ours)
        at_least = monai["seconds"] * (args.size / args.monai_size) ** 2
        print(f"  MONAI, by area alone at least {at_least:.0f} s: ratio {at_least / ours['seconds']:.0f} or more")
        if args.panoptica:
            theirs = measure(args.panoptica, path, *PANOPTICA, 3)
            show("panoptica", theirs)
            ratio, gap = theirs["seconds"] / ours["seconds"], abs(theirs["pq"] - ours["pq"])
            print(f"  ratio {ratio:.1f}, PQ differs by {gap:.1e}")
        make(2 * args.size)
        twice = measure(sys.executable, path, *OURS, 3)
        show("ours", twice)
        growth = [twice[k] / max(ours[k], 1e-9) for k in ("seconds", "mib")]
        print(f"  4 times the area: {growth[0]:.1f} times the time, {growth[1]:.1f} times the memory")


if __name__ == "__main__":
    main()
