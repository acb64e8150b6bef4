"""Stored pixel values of one DICOM file, decoded and checked, before rescale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

from medpanoptic.errors import ReadError
from medpanoptic.io.dicom_files import quiet_pydicom, read_dataset
from medpanoptic.io.dicom_header import Instance

# JPEG and JPEG-LS: their decoders fill what is cut off with made-up values; an intact stream ends with EOI
_ENDS_WITH_EOI = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81)}
_EOI = b"\xff\xd9"


def decode_frames(instance: Instance) -> NDArray:
    """Return the stored values of a file, (frame, row, column), before rescale.

    Raises ReadError: PIXELS-MISSING, PIXELS-UNREADABLE.
    """
    dataset = read_dataset(instance.path, instance.name)
    if not dataset.get("PixelData"):
        raise ReadError("PIXELS-MISSING", f"{instance.name}: pixel data is missing or truncated")
    _check_length(dataset, instance)
    kind = ""
    try:
        with quiet_pydicom():
            array = dataset.pixel_array
            whole = instance.syntax not in _ENDS_WITH_EOI or _streams_end(dataset, instance.frame_count)
    except Exception as error:  # codecs raise anything, and their texts may quote tag values
        kind = type(error).__name__
    if kind or not whole:
        raise ReadError(
            "PIXELS-UNREADABLE", f"{instance.name}: pixel data is truncated or damaged ({kind or 'no end'})"
        )
    shape = (instance.frame_count, instance.rows, instance.columns)
    if array.size != np.prod(shape):
        raise ReadError("PIXELS-UNREADABLE", f"{instance.name}: pixel data does not have the size that the header says")
    return array.reshape(shape)


def _check_length(dataset: Dataset, instance: Instance) -> None:
    """Refuse uncompressed pixel data with more frames than the header says: the rest would be dropped in silence."""
    if instance.syntax.is_encapsulated:
        return
    frame = instance.rows * instance.columns * instance.bits_allocated // 8
    if len(dataset.PixelData) >= frame * (instance.frame_count + 1):
        raise ReadError("PIXELS-UNREADABLE", f"{instance.name}: pixel data is longer than the header says")


def _streams_end(dataset: Dataset, count: int) -> bool:
    frames = generate_frames(dataset.PixelData, number_of_frames=count)
    return all(frame.rstrip(b"\0").endswith(_EOI) for frame in frames)


def padding_mask(stored: NDArray, instance: Instance) -> NDArray[np.bool_] | None:
    """Tell which stored values are padding; compared in all allocated bits, as signs are written both ways."""
    if instance.padding is None:
        return None
    kind = stored.dtype
    first, last = (np.array(v % 2 ** (8 * kind.itemsize), f"u{kind.itemsize}").view(kind) for v in instance.padding)
    mask = (stored >= min(first, last)) & (stored <= max(first, last))
    return mask if mask.any() else None


def used_bits(stored: NDArray, instance: Instance) -> NDArray:
    """Clear bits above BitsStored (old overlays live there), keeping the sign. Source: DICOM PS3.5 8.1.1"""
    spare = 8 * stored.dtype.itemsize - instance.bits_stored
    return stored if spare <= 0 else (stored << spare) >> spare
