"""The choice between several series of one modality in a folder."""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtWidgets import QComboBox, QFormLayout, QWidget

from medpanoptic.volume import Volume
from napari_medpanoptic.inputs import candidate_text


class SeriesForm(QWidget):
    """One box per modality of which a folder holds several series; with nothing to choose it is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.form = QFormLayout(self)
        self.form.setContentsMargins(0, 0, 0, 0)
        self.boxes: list[QComboBox] = []
        self._offered: dict[str, list[str]] = {}
        self.hide()

    def offer(self, candidates: Mapping[str, Mapping[str, Volume]]) -> None:
        """Offer the series of each modality; what is offered already keeps its choice."""
        offered = {modality: list(series) for modality, series in candidates.items()}
        if offered == self._offered:
            return
        self._offered = offered
        while self.form.rowCount():
            self.form.removeRow(0)
        self.boxes = []
        for modality, series in candidates.items():
            box = QComboBox()
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            for handle, volume in series.items():
                box.addItem(candidate_text(handle, volume), handle)
            box.setEnabled(len(series) > 1)
            self.form.addRow(modality, box)
            self.boxes.append(box)
        self.setVisible(bool(candidates))

    def handles(self) -> list[str]:
        """Return the chosen series."""
        return [str(box.currentData()) for box in self.boxes]
