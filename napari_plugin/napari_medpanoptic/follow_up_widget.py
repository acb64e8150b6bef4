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
    QVBoxLayout,
    QWidget,
)

from medpanoptic.errors import MedpanopticError
from medpanoptic.match import FollowUp, Link
from medpanoptic.review import Prior, carry_over, propose
from napari_medpanoptic.compare_widget import fill, simple_table
from napari_medpanoptic.pair_click import PairClick
from napari_medpanoptic.pair_picker import PairPicker
from napari_medpanoptic.prior_marks import PriorMarks, match_again
from napari_medpanoptic.reading import Reading
from napari_medpanoptic.recist import Found, read_prior
from napari_medpanoptic.recist_box import RecistBox
from napari_medpanoptic.view import show_point

# VDT: volume doubling time
HEADINGS = ("relation", "prior", "now", "trend", "volume", "VDT d", "mm apart", "✓")
BUTTONS = (
    ("Confirm", "What is chosen above is one lesion", "confirm"),
    ("Part", "What is chosen above is not one lesion", "part"),
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
        self.pair = PairPicker()
        self.click = PairClick(reading, self.marks, self.pair.choose)
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
        layout = QVBoxLayout(self)
        for part in (self.open_button, self.said, self.bar, self.table, self.mark_box, self.pair):
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
        self.cancel()
        self.said.setText(f"{case.name}: reading the study and registering it; you can go on reading")
        self.bar.show()
        self.open_button.setEnabled(False)
        self.worker = create_worker(
            read_prior, case, image, self.reading.session.volume, _connect={"returned": partial(self._show, case)}
        )

    def end(self) -> None:
        """Let go of the canvases, and do not wait for a prior case that is still being read."""
        self.click.close()
        self.cancel()

    def cancel(self) -> None:
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
        self.pair.fill(pairs)
        self.marks.show(self.prior if self.mark_box.isChecked() else None)

    def _press(self, action: str, checked: bool = False) -> None:
        follow_up = self.pairs()
        if self.prior is None or follow_up is None:
            return
        if action == "carry":
            self.reading.attempt(partial(carry_over, self.reading.session, follow_up))
            return
        try:
            if action in ("confirm", "part"):
                chosen = follow_up.among(*self.pair.chosen())
                if not chosen:
                    self.reading.tell("Choose a prior lesion and one of now: click on them, on rows, or in the boxes")
                for pair in chosen:
                    follow_up = follow_up.confirm(*pair) if action == "confirm" else follow_up.part(*pair)
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
        if link.current_ids:
            self.reading.go(link.current_ids[0])
        else:  # gone: look where it was
            centre = next(p.centroid_mm for p in pairs.prior if p.id == link.prior_ids[0])
            grid = self.reading.grid
            at = grid.display_points_of_mm([centre])[0] * grid.scale + grid.translate
            show_point(self.reading.viewer, tuple(at.tolist()))
        self.pair.choose(link.prior_ids, link.current_ids)

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
    return link.relation, prior, now, link.trend, volume, days, distance, "✓" if link.confirmed else ""
