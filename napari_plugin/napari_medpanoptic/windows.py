"""Window and level: the presets of a channel, windows stored in DICOM, and dragging. Pure functions, no napari.

A window is (low, high) in the unit of the values. Level and width of the presets: Radiopaedia, "Windowing (CT)"; SUV
0-5 and 0-10 are the usual displays of FDG-PET.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpanoptic.volume import Channel

Window = tuple[float, float]
_SAMPLE = 1_000_000  # voxels looked at for percentiles
_MOST = 9  # there are nine keys
# values below any soft tissue: an image of unknown unit that holds them is very likely a CT
_LIKELY_HU = -200.0
# a drag over this many pixels doubles the width or moves the level by a whole width
_DRAG_PIXELS = 300


@dataclass(frozen=True)
class Preset:
    """A named window. ``percent``: low and high are percentiles of the image, not values."""

    name: str
    low: float
    high: float
    percent: bool = False

    def window(self, data: NDArray) -> Window:
        """Return (low, high) for an image."""
        return percentile_window(data, self.low, self.high) if self.percent else (self.low, self.high)


def level_width(name: str, level: float, width: float) -> Preset:
    """Make a preset from level and width."""
    return Preset(name, level - width / 2, level + width / 2)


CT_PRESETS = (
    level_width("Soft tissue", 40, 400),
    level_width("Lung", -600, 1500),
    level_width("Bone", 400, 1800),
    level_width("Brain", 40, 80),
    level_width("Liver", 30, 150),
    level_width("Mediastinum", 50, 350),
)
SUV_PRESETS = (Preset("SUV 0-5", 0, 5), Preset("SUV 0-10", 0, 10), Preset("SUV 0-20", 0, 20))
PERCENT_PRESETS = (
    Preset("1-99.5 %", 1, 99.5, percent=True),
    Preset("5-95 %", 5, 95, percent=True),
    Preset("Full range", 0, 100, percent=True),
)


def presets(channel: Channel | None, data: NDArray, stored: Sequence[Preset] = ()) -> tuple[Preset, ...]:
    """Return up to nine presets of an image, those stored in its DICOM files first.

    channel : None for an image that we did not read. data : its values; only a sample of them is looked at.
    """
    unit = channel.unit if channel is not None else ""
    named: tuple[Preset, ...]
    if unit == "SUV":
        named = SUV_PRESETS
    elif unit == "HU":
        named = (*CT_PRESETS, PERCENT_PRESETS[-1])
    elif not unit and (channel is None or not channel.modality) and _sample(data).min(initial=0) < _LIKELY_HU:
        named = (*PERCENT_PRESETS[:1], *CT_PRESETS)
    else:
        named = PERCENT_PRESETS
    return (*stored[: _MOST - len(named)], *named)


def stored_windows(file: Path) -> dict[str, tuple[Preset, ...]]:
    """Return {modality: windows} that a DICOM image asks for; {} where it has none, or none that is linear.

    The names are "DICOM 1", "DICOM 2": the explanations in the file are free text and stay there.
    Source: DICOM PS3.3 C.11.2.1.2 (in an enhanced object C.7.6.16.2.10)
    """
    # pydicom comes with it
    from medpanoptic.io.dicom_files import header_if_dicom

    dataset = header_if_dicom(file)
    if dataset is None:
        return {}
    modality = str(dataset.get("Modality", ""))
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in list(dataset.get(keyword, ()))[:1]:
            for item in group.get("FrameVOILUTSequence", ()):
                dataset = item
    if dataset.get("VOILUTFunction", "LINEAR") not in ("LINEAR", "LINEAR_EXACT"):
        return {}
    pairs = zip(_numbers(dataset.get("WindowCenter")), _numbers(dataset.get("WindowWidth")), strict=False)
    found = [pair for pair in dict.fromkeys(pairs) if pair[1] > 0]
    return {modality: tuple(level_width(f"DICOM {i}", *pair) for i, pair in enumerate(found, 1))} if found else {}


def _numbers(value: Any) -> list[float]:
    if value is None or value == "":
        return []
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        return [float(v) for v in values]
    except (TypeError, ValueError):
        return []  # a garbled window is no window


def dragged(start: Window, right: float, down: float) -> Window:
    """Return the window after a drag from ``start``: to the right widens, downwards raises the level.

    right, down : pixels since the press. The width never vanishes.
    """
    width = start[1] - start[0]
    level = (start[0] + start[1]) / 2 + width * down / _DRAG_PIXELS
    width *= float(2 ** (right / _DRAG_PIXELS * 2))
    return level - width / 2, level + width / 2


def percentile_window(data: NDArray, low: float = 1.0, high: float = 99.5) -> Window:
    """Return a window: two percentiles of the finite non-zero values, always with a width."""
    values = _sample(data)
    values = values[np.isfinite(values) & (values != 0)]
    if values.size == 0:
        return (0.0, 1.0)
    first, last = (float(v) for v in np.percentile(values, (low, high)))
    return (first, last) if last > first else (first, first + 1.0)


def _sample(data: NDArray) -> NDArray[np.float64]:
    step = max(1, round((data.size / _SAMPLE) ** (1 / data.ndim)))
    return np.asarray(data[(slice(None, None, step),) * data.ndim], np.float64)
