"""RECIST 1.1 in the Follow-up dock: targets, sum of diameters, response."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

from qtpy.QtWidgets import QComboBox, QFormLayout, QGroupBox, QLabel, QLineEdit, QPushButton

from medpanoptic.errors import MedpanopticError
from medpanoptic.match import FollowUp
from medpanoptic.match.recist import NonTarget
from medpanoptic.review.worklist import MEASURE_AT_ONCE
from napari_medpanoptic.compare_widget import fill, simple_table
from napari_medpanoptic.reading import Reading
from napari_medpanoptic.recist import Baseline, Evaluation, evaluate, proposed

RESPONSES = {
    "CR": "complete response",
    "PR": "partial response",
    "SD": "stable disease",
    "PD": "progressive disease",
    "NE": "not evaluable",
}
NON_TARGETS: tuple[NonTarget, ...] = tuple(sorted(get_args(NonTarget), key=lambda name: name != "none"))


class RecistBox(QGroupBox):
    """Follows the review and, once one is open, its prior case. ``follow_up`` gives the pairs as they are now."""

    def __init__(self, reading: Reading, follow_up: Callable[[], FollowUp | None]) -> None:
        super().__init__("RECIST 1.1")
        self.reading, self.follow_up = reading, follow_up
        self.baseline: Baseline | None = None
        self.table = simple_table(("target", "organ", "mm before", "mm now"))
        self.propose = QPushButton("Propose targets")
        self.propose.setToolTip("The largest measurable lesions, five at most, two an organ: name the organs first")
        self.propose.clicked.connect(self._propose)
        self.take_over = QPushButton("Targets of the prior case")
        self.take_over.setToolTip("Give the matched lesions organ, node and target of the prior ones")
        self.take_over.clicked.connect(self._take_over)
        self.non_target = QComboBox()
        self.non_target.addItems(NON_TARGETS)
        self.non_target.setToolTip("Your judgement of the lesions that are no targets")
        self.non_target.activated.connect(self.refresh)
        self.between = QLineEdit()
        self.between.setPlaceholderText("sums of the times between, mm: 42.5 38")
        self.between.editingFinished.connect(self.refresh)
        self.said = QLabel()
        self.said.setWordWrap(True)
        form = QFormLayout(self)
        form.addRow(self.table)
        form.addRow(self.propose, self.take_over)
        form.addRow("Other lesions", self.non_target)
        form.addRow("Nadir", self.between)
        form.addRow(self.said)
        reading.watchers.append(self.refresh)

    def begin(self, baseline: Baseline) -> None:
        """Compare with these findings of a prior case from now on."""
        self.baseline = baseline
        self.refresh()

    def refresh(self, event: Any = None) -> None:
        """Show sums and response as they are now; a box that is not seen does no work."""
        if not self.isVisible():
            return
        pairs = self.follow_up()
        links = pairs.links if pairs is not None else []
        non_target = NON_TARGETS[self.non_target.currentIndex()]
        try:
            between = [float(word) for word in self.between.text().replace(";", " ").split()]
            found = evaluate(self.reading.session, self.baseline, links, between, non_target)
        except ValueError:
            self.said.setText("The sums between are numbers in mm with spaces between them, such as 42.5 38")
            return
        except MedpanopticError as error:
            self.said.setText(str(error))
            return
        fill(self.table, found.rows)
        self.take_over.setEnabled(bool(links) and self.baseline is not None and not self.reading.locked)
        self.propose.setEnabled(not self.reading.locked)
        self.said.setText(evaluation_text(found))

    def showEvent(self, event: Any) -> None:  # noqa: N802  (Qt's name)
        """Catch up with what happened while it was not seen."""
        super().showEvent(event)
        self.refresh()

    def _propose(self, checked: bool = False) -> None:
        session = self.reading.session
        if len(session.things) > MEASURE_AT_ONCE:
            self.reading.tell(f"Targets are proposed among {MEASURE_AT_ONCE} lesions at most")
            return
        chosen = set(proposed(session))
        for segment_id in session.things:
            self.reading.recist(segment_id, is_target=segment_id in chosen)

    def _take_over(self, checked: bool = False) -> None:
        pairs = self.follow_up()
        if pairs is None or self.baseline is None:
            return
        known = {f.id: f for f in self.baseline.findings}
        for link in pairs.links:
            prior = next((known[i] for i in link.prior_ids if i in known), None)
            for segment_id in link.current_ids:
                if prior is not None and segment_id in self.reading.session.things:
                    is_target = bool(self.baseline.targets & set(link.prior_ids))
                    self.reading.recist(segment_id, organ=prior.organ, is_node=prior.is_node, is_target=is_target)


def evaluation_text(found: Evaluation) -> str:
    """Return an evaluation in words."""
    lines = []
    if not math.isnan(found.now_mm):
        before = "" if math.isnan(found.before_mm) else f"{found.before_mm:.1f} mm before, "
        lines.append(f"Sum of diameters: {before}{found.now_mm:.1f} mm now")
    elif found.rows:
        lines.append("Sum of diameters: a target cannot be evaluated")
    else:
        lines.append("No targets: mark them with Shift+T, or have them proposed")
    if found.response:
        lines.append(f"Targets: {found.response}, {RESPONSES[found.response]}")
        new = f" (with {found.new} new)" if found.new else ""
        lines.append(f"Overall: {found.overall}, {RESPONSES[found.overall]}{new}")
    return "\n".join([*lines, *found.wrong])
