"""Several tumours a volume: semi-synthetic validation volumes, 1 to 8 tumours each, some touching.

    python benchmarks/multi_tumours.py [--data ../shared/data] [--only NAME] [--model FOLDER] [--counts 1 2 4 8]

Each validation volume keeps its own tumour; tumours of the other validation patients are scaled to 0.4 to 0.8 of their
width, mirrored and pasted into tissue of a kind that they had around them, on the native grid (see
``medpanoptic.training.paste``; training pastes training tumours only, on the network's grid), four voxels or more from
each other, as many of the wanted number as find room; then so that they touch. The places are drawn from a fixed seed:
every network sees the same volumes. The rims are made by blending and the tissue around is
not pushed aside: figures compare networks and counts of tumours, they are not those of patients with metastases.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from calibration import reliability_table
from numpy.typing import NDArray
from scipy import ndimage
from validation import ARMS, ROOT

from medpanoptic import Segmenter, Volume
from medpanoptic.bundle import Bundle, load_bundle
from medpanoptic.metrics import plots
from medpanoptic.metrics.comparison import CaseScore, score_case
from medpanoptic.metrics.contingency import overlap
from medpanoptic.metrics.detection import assign
from medpanoptic.metrics.tables import class_table, instance_table, score_calibration
from medpanoptic.metrics.truth import Truth, truth_of
from medpanoptic.training.cases import Case, prepare
from medpanoptic.training.layouts import read_layout
from medpanoptic.training.paste import paste_things
from medpanoptic.training.validate import truth_map

MODELS = ("sarcoma_petct", ARMS / "sarcoma_efficientps", ARMS / "sarcoma_fcn_mask_rcnn")
CODES = {0: "outside the body", 1: "fat", 2: "soft tissue", 3: "bone", 10: "tumour"}
SCALE = (0.4, 0.8)
GAP = 4  # voxels between tumours that are apart
ATTEMPTS = 60


@dataclass(frozen=True, eq=False)
class Scored:
    """One volume: its scores, and how many of its touching tumours were found at IoU > 0.1."""

    score: CaseScore
    touching: int
    touching_found: int


def native_cases(bundle: Bundle, data: Path) -> list[tuple[Volume, Case]]:
    """Validation volumes and the same as cases on the native grid, in HU and SUV."""
    annotated = read_layout(data, bundle.channels, CODES, ("val",))
    return [(a.volume, prepare(a, [], bundle.classes)) for a in annotated]


def with_tumours(case: Case, donors: Sequence[Case], count: int, touch: bool, seed: int) -> Case:
    """Paste one after the other until the case has ``count`` tumours, or no more find room."""
    rng = np.random.default_rng([seed, count, touch])
    for _ in range(ATTEMPTS):
        if len(case.labels) > count:
            break
        pasted = paste_things(case, donors, rng, most=1, scale=SCALE, gap=(0, 0) if touch else (GAP, GAP))
        if not touch or len(case.labels) in touching(pasted.instances):
            case = pasted
    return case


def volumes(cases: Sequence[tuple[Volume, Case]], count: int, touch: bool) -> Iterator[tuple[Volume, Case]]:
    for number, (volume, case) in enumerate(cases):
        others = [c for _, c in cases if c is not case]
        pasted = with_tumours(case, others, count, touch, number)
        yield replace(volume, array=pasted.image), pasted


def truth(case: Case, bundle: Bundle) -> Truth:
    """Tumours over stuff, one segment per stuff class; unknown tissue is void."""
    ids, segments = truth_map(case, [c.is_thing for c in bundle.classes])
    names = {i: bundle.classes.classes[number - 1].name for i, number in segments.items()}
    things = frozenset(c.name for c in bundle.classes if c.is_thing)
    return Truth(ids, names, things, frozenset(names.values()) - things)


def touching(instances: NDArray[np.int32]) -> set[int]:
    """Ids of things with a voxel face, edge or corner in common with another."""
    found: set[int] = set()
    for i, box in enumerate(ndimage.find_objects(instances), 1):
        if box is not None:
            wide = tuple(slice(max(0, b.start - 1), b.stop + 1) for b in box)
            near = ndimage.binary_dilation(instances[wide] == i, np.ones((3, 3, 3)))
            if (set(np.unique(instances[wide][near]).tolist()) - {0, i}) != set():
                found.add(i)
    return found


def score(segmenter: Segmenter, volume: Volume, case: Case) -> Scored:
    result = segmenter(volume)
    true, pred = truth(case, segmenter.bundle), truth_of(result)
    scored = score_case(case.id, pred, true, {s.id: s.score for s in result.segments})
    pairs = overlap(pred.ids, true.ids)
    code = {name: k for k, name in enumerate(sorted(true.things | true.stuff | pred.things | pred.stuff))}
    chosen, _ = assign(pairs, *({i: code[n] for i, n in t.segments.items()} for t in (pred, true)))
    close = touching(case.instances)
    return Scored(scored, len(close), len(close & set(pairs.true[chosen].tolist())))


def row(name: str, found: Sequence[Scored]) -> dict[str, str | int]:
    table = class_table([s.score for s in found]).set_index("class")
    tumour = table.loc["tumour"]
    close, close_found = sum(s.touching for s in found), sum(s.touching_found for s in found)

    def figure(name: str) -> str:
        return f"{tumour[name]:.3f} [{tumour[f'{name}_low']:.3f}, {tumour[f'{name}_high']:.3f}]"

    return {
        "tumours": name,
        "n": int(tumour["n"]),
        "PQ": figure("pq"),
        "sensitivity": figure("sensitivity"),
        "false per volume": figure("fp_per_case"),
        "touching found": f"{close_found} of {close}",
        "Dice": figure("dice"),
        "stuff PQ": f"{table.loc['mean of stuff', 'pq']:.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", help="one model, by its folder's name")
    parser.add_argument("--model", type=Path, help="a bundle folder to score in place of that model")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 3, 4, 6, 8])
    parser.add_argument("--plot", type=Path, help="draw the reliability diagram of the last model here")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    for model in MODELS:
        if args.only not in (None, Path(model).name):
            continue
        if not (args.model or load_bundle(model, weights=False).weights_path.is_file()):
            print(
                f"\n== {Path(model).name}: train it first (its weights are not in the repository), then --model FOLDER"
            )
            continue
        segmenter = Segmenter.load(args.model or model, "cpu")
        cases = native_cases(segmenter.bundle, args.data / "radiology" / "sts")
        rows, apart = [], []
        for count in args.counts:
            found = [score(segmenter, *v) for v in volumes(cases, count, touch=False)]
            rows.append(row(f"up to {count}", found))
            apart += found
        rows.append(row("all of these", apart))
        rows += [row(f"{n}, touching", [score(segmenter, *v) for v in volumes(cases, n, touch=True)]) for n in (2, 3)]
        print(f"\n== {Path(model).name}   {len(cases)} volumes a row, IoU > 0.5 for PQ, > 0.1 for sensitivity")
        print(pd.DataFrame(rows).to_string(index=False), flush=True)
        scores = score_calibration(instance_table([s.score for s in apart]))
        print(f"scores of the {scores.n.sum()} tumours drawn apart: expected calibration error {scores.ece:.3f}")
        print(reliability_table(scores))
        if args.plot:
            plots.save(plots.reliability(scores), args.plot)


if __name__ == "__main__":
    main()
