"""What a fault led to: noted for ``benchmarks/faults.py``, and held to the table of docs/batch.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs" / "batch.md"


@pytest.fixture
def outcome(record_property: Callable[[str, object], None]) -> Callable[[str, str, str], None]:
    """Return a function: note what a fault led to and how it was made, and check that docs/batch.md says the same."""

    def note(fault: str, result: str, made_by: str) -> None:
        row = f"| {fault} | {result} | {made_by} |"
        record_property("fault", row)
        assert row in DOCS.read_text(encoding="utf-8")

    return note
