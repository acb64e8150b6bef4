from __future__ import annotations

from pathlib import Path

import pytest
from noted import outcome
from tiny_batch import pack_tiny

__all__ = ["outcome"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that segments 4 x 16 x 16 voxels in a tenth of a second."""
    return pack_tiny(tmp_path_factory.mktemp("model") / "tiny")
