"""The geometry gate: from slice positions to one affine, or a refusal by name.

The affine comes from positions and orientation alone, never from SliceThickness, SpacingBetweenSlices or the gantry
tilt tag, which are often wrong. Source: DICOM PS3.3 C.7.6.2.1.1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import GeometryError
from medpanoptic.geometry import Affine

# Noise that scanners and anonymisers leave in direction cosines; 1e-3 rad moves a pixel 250 mm off centre by 0.25 mm.
ORIENTATION_TOLERANCE = 1e-3
SAME_POSITION_MM = 0.01
_GAP_RATIO = 1.5


@dataclass(frozen=True)
class Plane:
    """One slice: position (3,) LPS mm of its first pixel, orientation (6,) cosines, spacing (row, column) mm.

    name : the file, for messages; thickness mm, used for a single slice only.
    """

    name: str
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None = None


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes sorted along the normal: ``order`` are their indices, ``positions`` (N, 3) in that order."""

    order: tuple[int, ...]
    positions: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: NDArray[np.float64]

    def coincident(self) -> list[tuple[int, int]]:
        """Return pairs of neighbours in ``order`` (places, not plane indices) that share one position."""
        near = np.linalg.norm(np.diff(self.positions, axis=0), axis=1) < SAME_POSITION_MM
        return [(int(i), int(i) + 1) for i in np.flatnonzero(near)]

    def without(self, places: set[int]) -> Stack:
        """Return the stack without some places in its order."""
        keep = [i for i in range(len(self.order)) if i not in places]
        return Stack(tuple(self.order[i] for i in keep), self.positions[keep], self.axes, self.spacing)


def sort_planes(planes: Sequence[Plane], series: str) -> Stack:
    """Check each plane and that all are parallel and alike; sort them along the normal.

    series : how to name the series in messages.
    Raises GeometryError: GEO-POSITION, GEO-ORIENTATION, GEO-PIXEL-SPACING, MIX-ORIENTATION, MIX-SPACING.
    """
    for plane in planes:
        _check_plane(plane, series)
    orientations = np.array([p.orientation for p in planes], float)
    odd = np.flatnonzero(np.abs(orientations - orientations[0]).max(axis=1) > ORIENTATION_TOLERANCE)
    if len(odd):
        raise GeometryError(
            "MIX-ORIENTATION",
            f"{series}: slices have different orientations, for example {planes[0].name} and {planes[odd[0]].name}; "
            "split the stacks into folders",
        )
    spacings = np.array([p.spacing for p in planes], float)
    if np.ptp(spacings, axis=0).max() > 1e-4 * spacings.max():
        raise GeometryError("MIX-SPACING", f"{series}: PixelSpacing differs between slices, {_range(spacings)} mm")
    axes = _unit_axes(orientations[0])
    positions = np.array([p.position for p in planes], float)
    order = np.argsort(positions @ axes[2], kind="stable")
    return Stack(tuple(order.tolist()), positions[order], axes, spacings[0])


def stack_affine(stack: Stack, thickness: float | None, series: str) -> tuple[Affine, list[str]]:
    """Return the (4, 4) affine, index (slice, row, column) -> LPS mm, and notes (tilt, single slice).

    Raises GeometryError: GEO-GAP (slices missing), GEO-SPACING (uneven or off one line), GEO-TILT (above 45 degrees),
    GEO-SINGLE (one slice of unknown thickness).
    """
    row_axis, column_axis, normal = stack.axes
    affine = np.eye(4)
    if len(stack.order) == 1:
        if thickness is None or not 0 < thickness < 1000:
            raise GeometryError("GEO-SINGLE", f"{series}: a single slice without a usable SliceThickness has no depth")
        step, notes = thickness * normal, ["a single slice: its depth is SliceThickness"]
    else:
        _check_even(stack, series)
        step = (stack.positions[-1] - stack.positions[0]) / (len(stack.order) - 1)
        notes = _check_tilt(step, normal, series)
        if thickness is not None and 0 < _GAP_RATIO * thickness < float(step @ normal):
            notes.append("slices lie much further apart than SliceThickness says: nothing is known of what is between")
    affine[:3, 0] = step
    # row index runs down the column, by the first PixelSpacing value along the second direction
    affine[:3, 1] = column_axis * stack.spacing[0]
    affine[:3, 2] = row_axis * stack.spacing[1]
    affine[:3, 3] = stack.positions[0]
    return affine, notes


def _check_plane(plane: Plane, series: str) -> None:
    where = f"{series}, {plane.name}"
    if plane.position is None or not np.all(np.isfinite(plane.position)):
        raise GeometryError("GEO-POSITION", f"{where}: ImagePositionPatient is missing or garbled")
    if plane.orientation is None or not np.all(np.isfinite(plane.orientation)):
        raise GeometryError("GEO-ORIENTATION", f"{where}: ImageOrientationPatient is missing or garbled")
    rows = np.reshape(plane.orientation, (2, 3))
    if np.abs(rows @ rows.T - np.eye(2)).max() > ORIENTATION_TOLERANCE:
        raise GeometryError("GEO-ORIENTATION", f"{where}: ImageOrientationPatient is not two orthogonal unit vectors")
    if plane.spacing is None or not all(1e-4 < s < 1e3 for s in plane.spacing):
        raise GeometryError("GEO-PIXEL-SPACING", f"{where}: PixelSpacing is missing or not positive")


def _unit_axes(orientation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (3, 3): row direction, column direction, normal, exactly orthonormal."""
    row_axis = orientation[:3] / np.linalg.norm(orientation[:3])
    column_axis = orientation[3:] - (orientation[3:] @ row_axis) * row_axis
    column_axis /= np.linalg.norm(column_axis)
    return np.stack([row_axis, column_axis, np.cross(row_axis, column_axis)])


def _check_even(stack: Stack, series: str) -> None:
    steps = np.diff(stack.positions, axis=0)
    gaps = steps @ stack.axes[2]
    # rounding may make every other gap a little wide: the mean tells whether they are even, the median what is odd
    mean, typical = float(gaps.mean()), float(np.median(gaps))
    tolerance = max(0.01 * typical, 0.02)
    uneven = bool(np.any(np.abs(gaps - mean) > tolerance))
    odd = np.flatnonzero((np.abs(gaps - typical) > tolerance) & uneven)
    if len(odd):
        multiples = gaps[odd] / max(typical, SAME_POSITION_MM)
        whole = bool(np.all(multiples > 1.5) and np.all(np.abs(multiples - np.round(multiples)) < 0.05))
        where = f"first between slices {odd[0] + 1} and {odd[0] + 2} of {len(stack.order)}"
        if whole and len(odd) <= max(1, len(gaps) // 4):
            missing = int(np.sum(np.round(multiples) - 1))
            raise GeometryError(
                "GEO-GAP",
                f"{series}: slice spacing is not uniform, {missing} slice(s) seem to be missing, {where} "
                f"({gaps[odd[0]]:.3f} mm instead of {typical:.3f} mm); fetch the whole series again",
            )
        raise GeometryError(
            "GEO-SPACING",
            f"{series}: slice spacing is not uniform, it varies {_range(gaps)} mm, {where}; resample it first",
        )
    lateral = steps - np.outer(gaps, stack.axes[2])
    sideways = np.linalg.norm(lateral - np.median(lateral, axis=0), axis=1)
    fitted = np.linspace(stack.positions[0], stack.positions[-1], len(stack.order))
    drift = np.linalg.norm(stack.positions - fitted, axis=1).max()
    if sideways.max() > tolerance or drift > max(0.1 * typical, 0.1):
        raise GeometryError(
            "GEO-SPACING",
            f"{series}: slices are not on one line with even spacing, up to {max(drift, sideways.max()):.2f} mm off it",
        )


def _check_tilt(step: NDArray[np.float64], normal: NDArray[np.float64], series: str) -> list[str]:
    along = float(step @ normal)
    sideways = float(np.linalg.norm(step - along * normal))
    if sideways > along:
        raise GeometryError(
            "GEO-TILT", f"{series}: slices are shifted by more than their distance (tilt above 45 degrees)"
        )
    if sideways <= max(0.01 * along, 0.02):
        return []
    angle = np.degrees(np.arctan2(sideways, along))
    return [f"gantry tilt of {angle:.1f} degrees: the affine is sheared, as the slices were acquired"]


def _range(values: NDArray[np.float64]) -> str:
    return f"from {values.min():.3f} to {values.max():.3f}"
