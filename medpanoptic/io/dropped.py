"""The masks of the candidates that fusion dropped, in one small file beside segments.json."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from medpanoptic.errors import ReadError
from medpanoptic.io.limits import MAX_DECODED_BYTES
from medpanoptic.result import Dropped

NAME = "dropped.bin"


def write_masks(dropped: Sequence[Dropped], folder: Path) -> list[Path]:
    """Write dropped.bin, if there are candidates and every mask is known.

    zlib of one bit per pixel: the masks in the order of ``dropped`` in segments.json, each in C order over its box,
    eight pixels a byte, the first in the highest bit, without a gap between masks.
    """
    masks = [d.mask for d in dropped if d.mask is not None]
    if not masks or len(masks) < len(dropped):
        return []
    path = folder / NAME
    path.write_bytes(zlib.compress(np.packbits(np.concatenate([m.ravel() for m in masks])).tobytes(), 6))
    return [path]


def read_masks(dropped: Sequence[Dropped], folder: Path) -> tuple[Dropped, ...]:
    """Return ``dropped`` with the masks of dropped.bin; as it is where the folder has no such file.

    Raises ReadError (RESULT-DAMAGED) if the file does not hold as many pixels as the boxes.
    """
    path = folder / NAME
    if not dropped or not path.is_file():
        return tuple(dropped)
    shapes = [tuple(stop - start for start, stop in d.box) for d in dropped]
    pixels = sum(prod(shape) for shape in shapes)
    damaged = ReadError("RESULT-DAMAGED", f"{path} does not fit segments.json beside it; write the result again")
    if pixels > 8 * MAX_DECODED_BYTES or any(n < 0 for shape in shapes for n in shape):
        raise damaged
    try:
        packed = zlib.decompressobj().decompress(path.read_bytes(), pixels // 8 + 2)
    except zlib.error as error:
        raise damaged from error
    if len(packed) != (pixels + 7) // 8:
        raise damaged
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=pixels).astype(bool)
    ends = np.cumsum([prod(shape) for shape in shapes])
    parts = np.split(bits, ends[:-1])
    return tuple(replace(d, mask=m.reshape(s)) for d, m, s in zip(dropped, parts, shapes, strict=True))
