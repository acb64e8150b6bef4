"""Signing: the reader's name, a guard against unread lesions, a worker that writes and tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from napari.qt.threading import FunctionWorker, create_worker
from qtpy.QtCore import QObject, Qt, QThreadPool, QUrl, Signal
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
)

from medpanoptic.errors import MedpanopticError
from medpanoptic.review import ReviewSession, progress, sign
from napari_medpanoptic.reading import Reading

# what a step of signing is called on the screen
STEPS = {
    "result": "the result",
    "json": "the table of segments",
    "nifti": "the map",
    "csv": "the measures",
    "png": "the picture",
    "dicom-seg": "DICOM SEG",
    "dicom-sr": "the structured report",
    "dicom-sc": "the secondary captures",
    "list": "the list of lesions",
    "hashes": "the signature",
}


class Steps(QObject):
    """Carries the progress from the worker to the window."""

    told = Signal(float, str)


class SignBox(QGroupBox):
    """Signs the review of ``reading``; then the version is locked, and Open anew starts the next one."""

    def __init__(self, reopen: Callable[[], None]) -> None:
        super().__init__("Sign")
        self.reading: Reading | None = None
        self.image: Path | None = None
        self.worker: FunctionWorker | None = None
        self.folder: Path | None = None
        self.steps = Steps()
        self.steps.told.connect(self._show_step)
        self.name = QLineEdit()
        self.name.setPlaceholderText("name of the reader")
        self.name.setToolTip("It goes into the journal and, as observer, into the DICOM report")
        self.name.textChanged.connect(self._set_reader)
        self.allow = QCheckBox("sign although lesions are unread")
        self.allow.toggled.connect(self.refresh)
        self.button, self.again = QPushButton("Sign and write files"), QPushButton("Open a new version")
        self.files = QPushButton("Show the files")
        self.button.clicked.connect(self.sign)
        self.again.clicked.connect(reopen)
        self.files.clicked.connect(self._show_files)
        self.bar = QProgressBar()
        self.bar.setRange(0, 100)
        self.said = QLabel()
        self.said.setWordWrap(True)
        self.said.setMinimumWidth(1)  # a long path must not widen the dock
        self.said.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        grid = QGridLayout(self)
        grid.setContentsMargins(6, 2, 6, 4)
        grid.addWidget(QLabel("Reader"), 0, 0)
        grid.addWidget(self.name, 0, 1)
        grid.addWidget(self.button, 0, 2)
        row = QHBoxLayout()  # of its own, so that the dock does not grow when they come
        for widget in (self.files, self.again):
            row.addWidget(widget)
        grid.addLayout(row, 1, 0, 1, 3)
        for place, widget in enumerate((self.allow, self.bar, self.said), 2):
            grid.addWidget(widget, place, 0, 1, 3)
        self.refresh()

    def begin(self, reading: Reading, image: Path | None) -> None:
        """Sign this review from now on."""
        self.reading, self.image, self.folder = reading, image, None
        self.allow.setChecked(False)
        self.name.setText(reading.session.reader)
        self.said.setText(f"This will be version {reading.session.version}")
        self.refresh()

    def refresh(self, event: object = None) -> None:
        """Offer what can be done now."""
        if self.reading is None:
            self.setEnabled(False)
            for widget in (self.bar, self.again, self.files):
                widget.hide()
            return
        session, busy = self.reading.session, self.worker is not None
        read, total = progress(self.reading.table)
        ready = bool(session.reader) and (read == total or self.allow.isChecked())
        self.setEnabled(True)
        self.bar.setVisible(busy)
        self.button.setVisible(not session.signed)
        self.allow.setVisible(not session.signed and not busy and read < total)
        self.again.setVisible(session.signed)
        self.files.setVisible(session.signed and self.folder is not None)
        self.name.setEnabled(not self.reading.locked)
        self.button.setEnabled(ready and not busy and session.opened is not None)
        self.button.setToolTip("" if ready else f"{total - read} lesions are unread, or the reader's name is missing")

    def sign(self, checked: bool = False) -> None:
        """Write and lock, with the window free meanwhile; an error is said and nothing is signed."""
        reading = self.reading
        if reading is None or self.worker is not None:
            return
        self.worker = create_worker(
            _sign,
            reading.session,
            self.allow.isChecked(),
            self.image,
            self.steps.told.emit,
            _start_thread=False,
            _connect={"returned": self._show},
        )
        reading.signing = True
        self._show_step(0.0, "result")
        reading.show_lock()
        self.worker.start()

    def end(self) -> None:
        """Wait until the files are whole, and let go of the review."""
        if self.worker is not None:
            QThreadPool.globalInstance().waitForDone()
            self.worker = None
        self.reading = None
        self.refresh()

    def _show_step(self, part: float, step: str) -> None:
        if self.worker is not None:
            self.bar.setValue(round(100 * part))
            self.said.setText(f"Writing {STEPS.get(step, step)}: look on, nothing can be changed now")

    def _show(self, signed: tuple[ReviewSession, Path | Exception]) -> None:
        session, outcome = signed
        reading = self.reading
        if reading is None or reading.session is not session:
            return  # closed meanwhile; ``end`` has waited
        self.worker = None
        reading.signing = False
        if isinstance(outcome, Path):
            self.folder = outcome
            files = ", ".join(sorted(p.name + ("/" if p.is_dir() else "") for p in outcome.iterdir()))
            self.said.setText(f"Signed as {outcome.name} and locked. In {outcome}:\n{files}")
        else:
            self.said.setText(str(outcome))
        reading.show_lock()
        self.refresh()
        if isinstance(outcome, Exception) and not isinstance(outcome, MedpanopticError):
            raise outcome  # a bug: napari shows it with its traceback

    def _show_files(self, checked: bool = False) -> None:
        if self.folder is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.folder)))

    def _set_reader(self, name: str) -> None:
        if self.reading is not None and not self.reading.locked:
            self.reading.session.reader = name.strip()
            self.refresh()


def _sign(
    session: ReviewSession, allow_unread: bool, image: Path | None, on_step: Callable[[float, str], None]
) -> tuple[ReviewSession, Path | Exception]:
    # errors are returned, not raised: napari 0.9's own handler of a worker's errors fails on its argument
    try:
        return session, sign(session, allow_unread=allow_unread, image=image, on_step=on_step)
    except Exception as error:
        return session, error
