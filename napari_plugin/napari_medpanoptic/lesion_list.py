"""The list of lesions: one row is read, several can be chosen; a click on a heading sorts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from qtpy.QtCore import QItemSelectionModel, Qt
from qtpy.QtWidgets import QAbstractItemView, QTableView

from medpanoptic.review import ReviewSession
from napari_medpanoptic.lesion_table import MARKS, LesionTable
from napari_medpanoptic.units import unit_of

_ROW_PIXELS = 22
_LEAST_ROWS = 6
_CLASS_PIXELS = 72  # a longer name is in the tooltip; the place needs the room


class LesionList(QTableView):
    """Shows a worklist. ``go`` is called with the lesion of a clicked row, ``sort`` with the key of a heading."""

    def __init__(self, go: Callable[[int], None], sort: Callable[[str], None]) -> None:
        super().__init__()
        self.rows = LesionTable()
        self._go, self._sort_by = go, sort
        self.setModel(self.rows)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.setWordWrap(False)
        self.setMinimumHeight((_LEAST_ROWS + 2) * _ROW_PIXELS)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(_ROW_PIXELS)
        self.horizontalHeader().sectionClicked.connect(self._on_heading)
        self.clicked.connect(self._on_row)

    def begin(self, session: ReviewSession) -> None:
        """Show the lesions of this review from now on."""
        self.rows.unit = unit_of(session)
        self.rows.several_classes = len(session.live.base.classes.things) > 1

    def show_table(self, table: pd.DataFrame, current: int | None) -> None:
        """Show these rows with ``current`` chosen; rows chosen beside it stay chosen."""
        before = self.rows.columns
        self.rows.set_table(table)
        if self.rows.columns != before:
            self._fit_columns()
        row = self.rows.row_of(current)
        if row >= 0 and row not in self._chosen_rows():
            flags = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
            index = self.rows.index(row, 0)
            self.selectionModel().setCurrentIndex(index, flags)
            self.scrollTo(index)

    def _fit_columns(self) -> None:
        self.resizeColumnsToContents()
        if "class" in self.rows.columns:
            column = self.rows.columns.index("class")
            self.setColumnWidth(column, min(self.columnWidth(column), _CLASS_PIXELS))
        # a verdict that comes later must fit too
        longest = max(self.fontMetrics().horizontalAdvance(mark) for mark in MARKS.values())
        self.setColumnWidth(self.rows.columns.index("status"), longest + 3 * self.fontMetrics().averageCharWidth())

    def chosen(self, current: int | None) -> list[int]:
        """Return the lesions that are selected, the current one first."""
        ids = [int(self.rows.ids[row]) for row in self._chosen_rows()]
        return sorted(ids, key=lambda i: i != current)

    def add_row(self, segment_id: int) -> None:
        """Choose one more lesion, or no longer."""
        row = self.rows.row_of(segment_id)
        if row >= 0:
            flags = QItemSelectionModel.SelectionFlag.Toggle | QItemSelectionModel.SelectionFlag.Rows
            self.selectionModel().select(self.rows.index(row, 0), flags)

    def _chosen_rows(self) -> list[int]:
        return [index.row() for index in self.selectionModel().selectedRows()]

    def _on_row(self, index: Any) -> None:
        # several rows: chosen to be joined or judged at once; the picture stays
        if len(self._chosen_rows()) == 1:
            self._go(int(self.rows.ids[index.row()]))

    def _on_heading(self, column: int) -> None:
        self._sort_by(self.rows.sort_key(column))
