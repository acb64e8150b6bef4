"""Time our fusion against one full-size map per instance, on a crowd of nuclei; prints both and their ratio.

Run: python benchmarks/fusion.py [--instances 900] [--size 1000] [--threads 2]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medpanoptic.fusion import fuse
from medpanoptic.networks.outputs import Instances, Prediction

RADIUS = 13


def crowd(count: int, size: int) -> Prediction:
    """Make ``count`` discs at random places on a (2, size, size) background-nucleus map, with masks and scores."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(-RADIUS, RADIUS)
    disc = (RADIUS - 3 - torch.hypot(axis[:, None].float(), axis[None].float())) * 2
    corners = torch.randint(0, size - 2 * RADIUS, (count, 2), generator=generator)
    nucleus = torch.full((size, size), -4.0)
    for row, column in corners.tolist():
        crop = nucleus[row : row + 2 * RADIUS, column : column + 2 * RADIUS]
        torch.maximum(crop, disc.clamp(-4, 4), out=crop)
    scores = torch.rand(count, generator=generator) / 2 + 0.5
    instances = Instances(
        torch.cat((corners, corners + 2 * RADIUS), 1), torch.ones(count, dtype=torch.int64), scores, (disc,) * count
    )
    return Prediction(torch.stack((-nucleus, nucleus)), instances)


def full_size_fuse(prediction: Prediction) -> Tensor:
    """Fuse with every mask pasted at full size, as the paper writes it (log-odds form); returns the owner per pixel."""
    logits, instances = prediction.semantic_logits, prediction.instances
    odds = logits[1] - logits[0]
    occupied = torch.zeros_like(odds, dtype=torch.bool)
    maps = []
    for i in instances.scores.argsort(descending=True).tolist():
        top, left, bottom, right = instances.boxes[i].tolist()
        pasted = torch.full_like(odds, -torch.inf)
        pasted[top:bottom, left:right] = instances.mask_logits[i]
        mask = pasted > 0
        if (mask & occupied).sum() / mask.sum() > 0.5:
            continue
        occupied |= mask
        maps.append((pasted.sigmoid() + odds.sigmoid()) * (pasted + odds))
    maps.append(4 * (-odds).sigmoid() * -odds)
    return torch.stack(maps).argmax(0)


def best_of(runs: int, call: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and the shortest time in seconds."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return result, min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=900)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    prediction = crowd(args.instances, args.size)
    fused, ours = best_of(3, lambda: fuse(prediction, [False, True]))
    owner, theirs = best_of(1, lambda: full_size_fuse(prediction))
    kept = int(owner.max())
    things = torch.where(owner < kept, owner + 1, 0)
    same = torch.equal(things, torch.where(fused.ids <= kept, fused.ids, 0).long())
    print(f"{args.instances} instances on {args.size}^2: ours {ours:.3f} s, full-size maps {theirs:.3f} s")
    print(f"ratio {theirs / ours:.0f}, same map: {same}")


if __name__ == "__main__":
    main()
