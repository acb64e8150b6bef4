"""The Follow-up dock: a prior case, pairs proposed and confirmed, growth, RECIST sum and response."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QFileDialog, QGridLayout, QLabel, QPushButton, QSpinBox, QVBoxLayout, QWidget

from medpanoptic.errors import MedpanopticError
from medpanoptic.io import read_study
from medpanoptic.match import Link
from medpanoptic.review import Prior, carry_over, open_prior
from napari_medpanoptic.compare_widget import fill, simple_table
from napari_medpanoptic.reading import Reading

HEADINGS = ("relation", "prior", "now", "mm apart", "volume", "doubling days", "confirmed")


class FollowUpWidget(QWidget):
    """Lesions of two times: proposals come from the library, the reader confirms, parts or pairs by hand."""

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self.reading = reading
        self.prior: Prior | None = None
        self.open_button = QPushButton("Open a prior case …")
        self.open_button.clicked.connect(self._ask)
        self.said = QLabel("No prior case is open")
        self.said.setWordWrap(True)
        self.table = simple_table(HEADINGS)
        self.table.cellClicked.connect(self._jump)
        self.prior_id, self.current_id = QSpinBox(), QSpinBox()
        for box in (self.prior_id, self.current_id):
            box.setMaximum(2**31 - 1)
        grid = QGridLayout()
        for place, (text, tip, action) in enumerate(
            (
                ("Confirm", "The pair in the boxes below is one lesion", "confirm"),
                ("Part", "The pair in the boxes below is not one lesion", "part"),
                ("Confirm all", "All proposed pairs are right", "all"),
                ("Carry over", "Give confirmed lesions the tracking UID of the prior ones", "carry"),
            )
        ):
            button = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(partial(self._press, action))
            grid.addWidget(button, 0, place)
        for column, widget in enumerate((QLabel("prior"), self.prior_id, QLabel("now"), self.current_id)):
            grid.addWidget(widget, 1, column)
        layout = QVBoxLayout(self)
        for part in (self.open_button, self.said, self.table):
            layout.addWidget(part)
        layout.addLayout(grid)

    def open(self, case: Path, image: Path | None = None) -> None:
        """Read a prior case and show what belongs together."""
        try:
            volume = read_study(image) if image is not None else None
            self.prior = open_prior(self.reading.session, case, volume)
        except MedpanopticError as error:
            self.said.setText(str(error))
            return
        way = "in one frame of reference" if self.prior.registration.method == "frame" else "registered rigidly"
        self.said.setText(f"{case.name}: {len(self.prior.follow_up.prior)} lesions, {way}")
        self.refresh()

    def refresh(self) -> None:
        """Show the links as they are now."""
        links = self.prior.follow_up.links if self.prior is not None else []
        fill(self.table, [link_cells(link) for link in links])

    def _press(self, action: str, checked: bool = False) -> None:
        if self.prior is None:
            return
        follow_up = self.prior.follow_up
        pair = self.prior_id.value(), self.current_id.value()
        if action == "carry":
            self.reading.attempt(lambda: carry_over(self.reading.session, follow_up))
            return
        try:
            if action == "confirm":
                follow_up = follow_up.confirm(*pair)
            elif action == "part":
                follow_up = follow_up.part(*pair)
            else:
                for each in sorted(follow_up.pairs):
                    follow_up = follow_up.confirm(*each)
        except MedpanopticError as error:
            self.said.setText(str(error))
            return
        self.prior = Prior(self.prior.result, self.prior.registration, follow_up)
        self.refresh()

    def _jump(self, row: int, column: int) -> None:
        if self.prior is None:
            return
        link = self.prior.follow_up.links[row]
        self.prior_id.setValue(link.prior_ids[0] if link.prior_ids else 0)
        self.current_id.setValue(link.current_ids[0] if link.current_ids else 0)
        if link.current_ids:
            self.reading.go(link.current_ids[0])

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
    return link.relation, prior, now, distance, volume, days, "yes" if link.confirmed else ""
