"""Keep freed memory in the process while a network runs: the C library of Linux gives large blocks back at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# numbers of <malloc.h>, GNU C library
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -2, -3, -4, -8
_MIB = 1 << 20


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let freed blocks be used again within the ``with``, and give all of them back to the system after it.

    Every layer makes maps of some 30 MB. The GNU C library maps such blocks anew each time, and the system fills each
    of their pages with zeros first: on a busy machine nearly half of all time. Elsewhere, in a process with an address
    space limit, and where MALLOC_ variables are set, nothing is changed. Results are the same.
    One thing stays: threads made from then on share the heaps there are. A heap of its own gives a thread 64 MB at a
    time, into which such maps fit badly: two windows side by side would take a fifth more memory.
    """
    library = _gnu_c_library()
    if library is None:
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    library.mallopt(_TOP_PAD, 64 * _MIB)
    library.mallopt(_ARENA_MAX, 1)
    try:
        yield
    finally:
        # where the library's own adaptation ends up in a process with large arrays
        library.mallopt(_MMAP_MAX, 65536)
        library.mallopt(_MMAP_THRESHOLD, 32 * _MIB)
        library.mallopt(_TRIM_THRESHOLD, 64 * _MIB)
        library.mallopt(_TOP_PAD, _MIB // 8)
        library.malloc_trim(0)


def _gnu_c_library() -> Any | None:
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return None
    import ctypes

    library = ctypes.CDLL(None)
    return None if _is_capped() or not hasattr(library, "gnu_get_libc_version") else library


def _is_capped() -> bool:
    """Whether this process has an address space limit; one that cannot be known counts as a limit."""
    try:
        limits = Path("/proc/self/limits").read_text(encoding="ascii")
    except OSError:
        return True
    soft = [line.split()[3] for line in limits.splitlines() if line.startswith("Max address space")]
    return soft != ["unlimited"]
