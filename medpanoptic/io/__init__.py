"""Files in and out: ``read_volume``, ``read_study``, ``find_series``; ``read_result``, ``write_result``."""

from __future__ import annotations

from medpanoptic.io.read import find_series, read_study, read_volume
from medpanoptic.io.write import FORMATS, convert, read_result, write_result

__all__ = ["FORMATS", "convert", "find_series", "read_result", "read_study", "read_volume", "write_result"]
