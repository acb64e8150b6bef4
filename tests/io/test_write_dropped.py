"""The masks of dropped candidates: read back whole, or refused by name."""

import numpy as np
import pytest

from medpanoptic.errors import ReadError
from medpanoptic.io.dropped import read_masks, write_masks
from medpanoptic.result import Dropped


def candidates(count, ndim):
    rng = np.random.default_rng(count)
    found = []
    for _ in range(count):
        start, size = rng.integers(0, 9, ndim), rng.integers(1, 7, ndim)
        box = tuple((int(a), int(a + n)) for a, n in zip(start, size, strict=True))
        found.append(Dropped(1, 0.2, "score", box, rng.random(size) < 0.5))
    return tuple(found)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_masks_come_back(tmp_path, count, ndim):
    dropped = candidates(count, ndim)
    assert [p.name for p in write_masks(dropped, tmp_path)] == ["dropped.bin"]
    bare = [Dropped(d.class_id, d.score, d.reason, d.box) for d in dropped]
    for was, now in zip(dropped, read_masks(bare, tmp_path), strict=True):
        assert now.mask.dtype == bool
        assert np.array_equal(was.mask, now.mask)


def test_without_masks_there_is_no_file_and_without_a_file_no_masks(tmp_path):
    bare = (Dropped(1, 0.2, "score", ((0, 2), (0, 2))),)
    assert write_masks((), tmp_path) == write_masks(bare, tmp_path) == []
    assert read_masks(bare, tmp_path) == bare


@pytest.mark.parametrize("spoil", [lambda b: b[:-9], lambda b: b"", lambda b: b"no zlib", lambda b: b[:4] + b"\0" * 9])
def test_a_damaged_file_is_refused(tmp_path, spoil):
    dropped = candidates(5, 3)
    (path,) = write_masks(dropped, tmp_path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ReadError, match="RESULT-DAMAGED"):
        read_masks(dropped, tmp_path)
    write_masks(candidates(4, 3), tmp_path)  # of another table
    with pytest.raises(ReadError, match="RESULT-DAMAGED"):
        read_masks(dropped, tmp_path)
