from __future__ import annotations

import sys
from pathlib import Path

import pytest

# the tiny model and studies of the batch tests
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "batch"))
pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra: batch)")

from noted import outcome

__all__ = ["outcome"]
