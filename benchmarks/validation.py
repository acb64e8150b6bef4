"""Print the validation figures of the shipped models and of the arms beside them.

    python benchmarks/validation.py [--data ../shared/data] [--only nuclei] [--limit N] [-o FOLDER]

Every validation case goes through ``Segmenter``, the files and the tables of ``evaluate``, as a user's would, also by
kind of image where there are several. For ``sarcoma_petct`` also: the crop moved so that the tumour lies a quarter of
the field off-centre, CT alone, no MR, and crops without a tumour. Nothing here reads a test part.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from medpanoptic import Segmenter, Volume, read_study, read_volume, write_result
from medpanoptic.bundle import load_bundle
from medpanoptic.metrics.pairs import find_pairs
from medpanoptic.metrics.tables import class_table

ROOT = Path(__file__).resolve().parent.parent
ARMS = ROOT / "benchmarks" / "bundles"
# bundle folder or name, data folder
MODELS = {
    "nuclei": "nuclei",
    ARMS / "nuclei_efficientps": "nuclei",
    ARMS / "nuclei_fcn_mask_rcnn": "nuclei",
    ARMS / "nuclei_centres": "nuclei",
    ARMS / "nuclei_one_way_fpn": "nuclei",
    ARMS / "nuclei_plain_semantic_head": "nuclei",
    "nuclei_he": "consep",
    ARMS / "nuclei_he_efficientps": "consep",
    ARMS / "nuclei_he_fcn_mask_rcnn": "consep",
    "sarcoma_petct": "radiology/sts",
    ARMS / "sarcoma_efficientps": "radiology/sts",
    ARMS / "sarcoma_fcn_mask_rcnn": "radiology/sts",
}
CHANNELS = ("ct", "pet", "mr")


def val_kinds(data: Path) -> dict[str, str]:
    """{id: kind of image} of the validation part, by id; the kind is "" where the index names none."""
    index = data / "index.csv" if (data / "index.csv").is_file() else data.parent / "index.csv"
    with open(index, newline="", encoding="utf-8") as f:
        rows = [r for r in csv.DictReader(f) if r["split"] == "val" and r.get("folder", data.name) == data.name]
    return {r["id"]: r.get("kind", "") for r in sorted(rows, key=lambda r: r["id"])}


def val_ids(data: Path) -> list[str]:
    return list(val_kinds(data))


def case_input(data: Path, case: str) -> Path | Mapping[str, Path]:
    image = data / "images" / f"{case}.png"
    return image if image.is_file() else {c: data / f"{case}_{c}.nii.gz" for c in CHANNELS}


def print_table(segmenter: Segmenter, data: Path, cases: list[str], output: Path) -> None:
    started, pixels = time.perf_counter(), 0
    for case in cases:
        result = segmenter(case_input(data, case))
        pixels += result.ids.size
        write_result(result, output / case, formats=())
    seconds = time.perf_counter() - started
    print(f"\n{len(cases)} validation cases, {pixels / seconds / 1e6:.2f} Mpx (Mvoxel) a second, files included")
    scores = [pair.score() for pair in find_pairs(output, data).found]
    print_scores(class_table(scores))
    kinds = val_kinds(data)
    for kind in sorted({kinds[c] for c in cases}) if len({kinds[c] for c in cases}) > 1 else ():
        print(f"\n{kind}")
        print_scores(class_table([s for s in scores if kinds[s.name] == kind]))


def print_scores(table: pd.DataFrame) -> None:
    """The columns of a model card: counts, and each figure with its 95 % interval over cases."""
    rows = table[["class", "kind", "cases", "n", "tp", "fp", "fn"]].copy()
    for name in ("pq", "pq_case_mean", "sq", "rq", "ap50", "ap", "dice"):
        parts = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
        rows[name] = ["" if np.isnan(v) else f"{v:.3f} [{a:.3f}, {b:.3f}]" for v, a, b in parts]
    print(rows.to_string(index=False), flush=True)


def tumour_dice(result_ids: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    total = int(result_ids.sum() + truth.sum())
    return 2 * int((result_ids & truth).sum()) / total if total else 1.0


def tumours(segmenter: Segmenter, volume: Volume) -> NDArray[np.bool_]:
    result = segmenter(volume)
    return np.isin(result.ids, [s.id for s in result.things])


def crop(volume: Volume, low: NDArray[np.int_], high: NDArray[np.int_]) -> Volume:
    where = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    affine = volume.affine.copy()
    affine[:3, 3] += volume.affine[:3, :3] @ low
    return replace(volume, array=volume.array[(slice(None), *where)], affine=affine)


def off_centre(truth: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int_], NDArray[np.int_]]]:
    """Crops along rows and columns, each way, that put the tumour's centre at a quarter of the field's edge length."""
    centre = np.argwhere(truth).mean(0)
    for axis in (1, 2):
        size = truth.shape[axis]
        for low_side in (True, False):
            low, high = np.zeros(3, int), np.array(truth.shape)
            c = centre[axis] if low_side else size - 1 - centre[axis]
            cut = max(0, round((c - 0.25 * size) / 0.75))
            low[axis], high[axis] = (cut, size) if low_side else (0, size - cut)
            yield low, high


def moved(
    volume: Volume, truth: NDArray[np.bool_], axis: int, by: int, air: tuple[float, ...]
) -> tuple[Volume, NDArray]:
    """Slide the field over a volume: what leaves is lost, what enters is air."""
    array = np.empty_like(volume.array)
    array[:] = np.array(air, array.dtype).reshape(-1, 1, 1, 1)
    shifted = np.zeros_like(truth)
    source, target = [slice(None)] * 3, [slice(None)] * 3
    source[axis] = slice(max(0, by), truth.shape[axis] + min(0, by))
    target[axis] = slice(max(0, -by), truth.shape[axis] - max(0, by))
    array[(slice(None), *target)] = volume.array[(slice(None), *source)]
    shifted[tuple(target)] = truth[tuple(source)]
    return replace(volume, array=array), shifted


def beside(truth: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int_], NDArray[np.int_]]]:
    """The slabs of the volume that hold no tumour, at least 12 voxels thick."""
    pixels = np.argwhere(truth)
    for axis in range(3):
        low, high = np.zeros(3, int), np.array(truth.shape)
        before, after = high.copy(), low.copy()
        before[axis], after[axis] = pixels[:, axis].min(), pixels[:, axis].max() + 1
        yield from ((a, b) for a, b in ((low, before), (after, high)) if b[axis] - a[axis] >= 12)


def ellipsoid(shape: tuple[int, ...], part: float = 0.4) -> NDArray[np.bool_]:
    """A rule that looks at nothing: the central ellipsoid with ``part`` of the field's width in every direction."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)
    return sum(a**2 for a in axes) <= part**2


def print_robustness(segmenter: Segmenter, data: Path, cases: list[str]) -> None:
    """Tumour Dice as given, moved, and with fewer channels; false tumours per crop without one."""
    names = ("rule: central ellipsoid", "rule: SUV > 2.5", "as given", "no MR", "CT alone")
    # the bundle refuses a study without PET; here it is told to take one, to show why
    channels = tuple(replace(c, required=c.name == "ct") for c in segmenter.bundle.channels)
    ct_alone = Segmenter(replace(segmenter.bundle, channels=channels), segmenter.network, "cpu")
    moves = ("tumour off-centre, cropped", "field moved, air enters")
    dice: dict[str, list[float]] = {name: [] for name in (*names, *moves)}
    false_tumours: list[int] = []
    for case in cases:
        volume = read_study(case_input(data, case), segmenter.bundle.channels)
        truth = read_volume(data / f"{case}_inst.nii.gz").array[0] > 0
        dice["rule: central ellipsoid"].append(tumour_dice(ellipsoid(truth.shape), truth))
        dice["rule: SUV > 2.5"].append(tumour_dice(volume.array[1] > 2.5, truth))
        dice["as given"].append(tumour_dice(tumours(segmenter, volume), truth))
        no_mr = {c: p for c, p in dict(case_input(data, case)).items() if c != "mr"}  # type: ignore[call-overload]
        dice["no MR"].append(tumour_dice(tumours(segmenter, read_study(no_mr, segmenter.bundle.channels)), truth))
        only_ct = read_study({"ct": data / f"{case}_ct.nii.gz"}, channels)
        dice["CT alone"].append(tumour_dice(tumours(ct_alone, only_ct), truth))
        for low, high in off_centre(truth):
            where = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            dice["tumour off-centre, cropped"].append(
                tumour_dice(tumours(segmenter, crop(volume, low, high)), truth[where])
            )
        for axis in (1, 2):
            for sign in (1, -1):
                shifted, where_truth = moved(volume, truth, axis, sign * truth.shape[axis] // 4, (-1000, 0, 0))
                dice["field moved, air enters"].append(tumour_dice(tumours(segmenter, shifted), where_truth))
        for low, high in beside(truth):
            found = segmenter(crop(volume, low, high))
            false_tumours.append(len(found.things))
    print("\ntumour Dice, mean over cases (and, moved, over four directions)")
    for name, values in dice.items():
        print(f"  {name:28s} {np.mean(values):.3f}   n = {len(values)}, lowest {np.min(values):.3f}")
    print(f"  false tumours per tumour-free crop {np.mean(false_tumours):.2f}   n = {len(false_tumours)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", help="one model, by its folder's name")
    parser.add_argument("--model", type=Path, help="a bundle folder to score in place of that model")
    parser.add_argument("--limit", type=int, help="first N cases")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="keep the result folders here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    for model, data in MODELS.items():
        name = Path(model).name
        if args.only not in (None, name):
            continue
        if not (args.model or load_bundle(model, weights=False).weights_path.is_file()):
            print(f"\n== {name}: train it first (its weights are not in the repository), then --model FOLDER")
            continue
        segmenter = Segmenter.load(args.model or model, "cpu")
        parameters = sum(p.numel() for p in segmenter.network.parameters())
        print(
            f"\n== {name}   {parameters / 1e6:.2f} M parameters, weights {segmenter.bundle.weights_sha256[:12]}",
            flush=True,
        )
        folder = args.data / data
        cases = val_ids(folder)[: args.limit]
        with tempfile.TemporaryDirectory() as scratch:
            print_table(segmenter, folder, cases, (args.output or Path(scratch)) / name)
        if data == "radiology/sts":
            print_robustness(segmenter, folder, cases)


if __name__ == "__main__":
    main()
