"""Time and memory of whole runs, by stage, beside a named reference in the same run.

    python benchmarks/speed.py [--sizes 1024 2048 4096] [--volumes 128x128x128 512x512x300] [--threads 2]
        [--stardist PYTHON] [--cellpose PYTHON]

2D: mosaics of fluorescence images of the validation part (of the shipped sample where ../shared is absent) with
``nuclei``, against Otsu and a distance watershed by scikit-image. 3D: phantoms of a body with a tumour at 1.5 x 1 x 1
mm with ``sarcoma_petct`` (CT and PET), against MONAI's sliding window with a BasicUNet on the same grid and windows.
--stardist, --cellpose : the interpreter of an environment that has it (``pip install stardist tensorflow-cpu``;
``pip install 'cellpose<4'``). Their networks in their usual size run with fresh weights, normalization included, and
without what makes instances of their output: the least that they can take.
Every run has a process of its own: wall clock and CPU seconds without imports, and the peak memory of the process.
On a shared machine wall clocks swing; CPU seconds and the ratios of one run say more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
NUCLEI = ROOT.parent / "shared" / "data" / "nuclei"
SPACING = (1.5, 1.0, 1.0)


def mosaic(size: int) -> NDArray[np.uint8]:
    """Return (3, size, size): rows of images beside each other, cut at the rim."""
    from PIL import Image

    paths = [ROOT / "sample_data" / "nuclei_fluorescence.png"]
    if NUCLEI.is_dir():
        lines = (NUCLEI / "index.csv").read_text(encoding="utf-8").splitlines()
        rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
        chosen = [r["id"] for r in rows if r["split"] == "val" and r["kind"] == "fluorescence"]
        paths = [NUCLEI / "images" / f"{name}.png" for name in chosen]
    out = np.zeros((size, size, 3), np.uint8)
    top = number = 0
    while top < size:
        left = height = 0
        while left < size:
            with Image.open(paths[number % len(paths)]) as image:
                tile = np.asarray(image.convert("RGB"))
            number += 1
            height = height or len(tile)
            place = out[top : top + height, left : left + tile.shape[1]]
            part = tile[: place.shape[0], : place.shape[1]]
            place[: part.shape[0], : part.shape[1]] = part
            left += tile.shape[1]
        top += height
    return np.ascontiguousarray(out.transpose(2, 0, 1))


def phantom(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return (3, *shape) CT, PET and no MR: an elliptic body of soft tissue in air with one hot tumour."""
    axes = [
        np.linspace(-1, 1, n, dtype=np.float32).reshape([-1 if i == a else 1 for i in range(3)])
        for a, n in enumerate(shape)
    ]
    body = axes[1] ** 2 + axes[2] ** 2 < 0.6
    tumour = axes[0] ** 2 + (axes[1] - 0.2) ** 2 + (axes[2] + 0.2) ** 2 < 0.02
    array = np.zeros((3, *shape), np.float32)
    array[0] = np.where(body, 40, -1000)
    array[1] = np.where(tumour, 12, np.where(body, 0.8, 0))
    return array


# ---- one run, in a process of its own


def run_ours(size: list[int], threads: int) -> dict[str, Any]:
    import torch

    from medpanoptic.geometry import spatial_affine
    from medpanoptic.segmenter import Segmenter
    from medpanoptic.stages import Stages
    from medpanoptic.volume import Channel, Volume

    torch.set_num_threads(threads)
    if len(size) == 1:
        segmenter, volume = Segmenter.load("nuclei", "cpu"), Volume.from_array(mosaic(size[0]))
        warm = Volume.from_array(volume.array[:, :256, :256])
    else:
        segmenter = Segmenter.load("sarcoma_petct", "cpu")
        channels = (Channel("ct", "CT", "HU"), Channel("pet", "PT", "SUV"), Channel("mr", "MR", present=False))
        volume = Volume(phantom(tuple(size)), spatial_affine(SPACING), channels)
        warm = Volume(volume.array[:, :48, :48, :48], volume.affine, channels)
    segmenter(warm)
    stages = Stages()
    found = timed(lambda: segmenter(volume, stages=stages))
    return found | {"stages": stages.seconds, "cpu_stages": stages.cpu_seconds}


def run_watershed(size: list[int], threads: int) -> dict[str, Any]:
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu
    from skimage.segmentation import watershed

    def segment(image: NDArray[np.uint8]) -> NDArray[np.int32]:
        gray = gaussian(image.mean(0), 1)
        mask = gray > threshold_otsu(gray)
        distance = ndimage.distance_transform_edt(mask)
        peaks = peak_local_max(gaussian(distance, 1), min_distance=5, labels=ndimage.label(mask)[0])
        markers = np.zeros(mask.shape, np.int32)
        markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        return np.asarray(watershed(-distance, markers, mask=mask))

    image = mosaic(size[0])
    segment(image[:, :256, :256])
    return timed(lambda: segment(image))


def run_unet(size: list[int], threads: int) -> dict[str, Any]:
    """Run MONAI's usual way: Spacing, sliding window with a BasicUNet, argmax, back by Invert's nearest neighbour."""
    import torch
    from monai.inferers import SlidingWindowInferer
    from monai.networks.nets import BasicUNet

    torch.set_num_threads(threads)
    network = BasicUNet(3, 3, 5, features=(16, 16, 32, 64, 128, 16)).eval()
    infer = SlidingWindowInferer((64, 64, 64), overlap=0.25, mode="gaussian")
    array = phantom(tuple(size))

    def segment() -> Any:
        image = torch.from_numpy(array)[None]
        coarse = [max(1, round(n * s / t)) for n, s, t in zip(size, SPACING, (3.27, 4.0, 4.0), strict=True)]
        with torch.no_grad():
            small = torch.nn.functional.interpolate(image, size=coarse, mode="trilinear")
            labels = infer(small, network).argmax(1, keepdim=True).float()
            return torch.nn.functional.interpolate(labels, size=size, mode="nearest").to(torch.int32)

    return timed(segment)


def run_stardist(size: list[int], threads: int) -> dict[str, Any]:
    """Run StarDist 2D with 32 rays on a grid of 2: normalization and network, no non-maximum suppression."""
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    import tensorflow
    from csbdeep.utils import normalize
    from stardist.models import Config2D, StarDist2D

    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
    model = StarDist2D(Config2D(n_rays=32, grid=(2, 2), n_channel_in=3), name=None, basedir=None)
    image = np.ascontiguousarray(mosaic(size[0]).transpose(1, 2, 0))
    model.predict(normalize(image[:256, :256], 1, 99.8))
    return timed(lambda: model.predict(normalize(image, 1, 99.8)))


def run_cellpose(size: list[int], threads: int) -> dict[str, Any]:
    """Run Cellpose 3: normalization and network, no flow dynamics; cells of its own diameter, so no resizing."""
    import torch
    from cellpose.models import CellposeModel

    torch.set_num_threads(threads)
    model = CellposeModel(gpu=False, pretrained_model=False)
    image = mosaic(size[0]).transpose(1, 2, 0)
    settings = {"channels": [0, 0], "diameter": 30, "compute_masks": False}
    model.eval(image[:256, :256], **settings)
    return timed(lambda: model.eval(image, **settings))


def timed(call: Callable[[], Any]) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak_mib": peak_mib()}


def peak_mib() -> float:
    """Return the peak resident memory of this process (POSIX)."""
    import resource

    unit = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


RUNS = {
    "ours": run_ours,
    "watershed": run_watershed,
    "unet": run_unet,
    "stardist": run_stardist,
    "cellpose": run_cellpose,
}
TITLES = {
    "watershed": "Otsu + watershed",
    "unet": "MONAI BasicUNet",
    "stardist": "StarDist, network",
    "cellpose": "Cellpose, network",
}


def child(name: str, size: list[int], threads: int, python: str = sys.executable) -> dict[str, Any]:
    command = [python, "-W", "ignore", __file__, "--child", name, *map(str, size), "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def show(name: str, found: dict[str, Any], units: float, unit: str) -> None:
    print(
        f"  {name:24s} {found['wall']:7.2f} s wall  {found['cpu']:7.2f} s CPU  {found['wall'] / units:6.2f} s/{unit}  "
        f"{found['cpu'] / units:6.2f} CPU-s/{unit}  {units / found['wall']:6.2f} {unit}/s  "
        f"peak {found['peak_mib']:5.0f} MiB",
        flush=True,
    )
    if "stages" in found:
        total = sum(found["cpu_stages"].values())
        parts = (f"{k} {v:.2f} ({100 * v / total:.0f} %)" for k, v in found["cpu_stages"].items())
        print(f"    CPU seconds by stage: {', '.join(parts)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1024, 2048, 4096])
    parser.add_argument("--volumes", nargs="*", default=["128x128x128", "256x256x150", "512x512x300"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stardist", metavar="PYTHON")
    parser.add_argument("--cellpose", metavar="PYTHON")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        warnings.simplefilter("ignore")
        name, *size = args.child
        print(json.dumps(RUNS[name]([int(n) for n in size], args.threads)))
        return
    print(f"{args.threads} threads; load before: {' '.join(f'{v:.1f}' for v in os.getloadavg())}")
    others = {name: python for name in ("stardist", "cellpose") if (python := getattr(args, name))}
    planes, volumes = {"watershed": sys.executable, **others}, {"unet": sys.executable}
    for dims, cases, references, unit in ((2, args.sizes, planes, "Mpx"), (3, args.volumes, volumes, "Mvox")):
        before: dict[str, Any] | None = None
        for case in cases:
            # columns x rows x slices, as people say it; arrays are (slice, row, column)
            size = [case] if dims == 2 else [int(n) for n in str(case).split("x")][::-1]
            units = (size[0] ** 2 if dims == 2 else np.prod(size)) / 1e6
            print(f"{case}^2" if dims == 2 else case)
            ours = child("ours", size, args.threads)
            show("ours", ours, units, unit)
            for reference, python in references.items():
                theirs = child(reference, size, args.threads, python)
                show(TITLES[reference], theirs, units, unit)
                ratios = [ours[k] / theirs[k] for k in ("wall", "cpu", "peak_mib")]
                print("    ours / reference: {:.2f} wall, {:.2f} CPU, {:.2f} memory".format(*ratios))
            if before is not None:
                growth = [ours[k] / before[k] for k in ("wall", "cpu", "peak_mib")]
                print("    against the size before: {:.1f} wall, {:.1f} CPU, {:.1f} memory".format(*growth))
            before = ours


if __name__ == "__main__":
    main()
