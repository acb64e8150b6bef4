"""Fit what turns a model's scores into probabilities of being right, on the validation part, and check it.

    python benchmarks/calibration.py BUNDLE [--data FOLDER] [--floor 0.05] [--plot PNG]

Each validation case is segmented with its raw scores and a low threshold, so that doubtful things count too; a thing
is right if it matches one of its class with IoU > 0.5. Prints slope and intercept over all cases, to be moved into the
bundle's metadata by hand ("calibration"), and, as the honest check, the calibration error of each half of the cases
with the fit of the other half.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from validation import MODELS, ROOT, case_input, val_ids

from medpanoptic import Segmenter
from medpanoptic.bundle import load_bundle
from medpanoptic.metrics import plots
from medpanoptic.metrics.calibration import Calibration, calibration, fit_calibration
from medpanoptic.metrics.comparison import score_case
from medpanoptic.metrics.truth import find_truth, truth_of
from medpanoptic.networks.outputs import calibrate

Scored = tuple[NDArray[np.float64], NDArray[np.bool_]]


def score_cases(segmenter: Segmenter, data: Path, floor: float) -> list[Scored]:
    """Scores of the things found in each case, and whether each was right."""
    truths = find_truth(data, {c.name for c in segmenter.bundle.classes})
    found = []
    for case in val_ids(data):
        result = segmenter(case_input(data, case), score=floor)
        scores = {s.id: s.score for s in result.segments}
        rows = [r for r in score_case(case, truth_of(result), truths[case](), scores).instances if r.outcome != "fn"]
        found.append((np.array([r.score for r in rows], float), np.array([r.outcome == "tp" for r in rows], bool)))
    return found


def joined(cases: list[Scored]) -> Scored:
    scores, right = zip(*cases, strict=True)
    return np.concatenate(scores), np.concatenate(right)


def apply(scores: NDArray[np.float64], fit: tuple[float, float]) -> NDArray[np.float64]:
    return np.asarray(calibrate(torch.from_numpy(scores), *fit))


def reliability_table(found: Calibration) -> pd.DataFrame:
    rows = {"n": found.n, "mean score": found.score.round(3), "right": found.right.round(3)}
    return pd.DataFrame(rows, index=[f"{a:.1f}-{b:.1f}" for a, b in zip(found.edges, found.edges[1:], strict=False)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--data", type=Path, help="the model's data folder, if it is not the usual one")
    parser.add_argument("--floor", type=float, default=0.05)
    parser.add_argument("--plot", type=Path, help="draw the reliability diagram here")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    bundle = replace(load_bundle(args.bundle), calibration=(1.0, 0.0))
    usual = {Path(m).name: d for m, d in MODELS.items()}
    data = args.data or ROOT.parent / "shared" / "data" / usual[bundle.name]
    cases = score_cases(Segmenter(bundle, bundle.load_network(), "cpu"), data, args.floor)
    scores, right = joined(cases)
    print(f"{len(cases)} cases, {len(scores)} things with a raw score over {args.floor}, {right.mean():.3f} right")
    shown = calibration(scores, right)
    if right.any() and not right.all():
        slope, intercept = fit_calibration(scores, right)
        raw, shown = shown, calibration(apply(scores, (slope, intercept)), right)
        print(f'"calibration": [{slope:.4f}, {intercept:.4f}]')
        print(f"expected calibration error: raw {raw.ece:.3f}, fitted {shown.ece:.3f}")
        for first in (0, 1):
            fit = fit_calibration(*joined(cases[first::2]))
            other, other_right = joined(cases[1 - first :: 2])
            ece = calibration(apply(other, fit), other_right).ece
            print(f"  half {1 - first} (n = {len(other)}) with the fit of the other half: {ece:.3f}")
    else:
        print("all of one outcome: nothing to fit; the raw scores are shown")
    if args.plot:
        plots.save(plots.reliability(shown), args.plot)
    print(reliability_table(shown))


if __name__ == "__main__":
    main()
