"""What a reader says of one lesion: class, organ, node, target, a note; and the class of new lesions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)

from napari_medpanoptic.reading import Reading

# the organs that RECIST 1.1 readings name most; any other word can be typed
ORGANS = ("", "lung", "liver", "bone", "brain", "kidney", "adrenal gland", "pancreas", "spleen", "soft tissue", "skin")


class LesionForm(QGroupBox):
    """Shows and changes the words on the current lesion; each change is an edit that can be undone.

    Its box folds it up, so that the list keeps its place on a small screen.
    """

    def __init__(self, back: Callable[[], None]) -> None:
        super().__init__("Class, organ, target, note")
        self.reading: Reading | None = None
        self.back = back  # after Return in a field the keys belong to the picture again
        self.class_box, self.new_box, self.organ = QComboBox(), QComboBox(), QComboBox()
        self.class_box.activated.connect(self._relabel)
        self.class_box.setToolTip("Class of this lesion (key Shift+C takes the next)")
        self.new_box.activated.connect(self._choose_new)
        self.new_box.setToolTip("Class of lesions that you add")
        self.organ.setEditable(True)
        self.organ.addItems(ORGANS)
        self.organ.activated.connect(self._write)
        self.organ.lineEdit().editingFinished.connect(self._write)
        self.node, self.target = QCheckBox("lymph node"), QCheckBox("target")
        self.node.setToolTip("Its short axis counts (key Shift+L)")
        self.target.setToolTip("It counts for the sum of diameters (key Shift+T)")
        self.node.clicked.connect(self._write)
        self.target.clicked.connect(self._write)
        self.note = QLineEdit()
        self.note.setPlaceholderText("note (key Shift+W)")
        self.note.editingFinished.connect(self._write)
        for field in (self.note, self.organ.lineEdit()):
            field.returnPressed.connect(back)
        inner = QWidget()
        form = QFormLayout(inner)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Class", _row(self.class_box, QLabel("of new ones"), self.new_box))
        form.addRow("Organ", _row(self.organ, self.node, self.target))
        form.addRow("Note", self.note)
        QVBoxLayout(self).addWidget(inner)
        self.setCheckable(True)
        self.toggled.connect(inner.setVisible)
        self.setChecked(False)

    def begin(self, reading: Reading) -> None:
        """Show the lesions of this review from now on."""
        self.reading = reading
        things = reading.session.live.base.classes.things
        for box in (self.class_box, self.new_box):
            box.clear()
            for info in things:
                box.addItem(info.name, info.id)
            box.setEnabled(len(things) > 1)
        self.refresh()

    def refresh(self) -> None:
        """Show the current lesion as it is now."""
        reading = self.reading
        known = reading is not None and reading.current is not None
        for field in (self.class_box, self.organ, self.node, self.target, self.note):
            field.setEnabled(known and not reading.locked)  # type: ignore[union-attr]
        if reading is None or reading.current is None:
            self.note.clear()
            return
        self.class_box.setEnabled(self.class_box.count() > 1 and not reading.locked)
        row = reading.session.row(reading.current)
        self.class_box.setCurrentIndex(self.class_box.findData(row.segment.class_id))
        if self.organ.currentText() != row.organ:
            self.organ.setEditText(row.organ)
        self.node.setChecked(row.is_node)
        self.target.setChecked(row.is_target)
        if self.note.text() != row.note:
            self.note.setText(row.note)

    def write_note(self) -> None:
        """Put the cursor into the note."""
        self.setChecked(True)
        self.note.setFocus()
        self.note.selectAll()

    def _relabel(self, index: int) -> None:
        if self.reading is not None:
            self.reading.relabel(int(self.class_box.itemData(index)))
            self.refresh()

    def _choose_new(self, index: int) -> None:
        if self.reading is not None:
            self.reading.new_class = int(self.new_box.itemData(index))

    def _write(self, event: Any = None) -> None:
        """Hand over what the fields hold; the reading ignores what is as it was."""
        reading = self.reading
        if reading is None or reading.current is None:
            return
        said = {
            "organ": self.organ.currentText().strip(),
            "is_node": self.node.isChecked(),
            "is_target": self.target.isChecked(),
        }
        note = self.note.text().strip()  # before the first edit draws the fields anew
        reading.recist(**said)
        reading.note(note)
        self.refresh()


def _row(*widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return row
