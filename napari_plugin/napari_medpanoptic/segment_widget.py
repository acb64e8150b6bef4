"""The Segment dock: choose an image, a model and a device, run in a worker, see the result."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

from napari.qt.threading import FunctionWorker, create_worker
from napari.utils.notifications import show_error, show_warning
from napari.viewer import Viewer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from medpanoptic.errors import MedpanopticError
from medpanoptic.geometry import same_grid
from medpanoptic.result import PanopticResult
from napari_medpanoptic.inputs import Input, find_inputs
from napari_medpanoptic.layers import result_layers
from napari_medpanoptic.legend import Legend
from napari_medpanoptic.series_form import SeriesForm
from napari_medpanoptic.view import arrange, go_to_largest

DEVICES = ("auto", "cpu", "cuda")
NOTICE = "Research use only. Not a medical device."


class Cancelled(Exception):  # noqa: N818  (not an error: the person asked for it)
    """Raised inside the Segmenter's progress callback to stop it."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the worker hands over: a result or an error."""

    result: PanopticResult | None = None
    error: Exception | None = None


class SegmentWidget(QWidget):
    """Dock widget; all work is done by ``medpanoptic.Segmenter`` in a napari worker thread."""

    progressed = Signal(float)  # emitted in the worker, received in the GUI thread

    def __init__(self, napari_viewer: Viewer) -> None:  # the name by which napari hands itself over
        super().__init__()
        self.viewer = viewer = napari_viewer
        self.worker: FunctionWorker | None = None
        self.inputs: list[Input] = []
        self._build()
        arrange(viewer)
        viewer.layers.events.inserted.connect(self.refresh_inputs)
        viewer.layers.events.removed.connect(self.refresh_inputs)
        self.progressed.connect(self._show_progress)
        self._fill_models()
        self.refresh_inputs()

    def _build(self) -> None:
        self.image_box, self.model_box, self.device_box = QComboBox(), QComboBox(), QComboBox()
        self.device_box.addItems(DEVICES)
        self.run_button, self.cancel_button = QPushButton("Run"), QPushButton("Cancel")
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self.cancel)
        self.bar = QProgressBar()
        self.status = QLabel()
        self.status.setWordWrap(True)
        notice = QLabel(NOTICE)
        notice.setWordWrap(True)
        form = QFormLayout()
        for text, box in (("Image", self.image_box), ("Model", self.model_box), ("Device", self.device_box)):
            # long study names must not widen the dock
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            form.addRow(text, box)
        self.series_form = SeriesForm()
        self.image_box.currentIndexChanged.connect(self._offer_series)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.series_form)
        layout.addLayout(_row(self.run_button, self.cancel_button))
        layout.addWidget(self.bar)
        layout.addWidget(self.status)
        self.legend = Legend()
        layout.addWidget(self.legend)
        layout.addStretch()
        layout.addWidget(notice)
        self._set_running(False)

    def _fill_models(self) -> None:
        from medpanoptic.bundle import list_bundles

        for info in list_bundles():
            self.model_box.addItem(info.name)

    def refresh_inputs(self, event: object = None) -> None:
        """Offer the studies and images that the viewer holds now, keeping the choice if it is still there."""
        chosen = self.image_box.currentText()
        self.inputs = find_inputs(self.viewer.layers)
        self.image_box.blockSignals(True)
        self.image_box.clear()
        self.image_box.addItems([i.title for i in self.inputs])
        self.image_box.setCurrentIndex(max(0, self.image_box.findText(chosen)))
        self.image_box.blockSignals(False)
        self._offer_series(self.image_box.currentIndex())
        self._set_running(self.worker is not None)

    def _offer_series(self, index: int) -> None:
        self.series_form.offer(self.inputs[index].candidates if 0 <= index < len(self.inputs) else {})

    def run(self, checked: bool = False) -> None:
        """Start the chosen model on the chosen image."""
        if self.worker is not None or not self.inputs:
            return
        chosen = self.inputs[self.image_box.currentIndex()]
        self.worker = create_worker(
            self._segment,
            chosen,
            self.series_form.handles(),
            self.model_box.currentText(),
            self.device_box.currentText(),
            _start_thread=False,
            _connect={"returned": partial(self._show_outcome, chosen), "finished": self._finish},
        )
        self._set_running(True)
        self.status.setText("Loading the model")
        self.worker.start()

    def _segment(self, chosen: Input, series: list[str], model: str, device: str) -> Outcome:
        from medpanoptic.segmenter import Segmenter

        # errors are returned, not raised: napari 0.9's own handler of a worker's errors fails on its argument;
        # warnings are shown from the result, so that other libraries' do not pop up over the image
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                choice: dict[str, Any] = {"series": series} if series else {}
                return Outcome(Segmenter.load(model, device=device)(chosen.image, progress=self._report, **choice))
        except Exception as error:
            return Outcome(error=error)

    def _report(self, fraction: float) -> None:
        """Take progress 0..1 from the Segmenter, in the worker thread; raise to stop it."""
        if self.worker is not None and self.worker.abort_requested:
            raise Cancelled
        self.progressed.emit(fraction)

    def cancel(self, checked: bool = False) -> None:
        """Ask the worker to stop at its next progress report."""
        if self.worker is not None:
            self.worker.quit()
            self.cancel_button.setEnabled(False)
            self.status.setText("Stopping after this window")

    def _show_progress(self, fraction: float) -> None:
        self.bar.setValue(round(100 * fraction))
        if self.worker is not None and not self.worker.abort_requested:
            self.status.setText("Segmenting")

    def _show_outcome(self, chosen: Input, outcome: Outcome) -> None:
        if outcome.result is not None:
            self._show_result(chosen, outcome.result)
        elif isinstance(outcome.error, MedpanopticError):
            self.status.setText("Failed")
            show_error(str(outcome.error))  # with its code
        elif outcome.error is not None:
            self.status.setText("Failed")
            raise outcome.error  # a bug: napari shows it with its traceback

    def _show_result(self, chosen: Input, result: PanopticResult) -> None:
        same = same_grid(chosen.volume.affine, result.affine, chosen.volume.shape, result.ids.shape)
        for data, attributes, _ in result_layers(result, chosen.title, chosen.volume if same else None):
            layer = self.viewer.add_labels(data, **attributes)
        self.legend.show_results([layer])
        go_to_largest(self.viewer, result)
        things = len(result.things)
        self.status.setText(f"{things} {'thing' if things == 1 else 'things'} found")
        for doubt in result.provenance.parameters.get("warnings", ()):
            show_warning(f"[{doubt['code']}] {doubt['text']}")

    def _finish(self) -> None:
        # a stopped worker returns nothing
        if self.worker is not None and self.worker.abort_requested:
            self.status.setText("Cancelled")
        self.worker = None
        self._set_running(False)

    def _set_running(self, running: bool) -> None:
        self.run_button.setEnabled(not running and bool(self.inputs) and self.model_box.count() > 0)
        self.cancel_button.setEnabled(running)
        self.bar.setTextVisible(running)
        if not running:
            self.bar.setValue(0)


def _row(*buttons: QPushButton) -> QHBoxLayout:
    row = QHBoxLayout()
    for button in buttons:
        row.addWidget(button)
    return row
