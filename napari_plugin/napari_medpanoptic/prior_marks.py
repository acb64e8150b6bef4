"""Where the lesions of a prior case were: outlines of balls of their volumes, seen in all planes. No Qt."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpanoptic.errors import ReviewError
from medpanoptic.geometry import to_index
from medpanoptic.match import FollowUp, Lesion, lesions_of, match_lesions
from medpanoptic.result import Box
from medpanoptic.review import ReviewSession, stroke
from medpanoptic.review.regions import Region, slices
from napari_medpanoptic.reading import Reading

# what became of them: blue for those that are still there, vermilion for those that are gone
COLORS = {"gone": (0.84, 0.37, 0.0, 1.0), "same": (0.34, 0.71, 0.91, 1.0)}


class PriorMarks:
    """One Labels layer with the prior lesions, in the space of the current study; the cursor tells id and relation."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.layer: Any = None

    def show(self, pairs: FollowUp | None) -> None:
        """Draw the prior lesions of these pairs; None takes them away."""
        viewer, grid = self.reading.viewer, self.reading.grid
        if self.layer is not None and self.layer in viewer.layers:
            viewer.layers.remove(self.layer)
        self.layer = None
        balls = {} if pairs is None else self._balls(pairs.prior)
        if pairs is None or not balls:
            return
        relation = {i: link.relation for link in pairs.links for i in link.prior_ids}
        box, labels = _together(balls)
        place, active = self.reading.beside("prior"), viewer.layers.selection.active
        corner = [where.start for where in grid.display_slices(box)]
        colors: dict[int | None, Any] = {i: COLORS.get(relation[i], COLORS["same"]) for i in balls}
        colors |= {None: COLORS["same"], 0: (0.0,) * 4}
        place["translate"] = grid.translate + np.array(corner) * grid.scale
        self.layer = viewer.add_labels(
            np.array(grid.order.to_display(labels), np.int32, order="C"),
            **place,
            colormap=colors,
            features=pd.DataFrame({"index": list(balls), "relation": [relation[i] for i in balls]}),
        )
        self.layer.contour = 1
        self.layer.editable = False
        viewer.layers.selection.active = active

    def _balls(self, lesions: tuple[Lesion, ...]) -> dict[int, Region]:
        """Return {prior id: ball} in native voxels; what lies outside the current image is left out."""
        grid = self.reading.grid
        found = {}
        for lesion in lesions:
            middle = to_index([lesion.centroid_mm], grid.affine, len(grid.shape))
            ball = stroke(middle, lesion.radius_mm, grid.affine, grid.shape)
            if ball.mask.any():
                found[lesion.id] = ball
        return found


def _together(balls: dict[int, Region]) -> tuple[Box, NDArray[np.int32]]:
    """Return the box around all balls, and in it the id of each; where they overlap the later one."""
    ends = np.array([ball.box for ball in balls.values()])
    low, high = ends[..., 0].min(axis=0), ends[..., 1].max(axis=0)
    labels = np.zeros(high - low, np.int32)
    for lesion, ball in balls.items():
        inner = tuple((a - start, b - start) for (a, b), start in zip(ball.box, low.tolist(), strict=True))
        labels[slices(inner)][ball.mask] = lesion
    return tuple(zip(low.tolist(), high.tolist(), strict=True)), labels


def match_again(session: ReviewSession, pairs: FollowUp) -> FollowUp:
    """Propose pairs for the lesions as they are now; confirmed pairs of lesions that are still there stay confirmed."""
    fresh = match_lesions(pairs.prior, lesions_of(session.freeze()), days=pairs.days)
    for pair in sorted(pairs.confirmed):
        with suppress(ReviewError):  # MATCH-ID: the reader took that lesion away
            fresh = fresh.confirm(*pair)
    return fresh
