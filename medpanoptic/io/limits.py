"""Size caps, checked from headers before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from medpanoptic.errors import ReadError

MAX_DECODED_BYTES = 8 * 2**30
MAX_VOXELS = 2**31


def check_size(shape: Iterable[int], itemsize: int, name: str) -> None:
    """Refuse an array that would be too large.

    shape, itemsize : of the decoded array; name : of the file or series, for the message.
    Raises ReadError (READ-TOO-LARGE): over 8 GiB or 2**31 voxels; (SHAPE): an axis without length.
    """
    sizes = [int(n) for n in shape]
    if min(sizes, default=0) < 1:
        raise ReadError("SHAPE", f"{name}: an axis has no length, the header says size {sizes}")
    if prod(sizes) > MAX_VOXELS or prod(sizes) * itemsize > MAX_DECODED_BYTES:
        raise ReadError(
            "READ-TOO-LARGE",
            f"{name}: the header claims size {sizes}, {prod(sizes) * itemsize / 2**30:.1f} GiB decoded; "
            f"the limit is {MAX_DECODED_BYTES / 2**30:.0f} GiB. Crop or split the image.",
        )
