"""Studies from a PACS and results back to it: ``receive`` and ``fetch`` fill a folder, ``send`` delivers a batch."""

from __future__ import annotations

from medpanoptic.pacs.fetcher import fetch
from medpanoptic.pacs.receiver import receive
from medpanoptic.pacs.sender import send

__all__ = ["fetch", "receive", "send"]
