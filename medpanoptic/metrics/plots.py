"""The pictures of the evaluation page, by matplotlib without a screen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from medpanoptic.geometry import voxel_spacing
from medpanoptic.metrics.calibration import Calibration
from medpanoptic.metrics.comparison import CaseScore
from medpanoptic.metrics.detection import froc
from medpanoptic.metrics.truth import Truth
from medpanoptic.result import PanopticResult

if TYPE_CHECKING:
    from pandas import DataFrame

_THING, _STUFF = "#e08214", "#9a9a9a"
_BOTH, _FALSE, _MISSED = (0.35, 0.75, 0.35), (0.85, 0.2, 0.2), (0.2, 0.4, 0.9)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG whole or not at all; the same figure gives the same bytes."""
    part = path.with_name(f".{path.name}.part")
    FigureCanvasAgg(figure).print_png(part, metadata={"Software": None})
    os.replace(part, path)


def classes(table: DataFrame) -> Figure:
    """PQ of each class with its interval, things above stuff."""
    rows = table.iloc[::-1]
    figure = Figure(figsize=(8, 1 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    colors = [_THING if kind == "thing" else _STUFF for kind in rows["kind"]]
    axes.barh(range(len(rows)), rows["pq"].fillna(0), color=colors, height=0.7)
    for place, (value, low, high) in enumerate(zip(rows["pq"], rows["pq_low"], rows["pq_high"], strict=True)):
        if np.isfinite(value):
            axes.plot([low, high], [place, place], color="black", linewidth=1.2)
            axes.text(1.01, place, f"{value:.3f}", va="center")
        else:
            axes.text(0.01, place, "not in these cases", va="center", color="#777777")
    axes.set_yticks(range(len(rows)), [f"{name} (n = {n})" for name, n in zip(rows["class"], rows["n"], strict=True)])
    _style(axes, "panoptic quality, pooled", "")
    axes.set_xlim(0, 1)
    return figure


def sizes(table: DataFrame) -> Figure:
    """PQ of each size bin, one line per class."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, group in table.groupby("class", sort=True):
        places = np.arange(len(group))
        axes.plot(places, group["pq"], marker="o", label=name)
        for place, row in zip(places, group.itertuples(), strict=True):
            size = f"from {row.low:.3g}" if np.isinf(row.high) else f"{row.low:.3g}–{row.high:.3g}"
            if np.isfinite(row.pq):
                axes.annotate(
                    f"{size} {row.unit}\nn = {row.n}",
                    (place, row.pq),
                    xytext=(0, 6),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                )
    axes.set_xticks(range(4), ["smallest quarter", "second", "third", "largest quarter"])
    _style(axes, "size of the thing", "panoptic quality")
    axes.set_ylim(0, 1.1)
    if len(table):
        axes.legend(frameon=False, fontsize=8)
    return figure


def reliability(found: Calibration) -> Figure:
    """Part of the things that are right against their score, with the number of things in each bin."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    filled = found.n > 0
    axes.plot(found.score[filled], found.right[filled], marker="o", color=_THING)
    for x, y, n in zip(found.score[filled], found.right[filled], found.n[filled], strict=True):
        axes.annotate(f"n = {n}", (x, y), xytext=(4, -10), textcoords="offset points", fontsize=8)
    _style(axes, "score", "part that is right (IoU > 0.5, same class)")
    axes.set_xlim(0, 1.05)
    axes.set_ylim(0, 1.05)
    return figure


def free_response(cases: Sequence[CaseScore]) -> Figure:
    """Sensitivity against false alarms per case, one line per class of things."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in sorted({name for case in cases for name, kind in case.classes if kind == "thing"}):
        scores = [case.classes[name, "thing"] for case in cases if (name, "thing") in case.classes]
        _, alarms, found = froc([s.detected for s in scores if s.detected is not None])
        if np.isfinite(found).any():
            axes.step([0, *alarms], [0, *found], where="post", marker=".", label=name)
    _style(axes, "false alarms per case", "sensitivity")
    axes.set_ylim(0, 1.05)
    axes.legend(frameon=False)
    return figure


def case(result: PanopticResult, truth: Truth, overlay: Path) -> Figure:
    """One case: its overlay if there is one, true things, predicted things, and where they differ.

    A volume is shown by the slice with the most voxels that are wrong.
    """
    masks = [
        np.isin(result.ids, [s.id for s in result.things]),
        np.isin(truth.ids, [i for i, name in truth.segments.items() if name in truth.things]),
    ]
    ids = [np.where(mask, m, 0) for mask, m in zip(masks, (result.ids, truth.ids), strict=True)]
    aspect = 1.0
    if result.ndim == 3:
        index = int((masks[0] ^ masks[1]).sum((1, 2)).argmax())
        ids, masks = [m[index] for m in ids], [m[index] for m in masks]
        spacing = voxel_spacing(result.affine, 3)
        aspect = spacing[1] / spacing[2]
    panels = [("true things", _shades(ids[1])), ("predicted things", _shades(ids[0])), ("difference", _differ(*masks))]
    if overlay.is_file():
        with Image.open(overlay) as image:
            panels.insert(0, ("overlay of the result", np.asarray(image.convert("RGB"))))
    figure = Figure(figsize=(4 * len(panels), 4), layout="constrained")
    for axes, (title, picture) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.imshow(picture, interpolation="nearest", aspect=1.0 if title.startswith("overlay") else aspect)
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    return figure


def _shades(ids: NDArray[np.integer]) -> NDArray[np.float64]:
    """Give neighbouring ids colours that can be told apart; black is no thing."""
    turn = (ids * 0.618033988749895) % 1.0
    rgb = np.stack([0.55 + 0.4 * np.cos(2 * np.pi * (turn + shift)) for shift in (0, 1 / 3, 2 / 3)], -1)
    rgb[ids == 0] = 0
    return rgb


def _differ(pred: NDArray[np.bool_], true: NDArray[np.bool_]) -> NDArray[np.float64]:
    rgb = np.zeros((*pred.shape, 3))
    rgb[pred & true], rgb[pred & ~true], rgb[~pred & true] = _BOTH, _FALSE, _MISSED
    return rgb


def _style(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
