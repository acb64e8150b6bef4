"""Compare the three fusions on the same predictions: ours in log-odds, the paper's, Kirillov's.

    python benchmarks/fusion_methods.py [--data ../shared/data] [--limit N]

Each validation image of ``nuclei`` goes through a network once; its stored prediction is fused by each method and
scored as ``evaluate`` scores any result. The other settings are the bundle's.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import torch
from validation import ARMS, ROOT, print_scores, val_ids

from medpanoptic import Segmenter, evaluate, read_volume, write_result
from medpanoptic.refusion import fuse_prediction

METHODS = ("log_odds", "efficientps", "kirillov")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--limit", type=int, help="first N images")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    data = args.data / "nuclei"
    for bundle in ("nuclei", ARMS / "nuclei_efficientps"):
        segmenter = Segmenter.load(bundle, "cpu")
        with tempfile.TemporaryDirectory() as scratch:
            for case in val_ids(data)[: args.limit]:
                volume = read_volume(data / "images" / f"{case}.png")
                stored = segmenter.predict(volume)
                for method in METHODS:
                    result = fuse_prediction(stored, volume.source, method=method)
                    write_result(result, Path(scratch) / method / case, formats=())
            for method in METHODS:
                print(f"\n== {Path(bundle).name}, fusion {method}")
                print_scores(evaluate(Path(scratch) / method, data))


if __name__ == "__main__":
    main()
