"""Freed blocks are used again while a network runs, and given back after it."""

import sys

import pytest
import torch

from medpanoptic.memory import _gnu_c_library, kept_memory

BLOCK = 10 * 2**20  # floats: 40 MiB, more than the C library keeps by itself


def faults(rounds=5):
    """Pages that the system had to fill while large maps were made and dropped."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.zeros(BLOCK).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux")
def test_large_blocks_are_mapped_once():
    if _gnu_c_library() is None:
        pytest.skip("another C library, or a process with limits of its own")
    outside = faults()
    with kept_memory():
        # other threads' and the heap's own growth fill pages too, now and then
        inside = min(faults() for _ in range(4))
    assert inside < outside / 4
    assert faults() > inside  # as before


def test_nothing_is_touched_where_malloc_is_set_by_hand(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    with kept_memory():
        assert _gnu_c_library() is None
