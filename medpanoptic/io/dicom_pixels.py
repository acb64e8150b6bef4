"""Stored pixel values of one DICOM file, decoded and checked, before rescale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

from medpanoptic.errors import ReadError
from medpanoptic.io.dicom_codestream import frame_ends, frame_size
from medpanoptic.io.dicom_files import quiet_pydicom, read_dataset
from medpanoptic.io.dicom_header import Instance


def decode_frames(instance: Instance) -> NDArray:
    """Return the stored values of a file, (frame, row, column), before rescale.

    Raises ReadError: PIXELS-MISSING, PIXELS-UNREADABLE.
    """
    dataset = read_dataset(instance.path, instance.name)
    if not dataset.get("PixelData"):
        raise ReadError("PIXELS-MISSING", f"{instance.name}: pixel data is missing or truncated")
    kind = ""
    try:
        with quiet_pydicom():
            what = _wrong_length(dataset, instance) or _wrong_stream(dataset, instance)
            # ``used_bits`` looks at bits above BitsStored before it clears them
            dataset.pixel_array_options(correct_unused_bits=False)
            array = np.empty(0) if what else dataset.pixel_array
    except Exception as error:  # codecs raise anything, and their texts may quote tag values
        kind = type(error).__name__
    if kind:
        raise ReadError("PIXELS-UNREADABLE", f"{instance.name}: pixel data is truncated or damaged ({kind})")
    shape = (instance.frame_count, instance.rows, instance.columns)
    if what or array.size != np.prod(shape):
        what = what or "does not have the size that the header says"
        raise ReadError("PIXELS-UNREADABLE", f"{instance.name}: pixel data {what}")
    return array.reshape(shape)


def _wrong_length(dataset: Dataset, instance: Instance) -> str:
    """Say what is wrong with uncompressed pixel data: pydicom drops what is too much, in silence."""
    if instance.syntax.is_encapsulated:
        return ""
    if dataset["PixelData"].is_undefined_length:
        return "is compressed, but the transfer syntax says that it is not"
    whole = (instance.rows * instance.columns * instance.frame_count * instance.bits_allocated + 7) // 8
    # zeros behind the last pixel are padding of some writers
    return "is longer than the header says" if dataset.PixelData[whole:].strip(b"\0") else ""


def _wrong_stream(dataset: Dataset, instance: Instance) -> str:
    """Say what is wrong with compressed frames, before a decoder allocates for them or makes up what is cut off."""
    if not instance.syntax.is_encapsulated:
        return ""
    expected = (instance.rows, instance.columns, 1)
    for frame in generate_frames(dataset.PixelData, number_of_frames=instance.frame_count):
        if not frame_ends(frame, instance.syntax):
            return "is truncated or damaged (no end)"
        size = frame_size(frame, instance.syntax)
        if size is not None and size != expected:
            return "has a compressed frame of another size than the header says"
    return ""


def padding_mask(stored: NDArray, instance: Instance) -> NDArray[np.bool_] | None:
    """Tell which stored values are padding; compared in all allocated bits, as signs are written both ways."""
    if instance.padding is None:
        return None
    kind = stored.dtype
    first, last = (np.array(v % 2 ** (8 * kind.itemsize), f"u{kind.itemsize}").view(kind) for v in instance.padding)
    mask = (stored >= min(first, last)) & (stored <= max(first, last))
    return mask if mask.any() else None


def used_bits(stored: NDArray, instance: Instance) -> NDArray:
    """Clear bits above BitsStored (old overlays live there), keeping the sign. Source: DICOM PS3.5 8.1.1

    Raises ReadError (PIXELS-BITS) where these bits are part of the values, so that the header is wrong.
    """
    spare = 8 * stored.dtype.itemsize - instance.bits_stored
    if spare <= 0:
        return stored
    values: NDArray = (stored << spare) >> spare
    # a sign may be extended into the bits above or not: both are written
    above = stored.view(f"u{stored.dtype.itemsize}") >> instance.bits_stored
    above = np.where(values != stored, above, 0)
    shifted = instance.high_bit != instance.bits_stored - 1
    if above.any() and (shifted or _depends(values, above) or _wraps(values, stored)):
        raise ReadError(
            "PIXELS-BITS",
            f"{instance.name}: pixel values need more bits than BitsStored and HighBit say; correct the header",
        )
    return values


def _depends(values: NDArray, above: NDArray) -> bool:
    """Tell whether bits above go with the values: an overlay changes anywhere, a carry only where the values jump."""
    steps = np.abs(np.diff(values.astype(np.float64), axis=-1))
    changed = np.diff(above.astype(np.int64), axis=-1) != 0
    if changed.all() or not changed.any():
        return False
    return bool(np.median(steps[changed]) > 2 * np.median(steps[~changed]) + 1)


def _wraps(values: NDArray, stored: NDArray) -> bool:
    """Tell whether values jump where the bits above make them smooth: signed values wrap at half their range."""
    cut, whole = (np.diff(a.astype(np.float64), axis=-1) for a in (values, stored))
    differ = cut != whole
    return bool(differ.any() and np.median(np.abs(cut[differ])) > 2 * np.median(np.abs(whole[differ])) + 1)
