"""The two boxes of a pair: which prior lesion, which one of now. A row, a click in the picture or the box chooses."""

from __future__ import annotations

from collections.abc import Iterable

from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QWidget

from medpanoptic.match import FollowUp, Lesion

Ids = tuple[int, ...]
NOBODY = "–"


class PairPicker(QWidget):
    """Each box holds the lesions of its time with their volumes; several that belong together are one entry."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.current = QComboBox(), QComboBox()
        self.prior.setToolTip("Prior lesion: click on its row, on its outline in the picture, or choose it here")
        self.current.setToolTip("Lesion of now: click on its row, on it in the picture, or choose it here")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        for text, box in (("prior", self.prior), ("now", self.current)):
            row.addWidget(QLabel(text))
            row.addWidget(box, stretch=1)
        self.fill(None)

    def fill(self, pairs: FollowUp | None) -> None:
        """Offer the lesions of both times; what is chosen stays chosen where it is still there."""
        before = self.chosen()
        for box, lesions in (
            (self.prior, pairs.prior if pairs else ()),
            (self.current, pairs.current if pairs else ()),
        ):
            box.clear()
            box.addItem(NOBODY, ())
            for lesion in sorted(lesions, key=lambda each: each.id):
                box.addItem(lesion_text(lesion), (lesion.id,))
        self.choose(*before)

    def choose(self, prior_ids: Iterable[int], current_ids: Iterable[int]) -> None:
        """Choose lesions; a side without any stays as it is, so that two clicks make a pair."""
        for box, ids in ((self.prior, tuple(prior_ids)), (self.current, tuple(current_ids))):
            known = {box.itemData(i) for i in range(box.count())}
            if not ids or any((i,) not in known for i in ids):
                continue  # none, or one that is new since the lesions were matched
            if ids not in known:
                box.addItem(" + ".join(map(str, ids)), ids)
            box.setCurrentIndex(next(i for i in range(box.count()) if box.itemData(i) == ids))

    def chosen(self) -> tuple[Ids, Ids]:
        """Return the chosen prior and current ids; () for none."""
        return tuple(self.prior.currentData() or ()), tuple(self.current.currentData() or ())


def lesion_text(lesion: Lesion) -> str:
    """Return what tells one lesion from the next: 5: 2.31 ml."""
    return f"{lesion.id}: {lesion.volume_mm3 / 1000:.2f} ml"
