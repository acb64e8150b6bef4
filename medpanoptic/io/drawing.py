"""What pictures share: grey values for display, sizes, lettering."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

NOTE = "research use only"
GAP = 8
# display windows by unit: the soft-tissue window of CT, and the usual range of PET
_WINDOWS = {"HU": (-160.0, 240.0), "SUV": (0.0, 10.0)}
_INK = (220, 220, 220)

RGB = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def display_limits(image: NDArray, unit: str) -> tuple[float, float]:
    """Return the display window: fixed for HU and SUV, else the 0.5 to 99.5 percentiles."""
    if unit in _WINDOWS:
        return _WINDOWS[unit]
    # every nth value is enough for a display range
    values = image.ravel()[:: max(1, image.size // 1_000_000)]
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [0.5, 99.5]) if len(values) else (0.0, 1.0)
    return float(low), float(high)


def to_gray(plane: NDArray, limits: tuple[float, float], unit: str) -> NDArray[np.uint8]:
    """Return values as 0 (the lower limit) to 255; PET in SUV dark on white."""
    low, high = limits
    gray = np.clip((np.nan_to_num(plane.astype(np.float32)) - low) / max(high - low, 1e-6), 0, 1) * 255
    # PET is read dark on white
    return np.rint(255 - gray if unit == "SUV" else gray).astype(np.uint8)


def resize(gray: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return (rows, columns) gray values at another size, bilinear."""
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(gray)).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    )


def font(size: int = 13) -> Font:
    """Return the lettering that comes with Pillow, the same on every machine."""
    return ImageFont.load_default(size)


def side_by_side(panels: list[RGB]) -> RGB:
    """Return panels in a row, centred, with gaps."""
    height = max(p.shape[0] for p in panels)
    width = sum(p.shape[1] for p in panels) + GAP * (len(panels) - 1)
    canvas = np.full((height, width, 3), 40, np.uint8)
    left = 0
    for panel in panels:
        top = (height - panel.shape[0]) // 2
        canvas[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
        left += panel.shape[1] + GAP
    return canvas


def text_table(rows: Sequence[Sequence[str]], width: int, size: int = 15) -> RGB:
    """Return rows of text on black, (H, width, 3), in columns; what does not fit its column is cut with an ellipsis.

    A row of one text has the whole width for it; the columns are as wide as their longest text, if there is room.
    """
    letters, height = font(size), size + 7
    columns = [row for row in rows if len(row) > 1]
    wanted = [max(int(letters.getlength(text)) for text in texts) + 2 * GAP for texts in zip(*columns, strict=True)]
    if sum(wanted) > width:
        wanted = [width // len(wanted)] * len(wanted)
    strip = Image.new("RGB", (width, height * len(rows) + 8))
    draw = ImageDraw.Draw(strip)
    for number, row in enumerate(rows):
        left = 0
        for text, room in zip(row, wanted if len(row) > 1 else [width], strict=True):
            draw.text((left + GAP, 4 + height * number), fitted(text, room - 2 * GAP, letters), _INK, letters)
            left += room
    return np.asarray(strip)


def fitted(line: str, width: int, letters: Font) -> str:
    """Return a line cut so that it is at most ``width`` pixels long."""
    if letters.getlength(line) <= width:
        return line
    while line and letters.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"
