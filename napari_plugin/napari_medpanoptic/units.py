"""In which unit a person reads lengths and areas of a case: mm, in microscopy µm, or pixels where no size is known."""

from __future__ import annotations

from dataclasses import dataclass

from medpanoptic.geometry import voxel_spacing
from medpanoptic.review import ReviewSession

# pixels smaller than this are those of a microscope
_MICROSCOPE_MM = 0.01


@dataclass(frozen=True)
class Unit:
    """name : "mm", "µm" or "px". per_mm : how many of it are one mm; 1 for pixels, for which 1 mm stands in."""

    name: str = "mm"
    per_mm: float = 1.0

    @property
    def area_name(self) -> str:
        """Name of the unit of an area."""
        return f"{self.name}²"

    def axes(self, long_mm: float, short_mm: float) -> str:
        """Return both axes without the unit: 45.1 x 30.6."""
        return f"{long_mm * self.per_mm:.1f} x {short_mm * self.per_mm:.1f}"

    def length(self, mm: float) -> str:
        """Return a length: 45.1 mm."""
        return f"{mm * self.per_mm:.1f} {self.name}"

    def area(self, mm2: float) -> str:
        """Return an area without its unit."""
        amount = mm2 * self.per_mm**2
        return f"{amount:.0f}" if amount >= 100 else f"{amount:.3g}"


MM, PIXELS = Unit(), Unit("px")
MICRONS = Unit("µm", 1000.0)


def unit_of(session: ReviewSession) -> Unit:
    """Return the unit for a case."""
    if not session.calibrated:
        return PIXELS
    ndim = session.ids.ndim
    return MICRONS if ndim == 2 and max(voxel_spacing(session.affine, ndim)) < _MICROSCOPE_MM else MM
