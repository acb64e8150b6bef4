"""Time RoIAlign against grid_sample and NMS against MONAI's; prints milliseconds, ratios and agreement.

Run: python benchmarks/ops.py [--threads 2] [--repeat 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from monai.data.box_utils import non_max_suppression
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d, grid_sample

from medpanoptic.networks.boxes import nms
from medpanoptic.networks.roi_align import roi_align

SAMPLING = 2
# name, channels, map, boxes, box lengths, cells per axis
ROI_CASES = (
    ("3D masks", 256, (48, 48, 48), 100, (8, 18), 14),
    ("2D nuclei, boxes", 64, (128, 128), 200, (4, 18), 7),
    ("2D nuclei, masks", 64, (128, 128), 64, (4, 18), 14),
)
NMS_CASES = ((2, 1000), (2, 3000), (3, 2000), (3, 10000))


def random_boxes(number: int, shape: tuple[int, ...], lengths: tuple[int, int]) -> Tensor:
    length = lengths[0] + torch.rand(number, len(shape)) * (lengths[1] - lengths[0])
    start = torch.rand(number, len(shape)) * (torch.tensor(shape) - length)
    return torch.cat([start, start + length], 1)


def by_grid_sample(features: Tensor, boxes: Tensor, size: int) -> Tensor:
    """RoIAlign by one grid_sample per box: all boxes at once would take gigabytes."""
    shape = torch.tensor(features.shape[1:])
    dims = len(shape)
    pool = avg_pool2d if dims == 2 else avg_pool3d
    steps = (torch.arange(size * SAMPLING) + 0.5) / (size * SAMPLING)
    out = []
    for box in boxes:
        axes = [(box[a] + steps * (box[dims + a] - box[a])) / shape[a] * 2 - 1 for a in range(dims)]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)[None]
        out.append(pool(grid_sample(features[None], grid, padding_mode="border", align_corners=False), SAMPLING)[0])
    return torch.stack(out)


def milliseconds(call: Callable[[], object], repeat: int) -> float:
    """Return the best of ``repeat`` runs after one to warm up."""
    call()
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best * 1000


def compare_roi_align(repeat: int) -> None:
    for name, channels, shape, number, lengths, size in ROI_CASES:
        features = torch.randn(channels, *shape, requires_grad=True)
        boxes = random_boxes(number, shape, lengths)
        with torch.no_grad():
            error = float((roi_align(features, boxes, size) - by_grid_sample(features, boxes, size)).abs().max())
            ours = milliseconds(lambda f=features, b=boxes, s=size: roi_align(f, b, s), repeat)
            theirs = milliseconds(lambda f=features, b=boxes, s=size: by_grid_sample(f, b, s), 1)
        both = milliseconds(lambda f=features, b=boxes, s=size: roi_align(f, b, s).sum().backward(), repeat)
        print(
            f"roi_align, {name}: {number} boxes, {channels} channels, {size}^{len(shape)}: ours {ours:.0f} ms "
            f"(with backward {both:.0f} ms), grid_sample {theirs:.0f} ms, ratio {theirs / ours:.1f}, error {error:.0e}"
        )


def compare_nms(repeat: int) -> None:
    for dims, number in NMS_CASES:
        boxes, scores = random_boxes(number, (200,) * dims, (10, 40)), torch.rand(number)
        ours = milliseconds(lambda b=boxes, s=scores: nms(b, s, 0.3), repeat)
        theirs = milliseconds(lambda b=boxes, s=scores: non_max_suppression(b, s, 0.3), 1)
        kept = nms(boxes, scores, 0.3)
        same = torch.equal(kept, non_max_suppression(boxes, scores, 0.3))
        print(
            f"nms, {number} boxes in {dims}D, {len(kept)} kept: ours {ours:.0f} ms, MONAI {theirs:.0f} ms, "
            f"ratio {theirs / ours:.1f}, same boxes: {same}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    compare_roi_align(args.repeat)
    compare_nms(args.repeat)


if __name__ == "__main__":
    main()
