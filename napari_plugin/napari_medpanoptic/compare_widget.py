"""The Compare dock: what the reader changed against the model, and what the fusion dropped and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtWidgets import QAbstractItemView, QLabel, QPushButton, QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget

from medpanoptic.review.compare import LesionChange
from napari_medpanoptic.about import why_dropped
from napari_medpanoptic.candidate_layer import CandidateLayer
from napari_medpanoptic.reading import Reading
from napari_medpanoptic.view import box_in_viewer, show_point


class CompareWidget(QWidget):
    """Two tables about the current review; a click jumps to the place."""

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self.reading, self.candidate = reading, CandidateLayer(reading)
        self.changes = simple_table(("relation", "model", "reader", "Dice", "volume"))
        self.changes.cellClicked.connect(self._on_change)
        self.dropped = simple_table(("class", "score", "why the fusion dropped it"))
        self.dropped.cellClicked.connect(self._on_dropped)
        self.take_in = QPushButton("Take in the chosen candidate")
        self.take_in.setToolTip("Make it a lesion; undo takes it out again")
        self.take_in.clicked.connect(self._take_in)
        layout = QVBoxLayout(self)
        layout.addWidget(QLabel("Changed against the model"))
        layout.addWidget(self.changes)
        layout.addWidget(QLabel("Candidates that are not in the result"))
        layout.addWidget(self.dropped)
        layout.addWidget(self.take_in)
        self._fill_dropped()
        reading.watchers.append(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the changes as they are now."""
        self.found = [c for c in self.reading.changes() if c.relation != "unchanged"]
        fill(self.changes, [change_cells(change) for change in self.found])

    def _fill_dropped(self) -> None:
        model = self.reading.session.model
        rows = [
            (model.classes[d.class_id].name, f"{d.score:.2f}", why_dropped(number, model))
            for number, d in enumerate(model.dropped)
        ]
        fill(self.dropped, rows)
        self.take_in.setEnabled(bool(rows))

    def _on_change(self, row: int, column: int) -> None:
        change = self.found[row]
        if change.review_ids:
            self.reading.go(change.review_ids[0])
        else:
            self._jump(self.reading.session.model.boxes[change.model_ids[0]])

    def _on_dropped(self, row: int, column: int) -> None:
        self.candidate.show(row)
        self._jump(self.reading.session.model.dropped[row].box)

    def _jump(self, box: Any) -> None:
        show_point(self.reading.viewer, *box_in_viewer(box, self.reading.grid.affine, self.reading.grid.shape))

    def _take_in(self, checked: bool = False) -> None:
        if self.dropped.currentRow() >= 0:
            self.candidate.show(None)
            self.reading.take_in(self.dropped.currentRow())

    def end(self) -> None:
        """Take the candidate out of the picture."""
        self.candidate.show(None)


def change_cells(change: LesionChange) -> tuple[str, ...]:
    """Return the cells of a change: relation, ids before and after, Dice, volume change."""
    before, after = (" + ".join(map(str, ids)) for ids in (change.model_ids, change.review_ids))
    volume = "" if not change.model_ids else f"{100 * change.volume_change:+.0f} %"
    return change.relation, before, after, f"{change.dice:.2f}", volume


def simple_table(headings: Sequence[str]) -> QTableWidget:
    """Return an empty table of text that is only read."""
    table = QTableWidget(0, len(headings))
    table.setHorizontalHeaderLabels(list(headings))
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    table.verticalHeader().hide()
    table.verticalHeader().setDefaultSectionSize(22)
    table.horizontalHeader().setStretchLastSection(True)
    return table


def fill(table: QTableWidget, rows: Sequence[Sequence[str]]) -> None:
    """Show rows of text; the chosen row stays chosen where it is still there."""
    chosen = table.currentRow()
    table.setRowCount(len(rows))
    for place, cells in enumerate(rows):
        for column, text in enumerate(cells):
            table.setItem(place, column, QTableWidgetItem(text))
    table.resizeColumnsToContents()
    if 0 <= chosen < len(rows):
        table.setCurrentCell(chosen, 0)
