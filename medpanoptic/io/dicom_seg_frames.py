"""The pixels and frames of a DICOM Segmentation, one slice at a time.

highdicom makes every header. It finds the frames of a BINARY object by comparing each slice with each segment; here
each segment is looked for in its own box only, and packed bits go to a file, so that time and memory follow what is
there and not slices x segments.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpanoptic.geometry import Affine, to_index
from medpanoptic.result import PanopticResult

if TYPE_CHECKING:
    from highdicom.seg import Segmentation

_LARGEST_TABLE = 2**24  # ids up to here are looked up in a table


def labelmap_frames(
    result: PanopticResult, numbered: Sequence[int], order: NDArray[np.int64]
) -> NDArray[np.uint8 | np.uint16]:
    """Return (F, row, column) segment numbers of the frames, 0 = none; 8 bits if they suffice.

    numbered : ids of the segments 1 ... n; the others count as none. order : (F,) slice of each frame.
    """
    kind = np.uint8 if len(numbered) < 256 else np.uint16
    frames = np.empty((len(order), *result.ids.shape[1:]), kind)
    for frame, plane in zip(frames, _number_planes(result, numbered, order.tolist()), strict=True):
        frame[...] = plane
    return frames


def _number_planes(
    result: PanopticResult, numbered: Sequence[int], slices: Sequence[int]
) -> Iterator[NDArray[np.uint16]]:
    """Yield (row, column) segment numbers of each slice; no second map of the volume is made."""
    known = np.array([0, *sorted(s.id for s in result.segments)])
    number_of = {segment_id: number for number, segment_id in enumerate(numbered, 1)}
    numbers = np.array([number_of.get(int(i), 0) for i in known], np.uint16)
    if known[-1] >= _LARGEST_TABLE:
        for k in slices:
            yield numbers[np.searchsorted(known, result.ids[k])]
        return
    table = np.zeros(known[-1] + 1, np.uint16)
    table[known] = numbers
    for k in slices:
        yield table[result.ids[k]]


@contextmanager
def binary_frames(
    result: PanopticResult, numbered: Sequence[int], slices: Sequence[int], folder: Path
) -> Iterator[tuple[list[tuple[int, int]], BufferedIOBase]]:
    """Give (segment number, slice) of every frame that holds a segment, and a file of their packed bits.

    numbered : ids of the segments 1 ... n. slices : all slices of the result in the order that frames shall have.
    folder : where the nameless file lies until the block ends.
    Frames lie end to end without padding, first pixel in the lowest bit.
    Source: DICOM PS3.5 8.1.1, PS3.3 C.8.20.2
    """
    frames: list[tuple[int, int]] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        spare = np.zeros(0, bool)  # pixels that do not fill a byte yet
        for number, k, mask in _masks(result, numbered, slices):
            frames.append((number, k))
            flat = np.concatenate([spare, mask.ravel()]) if len(spare) else mask.ravel()
            whole = len(flat) // 8 * 8
            file.write(np.packbits(flat[:whole], bitorder="little").data)
            spare = flat[whole:].copy()
        file.write(np.packbits(spare, bitorder="little").data)
        if file.tell() % 2:
            file.write(b"\0")
        file.seek(0)
        yield frames, cast(BufferedIOBase, file)


def _masks(
    result: PanopticResult, numbered: Sequence[int], slices: Sequence[int]
) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Yield segment number, slice and (row, column) mask, by number, then as ``slices``; the mask is used again."""
    windows: dict[int, dict[int, tuple[slice, ...]]] = {number: {} for number in range(1, len(numbered) + 1)}
    for k, plane in zip(slices, _number_planes(result, numbered, slices), strict=True):
        for number, window in enumerate(ndimage.find_objects(plane), 1):
            if window is not None:
                windows[number][k] = window
    mask = np.zeros(result.ids.shape[1:], bool)
    for number, segment_id in enumerate(numbered, 1):
        for k, window in windows[number].items():
            np.equal(result.ids[k][window], segment_id, out=mask[window])
            yield number, k, mask
            mask[window] = False


def pattern_slices(segmentation: Segmentation, affine: Affine) -> list[int]:
    """Return the slice of each frame of a pattern, which has one frame per slice, in highdicom's order."""
    items = segmentation.PerFrameFunctionalGroupsSequence
    positions = np.array([item.PlanePositionSequence[0].ImagePositionPatient for item in items], float)
    return [round(float(k)) for k in to_index(positions, affine)[:, 0]]


def put_frames(
    segmentation: Segmentation, slices: Sequence[int], frames: Sequence[tuple[int, int]], pixels: BufferedIOBase
) -> None:
    """Replace a pattern, whose frames lie on ``slices``, by ``frames`` (segment number, slice) and their ``pixels``."""
    from pydicom import DataElement, Dataset

    pattern = dict(zip(slices, segmentation.PerFrameFunctionalGroupsSequence, strict=True))
    used = {k for _, k in frames}
    rank = {k: i for i, k in enumerate((k for k in slices if k in used), 1)}
    identify = {}
    for number in {number for number, _ in frames}:
        identify[number] = Dataset()
        identify[number].ReferencedSegmentNumber = number
    items = []
    for number, k in frames:
        content, item = Dataset(), Dataset()
        content.DimensionIndexValues = [number, rank[k]]
        item.FrameContentSequence = [content]
        item.PlanePositionSequence = pattern[k].PlanePositionSequence
        item.DerivationImageSequence = pattern[k].DerivationImageSequence
        item.SegmentIdentificationSequence = [identify[number]]
        items.append(item)
    segmentation.SharedFunctionalGroupsSequence[0].pop("SegmentIdentificationSequence", None)
    # an optional attribute, right for the pattern only
    segmentation.pop("DimensionOrganizationType", None)
    segmentation.PerFrameFunctionalGroupsSequence = items
    segmentation.NumberOfFrames = len(items)
    segmentation["PixelData"] = DataElement("PixelData", "OB", pixels)
