"""The worklist as a Qt table: only the rows on the screen are asked for, so 50,000 nuclei scroll like seven."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt
from qtpy.QtGui import QColor

from napari_medpanoptic.units import MM, PIXELS, Unit

# column of the worklist -> (heading, sort key, decimals)
COLUMNS: dict[str, tuple[str, str, int | None]] = {
    "status": ("status", "status", None),
    "id": ("id", "id", 0),
    "class": ("class", "class", None),
    "score": ("score", "score", 2),
    "uncertainty": ("uncertain", "uncertainty", 2),
    "axes": ("", "long axis", None),  # both axes; the heading is their unit
    "volume_mm3": ("ml", "size", 2),
    "area_mm2": ("", "size", None),
    "size": ("voxels", "size", 0),
    "place": ("place", "place", None),
    "note": ("note", "status", None),
}
AXES = ("long_axis_mm", "short_axis_mm")
MARKS = {"unread": "○ unread", "accepted": "✓ accepted", "rejected": "✗ rejected", "unsure": "? unsure"}
# Okabe and Ito's hues, lightened for a dark window: told apart by the colour blind, and the marks differ too
COLORS = {"accepted": "#35d0a5", "rejected": "#ff8a4c", "unsure": "#f0c24b"}


class LesionTable(QAbstractTableModel):
    """Shows a table of ``review.worklist`` in the order given."""

    def __init__(self) -> None:
        super().__init__()
        self.unit, self.several_classes = MM, True
        self.columns: list[str] = []
        self.ids = np.zeros(0, np.int64)
        self._values: dict[str, np.ndarray] = {}

    def set_table(self, table: pd.DataFrame) -> None:
        """Show these rows. Where only values changed, the view keeps its place."""
        ids = table.index.to_numpy()
        columns = [name for name in COLUMNS if _source(name) in table and not self._is_idle(name, table)]
        same = columns == self.columns and np.array_equal(ids, self.ids)
        if not same:
            self.beginResetModel()
        self.ids, self.columns = ids, columns
        self._values = {name: table[list(AXES) if name == "axes" else name].to_numpy() for name in columns}
        if not same:
            self.endResetModel()
        elif len(ids):
            self.dataChanged.emit(self.index(0, 0), self.index(len(ids) - 1, len(columns) - 1))

    def row_of(self, segment_id: int | None) -> int:
        """Return the row of a lesion, -1 if it is not shown."""
        if segment_id is None:
            return -1
        found = np.flatnonzero(self.ids == segment_id)
        return int(found[0]) if len(found) else -1

    def sort_key(self, column: int) -> str:
        """Return the sort order of a column."""
        return COLUMNS[self.columns[column]][1]

    def _is_idle(self, name: str, table: pd.DataFrame) -> bool:
        """Tell columns that say nothing here: what nobody knows, the only class there is, voxels beside ml or mm²."""
        if name == "class":
            return not self.several_classes
        if name in ("axes", "volume_mm3", "area_mm2", "size"):
            return (name == "size") != (self.unit == PIXELS)
        if name == "uncertainty":
            return bool(table[name].isna().all())
        return name == "note" and not table[name].to_numpy().any()

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802  (Qt's name)
        """Return the number of lesions."""
        return len(self.ids)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802  (Qt's name)
        """Return the number of columns."""
        return len(self.columns)

    def headerData(self, section: int, orientation: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: N802
        """Return a column's heading."""
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            name = self.columns[section]
            units = {"axes": self.unit.name, "area_mm2": self.unit.area_name}
            return COLUMNS[name][0] or units[name]
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return the text, or the colour of a status."""
        name = self.columns[index.column()]
        value = self._values[name][index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return cell_text(name, value, self.unit)
        if role == Qt.ItemDataRole.ToolTipRole:  # what a narrow dock cuts off
            return value if name in ("place", "note", "class") else None
        if role == Qt.ItemDataRole.ForegroundRole and name == "status" and value in COLORS:
            return QColor(COLORS[value])
        return None


def _source(name: str) -> str:
    """Return the column of the worklist that a column is made of."""
    return AXES[0] if name == "axes" else name


def cell_text(column: str, value: Any, unit: Unit = MM) -> str:
    """Return a value of the worklist as a person reads it; empty where it is not known. Of the axes both, mm."""
    if column == "status":
        return MARKS[value]
    if column == "place":
        return str(value).removeprefix("slice ").removesuffix(" mm").replace("row ", "").replace("column ", "")
    if column in ("axes", "area_mm2"):
        if np.isnan(value).any():
            return ""
        return unit.axes(*value) if column == "axes" else unit.area(value)
    decimals = COLUMNS[column][2]
    if decimals is None:
        return str(value)
    if value is None or np.isnan(value):
        return ""
    return f"{value / 1000 if column == 'volume_mm3' else value:.{decimals}f}"
