"""The Review dock: the list of lesions, what can be done with them, signing. All work is done by ``Reading``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_warning
from napari.viewer import Viewer
from qtpy.QtCore import QItemSelectionModel, Qt, QTimer
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QFileDialog,
    QGridLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from medpanoptic.review import progress_text
from napari_medpanoptic.about import about
from napari_medpanoptic.changed_layer import ChangedLayer
from napari_medpanoptic.diameters import Diameters
from napari_medpanoptic.keys import REVIEW_KEYS
from napari_medpanoptic.lesion_form import LesionForm
from napari_medpanoptic.lesion_table import LesionTable
from napari_medpanoptic.reading import Reading
from napari_medpanoptic.review_actions import LABELS, bind_review_keys, review_actions, unbind_review_keys
from napari_medpanoptic.seeds import Seeds
from napari_medpanoptic.sign_box import SignBox

_BUTTON_COLUMNS = 4


class ReviewWidget(QWidget):
    """Shows the review that ``start_review`` begins; without one it offers to open a case."""

    def __init__(self, napari_viewer: Viewer) -> None:  # the name by which napari hands itself over
        super().__init__()
        self.viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self.reading: Reading | None = None
        self.tools: tuple[Diameters | Seeds | ChangedLayer, ...] = ()
        self.case = Path()
        self.image: Path | None = None
        self._build()

    def _build(self) -> None:
        self.open_button = QPushButton("Open a case …")
        self.open_button.setToolTip("A folder with segments.json. Open the study first, so that it lies under the map")
        self.open_button.clicked.connect(self._ask_for_case)
        self.progress = QLabel()
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("filter: class, place, status, note …")
        self.filter.textChanged.connect(self._set_filter)
        self.model, self.table = LesionTable(), QTableView()
        self.table.setModel(self.model)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.table.setWordWrap(False)
        self.table.verticalHeader().hide()
        self.table.horizontalHeader().sectionClicked.connect(self._sort)
        self.table.clicked.connect(self._on_row)
        self.info = QLabel()
        self.info.setWordWrap(True)
        self.go_on = QCheckBox("go on to the next unread after a verdict")
        self.go_on.setChecked(True)
        self.go_on.toggled.connect(self._set_go_on)
        self.sign_box = SignBox(self._reopen)
        self.form = LesionForm(self._to_picture)
        self.buttons = {action: QPushButton(text) for action, text in LABELS.items()}
        grid = QGridLayout()
        for place, action in enumerate(LABELS):
            button = self.buttons[action]
            key = next(k for k in REVIEW_KEYS if k.action == action)
            button.setToolTip(f"{key.text} (key {key.shown})")
            button.clicked.connect(partial(self._press, action))
            grid.addWidget(button, place // _BUTTON_COLUMNS, place % _BUTTON_COLUMNS)
        layout = QVBoxLayout(self)
        for widget in (self.open_button, self.progress, self.filter, self.table, self.info, self.form, self.go_on):
            layout.addWidget(widget)
        layout.addLayout(grid)
        layout.addWidget(self.sign_box)
        self._enable()

    def start(self, case: Path, image: Path | None = None, **choices: Any) -> None:
        """Open a case for reading; choices as in ``start_review``."""
        from napari_medpanoptic.start import start_review

        start_review(self.viewer, case, image, **choices)

    def begin(self, reading: Reading, case: Path, image: Path | None) -> None:
        """Show this review; one that was open is closed, its edits are on the disk."""
        self.end()
        self.reading, self.case, self.image = reading, case, image
        reading.go_on = self.go_on.isChecked()
        reading.tell = show_warning
        reading.later = partial(QTimer.singleShot, 0)
        reading.watchers.append(self.refresh)
        self.tools = self.diameters, self.seeds, self.changed = (
            Diameters(reading),
            Seeds(reading),
            ChangedLayer(reading),
        )
        more = {"axes": self.diameters.toggle, "points": self.seeds.toggle, "changed": self.changed.toggle}
        self.actions = review_actions(reading, self.chosen, {**more, "note": self.form.write_note})
        bind_review_keys(reading, self.actions)
        self.sign_box.begin(reading, image)
        self.form.begin(reading)
        self._enable()
        self.refresh()
        for column in range(self.model.columnCount()):
            self.table.resizeColumnToContents(column)

    def end(self) -> None:
        """Close the review that is shown."""
        if self.reading is not None:
            self.sign_box.end()
            unbind_review_keys(self.viewer)
            for tool in self.tools:
                tool.close()
            self.reading.close()
            self.reading = self.form.reading = None
            self.tools = ()

    def refresh(self) -> None:
        """Show list, progress and the current lesion as they are now."""
        if self.reading is None:
            return
        self.model.set_table(self.reading.view())
        self.progress.setText(f"{self.case.name}: {progress_text(self.reading.table)}")
        row = self.model.row_of(self.reading.current)
        if row >= 0 and row not in {i.row() for i in self.table.selectionModel().selectedRows()}:
            flags = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
            index = self.model.index(row, 0)
            self.table.selectionModel().setCurrentIndex(index, flags)
            self.table.scrollTo(index)
        self.info.setText(about(self.reading))
        self.form.refresh()
        self.sign_box.refresh()

    def chosen(self) -> list[int]:
        """Return the lesions selected in the list, the current one first."""
        ids = [int(self.model.ids[i.row()]) for i in self.table.selectionModel().selectedRows()]
        current = self.reading.current if self.reading is not None else None
        return sorted(ids, key=lambda i: i != current)

    def _enable(self) -> None:
        on = self.reading is not None
        self.open_button.setVisible(not on)  # while reading, File > Open does it, and the list has the place
        for widget in (self.filter, self.table, self.form, *self.buttons.values(), self.sign_box):
            widget.setEnabled(on)

    def _press(self, action: str, checked: bool = False) -> None:
        if self.reading is not None:
            self.actions[action]()

    def _on_row(self, index: Any) -> None:
        # several rows: chosen to be joined; the picture stays
        if self.reading is not None and len(self.table.selectionModel().selectedRows()) == 1:
            self.reading.go(int(self.model.ids[index.row()]))

    def _set_filter(self, text: str) -> None:
        if self.reading is not None:
            self.reading.filter = text
            self.refresh()

    def _sort(self, column: int) -> None:
        if self.reading is not None:
            key = self.model.sort_key(column)
            self.reading.sort(key)
            self.refresh()

    def _set_go_on(self, on: bool) -> None:
        if self.reading is not None:
            self.reading.go_on = on

    def _ask_for_case(self, checked: bool = False) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A case: a folder with segments.json")
        if folder:
            self.start(Path(folder), reader=self.sign_box.name.text())

    def _reopen(self, checked: bool = False) -> None:
        self.start(self.case, self.image, reader=self.sign_box.name.text())

    def _to_picture(self) -> None:
        self.viewer.window._qt_viewer.canvas.native.setFocus()

    def closeEvent(self, event: Any) -> None:  # noqa: N802  (Qt's name)
        """Bring the journal to the disk."""
        self.end()
        super().closeEvent(event)
