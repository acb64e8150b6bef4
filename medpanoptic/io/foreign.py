"""What stands in where an object of another program does not say it: a neutral code, a colour."""

from __future__ import annotations

import colorsys

from medpanoptic.classes import Code

# a region somebody marked, whatever it is. Source: DICOM PS3.16, SNOMED CT
REGION_CATEGORY = Code("309825002", "SCT", "Spatial and Relational Concept")
REGION_TYPE = Code("111099", "DCM", "Selected region")


def any_color(class_id: int) -> tuple[int, int, int]:
    """Return an RGB colour for a class that has none; ids beside each other get colours far apart."""
    r, g, b = colorsys.hls_to_rgb(class_id * 0.618033988749895 % 1.0, 0.55, 0.6)
    return round(r * 255), round(g * 255), round(b * 255)
