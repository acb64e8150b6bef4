"""The Review dock: the list of lesions, what can be done with them, signing. All work is done by ``Reading``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_warning
from napari.viewer import Viewer
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QCheckBox, QFileDialog, QHBoxLayout, QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget

from medpanoptic.review import progress, progress_text
from napari_medpanoptic.about import about
from napari_medpanoptic.action_grid import EDIT_BUTTONS, VERDICT_BUTTONS, ActionGrid
from napari_medpanoptic.changed_layer import ChangedLayer
from napari_medpanoptic.clicked_place import ClickedPlace
from napari_medpanoptic.diameters import Diameters
from napari_medpanoptic.lesion_form import LesionForm
from napari_medpanoptic.lesion_list import LesionList
from napari_medpanoptic.pick import Pick
from napari_medpanoptic.reading import Reading
from napari_medpanoptic.review_actions import bind_review_keys, review_actions, unbind_review_keys
from napari_medpanoptic.save_list import save_list
from napari_medpanoptic.seeds import Seeds
from napari_medpanoptic.sign_box import SignBox
from napari_medpanoptic.tool_row import ToolRow


class ReviewWidget(QWidget):
    """Shows the review that ``start_review`` begins; without one it offers to open a case."""

    def __init__(self, napari_viewer: Viewer) -> None:  # the name by which napari hands itself over
        super().__init__()
        self.viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self.reading: Reading | None = None
        self.tools: tuple[Diameters | Seeds | ChangedLayer | ClickedPlace | Pick, ...] = ()
        self.case = Path()
        self.image: Path | None = None
        self._build()

    def _build(self) -> None:
        self.open_button = QPushButton("Open a case …")
        self.open_button.setToolTip("A folder with segments.json. Open the study first, so that it lies under the map")
        self.open_button.clicked.connect(self._ask_for_case)
        self.progress = QLabel()
        self.progress.setWordWrap(True)  # a long name must not widen the dock
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("filter: class, place, status, note …")
        self.filter.textChanged.connect(self._set_filter)
        self.save_button = QPushButton("Save as CSV …")
        self.save_button.setToolTip("The list as it is now, with all measures; nothing is signed by it")
        self.save_button.clicked.connect(self._save_table)
        self.table = LesionList(self._go, self._sort)
        self.model = self.table.rows
        self.info = QLabel()
        self.info.setWordWrap(True)
        self.info.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.go_on = QCheckBox("then the next unread")
        self.go_on.setToolTip("After a verdict go on to the next unread lesion")
        self.go_on.setChecked(True)
        self.go_on.toggled.connect(self._set_go_on)
        self.verdicts = ActionGrid(VERDICT_BUTTONS, len(VERDICT_BUTTONS), self._press)
        self.edits = ActionGrid(EDIT_BUTTONS, 4, self._press)
        self.buttons = {**self.verdicts.buttons, **self.edits.buttons}
        self.tool_row = ToolRow()
        self.sign_box = SignBox(self._reopen)
        self.form = LesionForm(self._to_picture)
        layout = QVBoxLayout(self)
        layout.setSpacing(4)
        layout.addWidget(self.open_button)
        for widgets in ((self.progress, self.go_on), (self.filter, self.save_button)):
            row = QHBoxLayout()
            layout.addLayout(row)
            for widget in widgets:
                row.addWidget(widget)
        layout.addWidget(self.table, stretch=1)
        self.below = (self.verdicts, self.tool_row, self.edits, self.form, self.sign_box)
        for widget in (self.info, *self.below):
            layout.addWidget(widget)
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
        self.diameters, self.seeds, self.changed = Diameters(reading), Seeds(reading), ChangedLayer(reading)
        self.place = ClickedPlace(reading)
        self.tools = (self.diameters, self.seeds, self.changed, self.place, Pick(reading, self.table.add_row))
        self.tool_row.begin(reading)
        self.table.begin(reading.session)
        more = {"axes": self.diameters.toggle, "points": self.seeds.toggle, "changed": self.changed.toggle}
        self.actions = review_actions(reading, self.chosen, {**more, "note": self.form.write_note})
        bind_review_keys(reading, self.actions)
        self.sign_box.begin(reading, image)
        self.form.begin(reading)
        self._enable()
        self.refresh()

    def end(self) -> None:
        """Close the review that is shown."""
        if self.reading is not None:
            self.sign_box.end()
            self.tool_row.end()
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
        self.table.show_table(self.reading.view(), self.reading.current)
        self.progress.setText(self._progress_text())
        self.info.setText(about(self.reading))
        self.form.refresh()
        self.sign_box.refresh()

    def _progress_text(self) -> str:
        if self.reading is None:
            return ""
        read, total = progress(self.reading.table)
        ready = " – ready to sign" if read == total and not self.reading.session.signed else ""
        return f"{self.case.name}: {progress_text(self.reading.table)}{ready}"

    def toggle_crosshair(self) -> None:
        """Show or hide the crosshair of a 2D image; that of volumes is in the Planes dock."""
        if self.reading is not None:
            self.place.toggle()

    def chosen(self) -> list[int]:
        """Return the lesions selected in the list, the current one first."""
        return self.table.chosen(self.reading.current if self.reading is not None else None)

    def _enable(self) -> None:
        on = self.reading is not None
        self.open_button.setVisible(not on)  # while reading, File > Open does it, and the list has the place
        for widget in (self.filter, self.save_button, self.table, *self.below):
            widget.setEnabled(on)

    def _press(self, action: str) -> None:
        if self.reading is not None:
            self.actions[action]()

    def _go(self, segment_id: int) -> None:
        if self.reading is not None:
            self.reading.go(segment_id)

    def _set_filter(self, text: str) -> None:
        if self.reading is not None:
            self.reading.filter = text
            self.refresh()

    def _sort(self, key: str) -> None:
        if self.reading is not None:
            self.reading.sort(key)
            self.refresh()

    def _set_go_on(self, on: bool) -> None:
        if self.reading is not None:
            self.reading.go_on = on

    def _ask_for_case(self, checked: bool = False) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A case: a folder with segments.json")
        if folder:
            self.start(Path(folder), reader=self.sign_box.name.text())

    def _save_table(self, checked: bool = False) -> None:
        start = str(self.case.parent / f"{self.case.name}_lesions.csv")
        name, _ = QFileDialog.getSaveFileName(self, "Save the list of lesions", start, "CSV (*.csv)")
        if name and self.reading is not None:
            save_list(self.reading, Path(name))

    def _reopen(self, checked: bool = False) -> None:
        self.start(self.case, self.image, reader=self.sign_box.name.text())

    def _to_picture(self) -> None:
        self.viewer.window._qt_viewer.canvas.native.setFocus()

    def closeEvent(self, event: Any) -> None:  # noqa: N802  (Qt's name)
        """Bring the journal to the disk."""
        self.end()
        super().closeEvent(event)
