"""docs/pacs.md explains every code that receiving, fetching and sending can end with."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_code_is_explained():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "medpanoptic" / "pacs").glob("*.py")]
    codes = {
        code for text in texts for code in re.findall(r'"((?:RECEIVE|PEER|SEND|OUTBOX|FETCH|AE|NO|TLS)-[A-Z-]+)"', text)
    }
    page = (ROOT / "docs" / "pacs.md").read_text(encoding="utf-8")
    assert sorted(code for code in codes if code not in page) == []
    assert len(codes) > 20
