"""Where the lesions of a prior case were, as named points in the picture. napari models only, no Qt."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from medpanoptic.errors import ReviewError
from medpanoptic.match import FollowUp, lesions_of, match_lesions
from medpanoptic.review import ReviewSession
from napari_medpanoptic.reading import Reading

# what became of them, told apart by the colour blind and by the word beside the point
COLORS = {"gone": "#d55e00", "same": "#56b4e9"}


class PriorMarks:
    """One Points layer with the middles of the prior lesions, in the space of the current study."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.layer: Any = None

    def show(self, pairs: FollowUp | None) -> None:
        """Draw the prior lesions of these pairs; None takes them away."""
        viewer, grid = self.reading.viewer, self.reading.grid
        if self.layer is not None and self.layer in viewer.layers:
            viewer.layers.remove(self.layer)
        self.layer = None
        if pairs is None or not pairs.prior:
            return
        relation = {i: link.relation for link in pairs.links for i in link.prior_ids}
        active = viewer.layers.selection.active
        self.layer = viewer.add_points(
            grid.display_points_of_mm([p.centroid_mm for p in pairs.prior]),
            **self.reading.beside("prior"),
            size=3,
            out_of_slice_display=True,
            face_color=[COLORS.get(relation[p.id], COLORS["same"]) for p in pairs.prior],
            text={"string": [f"{p.id} {relation[p.id]}" for p in pairs.prior], "color": "white", "size": 9},
        )
        self.layer.editable = False
        viewer.layers.selection.active = active


def match_again(session: ReviewSession, pairs: FollowUp) -> FollowUp:
    """Propose pairs for the lesions as they are now; confirmed pairs of lesions that are still there stay confirmed."""
    fresh = match_lesions(pairs.prior, lesions_of(session.freeze()), days=pairs.days)
    for pair in sorted(pairs.confirmed):
        with suppress(ReviewError):  # MATCH-ID: the reader took that lesion away
            fresh = fresh.confirm(*pair)
    return fresh
