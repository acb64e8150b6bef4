"""Signed reviews as training data: what a reader accepted is the truth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medpanoptic.errors import DataError, ReadError
from medpanoptic.geometry import same_grid
from medpanoptic.io import read_result, read_study
from medpanoptic.review import check_signed, signed_versions
from medpanoptic.review.case_files import IMAGE
from medpanoptic.training.layouts import VOID, AnnotatedVolume, split_by_hash
from medpanoptic.volume import ChannelSpec, Volume


def is_reviews(folder: Path) -> bool:
    """Tell whether a folder holds cases (OUT/CASE) of which one or more were signed."""
    return any(folder.glob("*/review/v*/signature.json"))


def read_reviews(folder: Path, channels: Sequence[ChannelSpec], splits: Sequence[str]) -> Iterator[AnnotatedVolume]:
    """Yield the last signed version of each case in a folder, in the order of the names; unsigned cases are left out.

    Rejected lesions are tissue. Lesions that the reader was unsure of, or never read, are unknown (VOID), as is void.
    The image is where ``sign(image=...)`` was told that it is. A fifth of the cases, by name, is for validation.
    Raises DataError: DATA-MISSING (no image), DATA-SHAPE (it is not the reviewed one); ReviewError (REVIEW-TAMPERED).
    """
    for case in sorted(p for p in folder.iterdir() if signed_versions(p)):
        split = split_by_hash(case.name)
        if split in splits:
            yield _read_case(case, channels, split)


def _read_case(case: Path, channels: Sequence[ChannelSpec], split: str) -> AnnotatedVolume:
    signed = signed_versions(case)[-1]
    check_signed(signed)
    result = read_result(signed)
    volume = _read_image(case.name, signed / IMAGE, channels)
    if not same_grid(volume.affine, result.affine, volume.shape, result.ids.shape):
        raise DataError("DATA-SHAPE", f"case {case.name}: the image is {volume.shape}, not the one that was reviewed")
    codes = result.class_map().astype(np.int32)
    codes[codes == 0] = VOID
    unsure = [s.id for s in result.things if s.verdict in ("unsure", "unread")]
    codes[np.isin(result.ids, unsure)] = VOID
    known = [s.id for s in result.things if s.id not in unsure]
    instances = np.where(np.isin(result.ids, known), result.ids, 0).astype(np.int32)
    return AnnotatedVolume(case.name, split, "", volume, codes, instances, {c.id: c.name for c in result.classes})


def _read_image(case: str, pointer: Path, channels: Sequence[ChannelSpec]) -> Volume:
    # paths may hold names: no message of here repeats one
    try:
        places = {str(k): Path(v) for k, v in json.loads(pointer.read_text(encoding="utf-8"))["image"].items()}
    except FileNotFoundError:
        raise DataError(
            "DATA-MISSING", f"case {case}: the review does not say where its image is; sign it with image=PATH"
        ) from None
    try:
        return read_study(places[""] if set(places) == {""} else places, channels)
    except ReadError as error:
        raise DataError(
            "DATA-MISSING", f"case {case}: its image cannot be read from where it was when it was signed ({error.code})"
        ) from None
