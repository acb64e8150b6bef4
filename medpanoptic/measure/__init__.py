"""Measures of things: volume, RECIST axes, grey values, SUVpeak. numpy and scipy only."""

from medpanoptic.measure.axes import Axis, DrawnAxes, find_axes
from medpanoptic.measure.intensity import Intensity, peak_mean, peak_sphere
from medpanoptic.measure.measures import (
    Measures,
    is_calibrated,
    measure,
    measure_columns,
    measure_row,
    measure_segment,
    measures_table,
    with_axes,
)

__all__ = [
    "Axis",
    "DrawnAxes",
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
    "with_axes",
]
