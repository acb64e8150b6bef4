"""The worklist as a Qt table: only the rows on the screen are asked for, so 50,000 nuclei scroll like seven."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt
from qtpy.QtGui import QColor

# column of the worklist -> (heading, sort key, decimals)
COLUMNS: dict[str, tuple[str, str, int | None]] = {
    "status": ("status", "status", None),
    "id": ("id", "id", 0),
    "class": ("class", "class", None),
    "score": ("score", "score", 2),
    "uncertainty": ("uncertain", "uncertainty", 2),
    "long_axis_mm": ("long mm", "long axis", 1),
    "short_axis_mm": ("short mm", "long axis", 1),
    "volume_mm3": ("ml", "size", 2),
    "area_mm2": ("mm²", "size", 3),
    "size": ("voxels", "size", 0),
    "place": ("place", "place", None),
    "note": ("note", "status", None),
}
MARKS = {"unread": "○ unread", "accepted": "✓ accepted", "rejected": "✗ rejected", "unsure": "? unsure"}
# Okabe and Ito's hues, lightened for a dark window: told apart by the colour blind, and the marks differ too
COLORS = {"accepted": "#35d0a5", "rejected": "#ff8a4c", "unsure": "#f0c24b"}


class LesionTable(QAbstractTableModel):
    """Shows a table of ``review.worklist`` in the order given."""

    def __init__(self) -> None:
        super().__init__()
        self.columns: list[str] = []
        self.ids = np.zeros(0, np.int64)
        self._values: dict[str, np.ndarray] = {}

    def set_table(self, table: pd.DataFrame) -> None:
        """Show these rows. Where only values changed, the view keeps its place."""
        ids = table.index.to_numpy()
        columns = [name for name in COLUMNS if name in table and not _is_idle(name, table)]
        same = columns == self.columns and np.array_equal(ids, self.ids)
        if not same:
            self.beginResetModel()
        self.ids, self.columns = ids, columns
        self._values = {name: table[name].to_numpy() for name in columns}
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

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802  (Qt's name)
        """Return the number of lesions."""
        return len(self.ids)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802  (Qt's name)
        """Return the number of columns."""
        return len(self.columns)

    def headerData(self, section: int, orientation: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: N802
        """Return a column's heading."""
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return COLUMNS[self.columns[section]][0]
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return the text, or the colour of a status."""
        name = self.columns[index.column()]
        value = self._values[name][index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return cell_text(name, value)
        if role == Qt.ItemDataRole.ForegroundRole and name == "status" and value in COLORS:
            return QColor(COLORS[value])
        return None


def _is_idle(name: str, table: pd.DataFrame) -> bool:
    """Tell columns that say nothing here: what no model knows and no reader wrote, and voxels beside ml or mm²."""
    if name == "size":
        return any(other in table and not table[other].isna().all() for other in ("volume_mm3", "area_mm2"))
    if name == "uncertainty":
        return bool(table[name].isna().all())
    return name == "note" and not table[name].to_numpy().any()


def cell_text(column: str, value: Any) -> str:
    """Return a value of the worklist as a person reads it; empty where it is not known."""
    if column == "status":
        return MARKS[value]
    decimals = COLUMNS[column][2]
    if decimals is None:
        return str(value)
    if value is None or np.isnan(value):
        return ""
    return f"{value / 1000 if column == 'volume_mm3' else value:.{decimals}f}"
