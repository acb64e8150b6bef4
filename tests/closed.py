"""Files and folders that their reader may not open, also where the tests run as root, whom nothing is closed to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_NOBODY = 65534


@contextmanager
def closed(*paths: Path, mode: int = 0) -> Iterator[None]:
    """Leave only the rights ``mode`` on the paths for the block; root works as another user meanwhile."""
    if not hasattr(os, "setresuid"):
        pytest.skip("this system has no such rights, or no way to become another user")
    is_root = os.geteuid() == 0
    modes = [path.stat().st_mode for path in paths]
    above = {folder: folder.stat().st_mode for path in paths for folder in path.parents}
    try:
        for folder, old in above.items() if is_root else ():
            if old & 0o055 != 0o055:
                # pytest's folders are for their owner alone; some tests read the one that holds the paths
                folder.chmod(old | 0o055)
        for path in paths:
            path.chmod(mode)
        if is_root:
            os.setresuid(_NOBODY, _NOBODY, 0)
        yield
    finally:
        if is_root:
            os.setresuid(0, 0, 0)
        for path, old in [*zip(paths, modes, strict=True), *above.items()]:
            if path.stat().st_mode != old:
                path.chmod(old)
