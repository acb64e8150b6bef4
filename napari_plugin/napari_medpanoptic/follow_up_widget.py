"""The Follow-up dock: a prior case, pairs proposed and confirmed, growth, RECIST sum and response."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from napari.qt.threading import FunctionWorker, create_worker
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QGridLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from medpanoptic.errors import MedpanopticError
from medpanoptic.match import FollowUp, Link
from medpanoptic.review import Prior, carry_over, propose
from napari_medpanoptic.compare_widget import fill, simple_table
from napari_medpanoptic.prior_marks import PriorMarks, match_again
from napari_medpanoptic.reading import Reading
from napari_medpanoptic.recist import Found, read_prior
from napari_medpanoptic.recist_box import RecistBox
from napari_medpanoptic.view import show_point

# VDT: volume doubling time
HEADINGS = ("relation", "prior", "now", "trend", "volume", "VDT d", "mm apart", "confirmed")
BUTTONS = (
    ("Confirm", "The pair in the boxes below is one lesion", "confirm"),
    ("Part", "The pair in the boxes below is not one lesion", "part"),
    ("Confirm all", "All proposed pairs are right", "all"),
    ("Match again", "Propose pairs for the lesions as they are now; what you confirmed stays", "again"),
    ("Carry over", "Give confirmed lesions the tracking UID of the prior ones", "carry"),
)


class FollowUpWidget(QWidget):
    """Lesions of two times: proposals come from the library, the reader confirms, parts or pairs by hand."""

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self.reading = reading
        self.prior: Prior | None = None
        self.marks = PriorMarks(reading)
        self.open_button = QPushButton("Open a prior case …")
        self.open_button.clicked.connect(self._ask)
        self.said = QLabel("No prior case is open")
        self.said.setWordWrap(True)
        self.worker: FunctionWorker | None = None
        self.bar = QProgressBar()
        self.bar.setRange(0, 0)  # how long a registration takes is not known beforehand
        self.bar.hide()
        self.table = simple_table(HEADINGS)
        self.table.cellClicked.connect(self._jump)
        self.prior_id, self.current_id = QSpinBox(), QSpinBox()
        for box in (self.prior_id, self.current_id):
            box.setMaximum(2**31 - 1)
        self.mark_box = QCheckBox("outline the prior lesions in the picture (blue; red: gone)")
        self.mark_box.toggled.connect(self.refresh)
        self.recist = RecistBox(reading, self.pairs)
        grid = QGridLayout()
        self.buttons: dict[str, QPushButton] = {}
        for place, (text, tip, action) in enumerate(BUTTONS):
            button = self.buttons[action] = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(partial(self._press, action))
            grid.addWidget(button, place // 3, place % 3)
        for column, widget in enumerate((QLabel("prior"), self.prior_id, QLabel("now"), self.current_id)):
            grid.addWidget(widget, 2, column)
        layout = QVBoxLayout(self)
        for part in (self.open_button, self.said, self.bar, self.table, self.mark_box):
            layout.addWidget(part)
        layout.addLayout(grid)
        layout.addWidget(self.recist)

    def pairs(self) -> FollowUp | None:
        """Return the pairs as they are now, None without a prior case."""
        return None if self.prior is None else self.prior.follow_up

    def open(self, case: Path, image: Path | None = None) -> None:
        """Read a prior case and show what belongs together. image : its study; both are registered in a worker."""
        if image is None:
            self._show(case, read_prior(case, None, None))
            return
        self.end()
        self.said.setText(f"{case.name}: reading the study and registering it; you can go on reading")
        self.bar.show()
        self.open_button.setEnabled(False)
        self.worker = create_worker(
            read_prior, case, image, self.reading.session.volume, _connect={"returned": partial(self._show, case)}
        )

    def end(self) -> None:
        """Do not wait for a prior case that is still being read."""
        if self.worker is not None:
            self.worker.returned.disconnect()
            self.worker = None

    def closeEvent(self, event: Any) -> None:  # noqa: N802  (Qt's name)
        """Let go."""
        self.end()
        super().closeEvent(event)

    def _show(self, case: Path, found: Found) -> None:
        self.worker = None
        self.bar.hide()
        self.open_button.setEnabled(True)
        if isinstance(found, MedpanopticError):
            self.said.setText(str(found))
            return
        result, registration, volume, baseline = found
        try:
            self.prior = propose(self.reading.session, result, registration, volume)
        except MedpanopticError as error:
            self.said.setText(str(error))
            return
        way = "in one frame of reference" if registration.method == "frame" else "registered rigidly"
        if volume is None:
            way = "taken to lie in one space, since the prior study is not open"
        days = self.prior.follow_up.days
        since = "" if days is None else f", {days:.0f} days before"
        self.said.setText(f"{case.name}: {len(self.prior.follow_up.prior)} lesions{since}, {way}")
        self.refresh()
        self.recist.begin(baseline)

    def refresh(self, event: Any = None) -> None:
        """Show the links as they are now."""
        pairs = self.pairs()
        links = pairs.links if pairs is not None else []
        fill(self.table, [link_cells(link) for link in links])
        self.marks.show(pairs if self.mark_box.isChecked() else None)

    def _press(self, action: str, checked: bool = False) -> None:
        follow_up = self.pairs()
        if self.prior is None or follow_up is None:
            return
        pair = self.prior_id.value(), self.current_id.value()
        if action == "carry":
            self.reading.attempt(partial(carry_over, self.reading.session, follow_up))
            return
        try:
            if action == "confirm":
                follow_up = follow_up.confirm(*pair)
            elif action == "part":
                follow_up = follow_up.part(*pair)
            elif action == "again":
                follow_up = match_again(self.reading.session, follow_up)
            else:
                for each in sorted(follow_up.pairs):
                    follow_up = follow_up.confirm(*each)
        except MedpanopticError as error:
            self.said.setText(str(error))
            return
        self.prior = replace(self.prior, follow_up=follow_up)
        self.refresh()
        self.recist.refresh()

    def _jump(self, row: int, column: int) -> None:
        pairs = self.pairs()
        if pairs is None:
            return
        link = pairs.links[row]
        self.prior_id.setValue(link.prior_ids[0] if link.prior_ids else 0)
        self.current_id.setValue(link.current_ids[0] if link.current_ids else 0)
        if link.current_ids:
            self.reading.go(link.current_ids[0])
        else:  # gone: look where it was
            centre = next(p.centroid_mm for p in pairs.prior if p.id == link.prior_ids[0])
            grid = self.reading.grid
            at = grid.display_points_of_mm([centre])[0] * grid.scale + grid.translate
            show_point(self.reading.viewer, tuple(at.tolist()))

    def _ask(self, checked: Any = False) -> None:
        case = QFileDialog.getExistingDirectory(self, "The prior case: a folder with segments.json")
        if case:
            image = QFileDialog.getExistingDirectory(self, "Its study (Cancel: both lie in one space)")
            self.open(Path(case), Path(image) if image else None)


def link_cells(link: Link) -> tuple[str, ...]:
    """Return the cells of a link; what is not known is empty."""
    prior, now = (" + ".join(map(str, ids)) for ids in (link.prior_ids, link.current_ids))
    volume = "" if math.isnan(link.volume_change) else f"{100 * link.volume_change:+.0f} %"
    distance, days = ("" if math.isnan(v) else f"{v:.0f}" for v in (link.distance_mm, link.doubling_days))
    return link.relation, prior, now, link.trend, volume, days, distance, "yes" if link.confirmed else ""
