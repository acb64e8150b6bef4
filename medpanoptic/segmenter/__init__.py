"""One study in, one panoptic result on its own grid out."""

from __future__ import annotations

from medpanoptic.segmenter.segmenter import Segmenter, segment_file

__all__ = ["Segmenter", "segment_file"]
