"""What tests share: the project's data folder, which a fresh clone does not have."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("MEDPANOPTIC_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return a function: path inside the shared data folder -> Path; the test is skipped if it is not there."""

    def find(inside: str) -> Path:
        path = SHARED / inside
        if not path.exists():
            pytest.skip(f"needs {inside} of the shared data folder (set MEDPANOPTIC_SHARED)")
        return path

    return find
