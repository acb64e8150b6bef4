"""Signing: the reader's name, a guard against unread lesions, the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QCheckBox, QFormLayout, QGroupBox, QLabel, QLineEdit, QPushButton

from medpanoptic.errors import MedpanopticError
from medpanoptic.review import progress, sign
from napari_medpanoptic.reading import Reading


class SignBox(QGroupBox):
    """Signs the review of ``reading``; then the version is locked, and Open anew starts the next one."""

    def __init__(self, reopen: Callable[[], None]) -> None:
        super().__init__("Sign")
        self.reading: Reading | None = None
        self.image: Path | None = None
        self.name = QLineEdit()
        self.name.setPlaceholderText("name of the reader")
        self.name.setToolTip("It goes into the journal and, as observer, into the DICOM report")
        self.name.textChanged.connect(self._set_reader)
        self.allow = QCheckBox("sign although lesions are unread")
        self.allow.toggled.connect(self.refresh)
        self.button, self.again = QPushButton("Sign and write files"), QPushButton("Open a new version")
        self.button.clicked.connect(self.sign)
        self.again.clicked.connect(reopen)
        self.said = QLabel()
        self.said.setWordWrap(True)
        form = QFormLayout(self)
        form.addRow("Reader", self.name)
        form.addRow(self.allow)
        form.addRow(self.button)
        form.addRow(self.again)
        form.addRow(self.said)

    def begin(self, reading: Reading, image: Path | None) -> None:
        """Sign this review from now on."""
        self.reading, self.image = reading, image
        self.allow.setChecked(False)
        self.name.setText(reading.session.reader)
        self.said.setText(f"This will be version {reading.session.version}")
        self.refresh()

    def refresh(self, event: object = None) -> None:
        """Offer what can be done now."""
        if self.reading is None:
            self.setEnabled(False)
            return
        session = self.reading.session
        read, total = progress(self.reading.table)
        ready = bool(session.reader) and (read == total or self.allow.isChecked())
        self.setEnabled(True)
        self.button.setVisible(not session.signed)
        self.allow.setVisible(not session.signed and read < total)
        self.again.setVisible(session.signed)
        self.name.setEnabled(not session.signed)
        self.button.setEnabled(ready and session.opened is not None)
        self.button.setToolTip("" if ready else f"{total - read} lesions are unread, or the reader's name is missing")

    def sign(self, checked: bool = False) -> None:
        """Write and lock; an error is said and nothing is signed."""
        if self.reading is None:
            return
        QGuiApplication.setOverrideCursor(Qt.CursorShape.WaitCursor)
        try:
            folder = sign(self.reading.session, allow_unread=self.allow.isChecked(), image=self.image)
        except MedpanopticError as error:
            self.said.setText(str(error))
        else:
            files = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_file()))
            self.said.setText(f"Signed as {folder.name} and locked: {files}")
        finally:
            QGuiApplication.restoreOverrideCursor()
        self.refresh()

    def _set_reader(self, name: str) -> None:
        if self.reading is not None:
            self.reading.session.reader = name.strip()
            self.refresh()
