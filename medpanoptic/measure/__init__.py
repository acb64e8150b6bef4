"""Measures of things: volume, RECIST axes, grey values, SUVpeak. numpy and scipy only."""

from medpanoptic.measure.axes import Axis, find_axes
from medpanoptic.measure.intensity import Intensity, peak_mean, peak_sphere
from medpanoptic.measure.measures import (
    Measures,
    is_calibrated,
    measure,
    measure_columns,
    measure_row,
    measure_segment,
    measures_table,
)

__all__ = [
    "Axis",
    "Intensity",
    "Measures",
    "find_axes",
    "is_calibrated",
    "measure",
    "measure_columns",
    "measure_row",
    "measure_segment",
    "measures_table",
    "peak_mean",
    "peak_sphere",
]
