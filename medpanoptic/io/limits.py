"""Size caps, checked from headers before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from medpanoptic.errors import ReadError

MAX_DECODED_BYTES = 8 * 2**30
MAX_VOXELS = 2**31
# Images pack 2 to 30 : 1, deflate packs nothing better than 1000 : 1. Small files may unpack to this much all the same.
MAX_RATIO, FREE_BYTES = 200, 64 * 2**20
_BOMB_RATIO, _BOMB_BYTES = 500, 512 * 2**20


def max_unpacked(packed: int) -> int:
    """Return how many bytes a file of ``packed`` bytes may unpack to."""
    return min(MAX_DECODED_BYTES, max(FREE_BYTES, MAX_RATIO * packed))


def check_size(shape: Iterable[int], itemsize: int, name: str, packed: int | None = None) -> None:
    """Refuse an array that would be too large.

    shape, itemsize : of the decoded array; name : of the file or series, for the message. packed : bytes on disk of
    an image: one that is over 512 MiB and packed 500 : 1 is a bomb (a label map may well be packed like that).
    Raises ReadError (READ-TOO-LARGE): over 8 GiB or 2**31 voxels, or a bomb; (SHAPE): an axis without length.
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
    if packed is not None and prod(sizes) * itemsize > max(_BOMB_BYTES, _BOMB_RATIO * packed):
        raise ReadError(
            "READ-TOO-LARGE",
            f"{name}: the header claims size {sizes}, more than {_BOMB_RATIO} times the {packed} bytes that are there; "
            "no image packs that well, the file is truncated or a bomb",
        )
