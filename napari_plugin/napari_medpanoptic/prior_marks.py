"""Where the lesions of a prior case were, as they were drawn then, in all planes. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpanoptic.errors import ReviewError
from medpanoptic.match import FollowUp, lesions_of, match_lesions
from medpanoptic.result import Box
from medpanoptic.review import Prior, Region, ReviewSession, prior_regions
from medpanoptic.review.regions import slices
from napari_medpanoptic.reading import Reading

# what became of them: blue for those that are still there, vermilion for those that are gone
COLORS = {"gone": (0.84, 0.37, 0.0, 1.0), "same": (0.34, 0.71, 0.91, 1.0)}


class PriorMarks:
    """One Labels layer with the prior lesions, in the space of the current study; the cursor tells id and relation."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.layer: Any = None
        self._known: tuple[Any, dict[int, Region]] | None = None  # of which registration: pairs change, outlines do not

    def show(self, prior: Prior | None) -> None:
        """Draw the lesions of a prior case; None takes them away."""
        viewer, grid = self.reading.viewer, self.reading.grid
        if self.layer is not None and self.layer in viewer.layers:
            viewer.layers.remove(self.layer)
        self.layer = None
        regions = {} if prior is None else self._regions(prior)
        if prior is None or not regions:
            return
        relation = {i: link.relation for link in prior.follow_up.links for i in link.prior_ids}
        box, labels = _together(regions)
        place, active = self.reading.beside("prior"), viewer.layers.selection.active
        corner = [where.start for where in grid.display_slices(box)]
        colors: dict[int | None, Any] = {i: COLORS.get(relation[i], COLORS["same"]) for i in regions}
        colors |= {None: COLORS["same"], 0: (0.0,) * 4}
        place["translate"] = grid.translate + np.array(corner) * grid.scale
        self.layer = viewer.add_labels(
            np.array(grid.order.to_display(labels), np.int32, order="C"),
            **place,
            colormap=colors,
            features=pd.DataFrame({"index": list(regions), "relation": [relation[i] for i in regions]}),
        )
        self.layer.contour = 1
        self.layer.editable = False
        viewer.layers.selection.active = active

    def lesion_at(self, point: Sequence[float]) -> int | None:
        """Return the prior lesion at viewer coordinates, if it is drawn there."""
        if self.layer is None or self.layer not in self.reading.viewer.layers or not self.layer.visible:
            return None
        return int(self.layer.get_value(point, world=True) or 0) or None

    def _regions(self, prior: Prior) -> dict[int, Region]:
        grid = self.reading.grid
        if self._known is None or self._known[0] is not prior.registration:
            self._known = prior.registration, prior_regions(prior, grid.affine, grid.shape)
        return self._known[1]


def _together(regions: dict[int, Region]) -> tuple[Box, NDArray[np.int32]]:
    """Return the box around all regions, and in it the id of each; where they overlap the later one."""
    ends = np.array([region.box for region in regions.values()])
    low, high = ends[..., 0].min(axis=0), ends[..., 1].max(axis=0)
    labels = np.zeros(high - low, np.int32)
    for lesion, region in regions.items():
        inner = tuple((a - start, b - start) for (a, b), start in zip(region.box, low.tolist(), strict=True))
        labels[slices(inner)][region.mask] = lesion
    return tuple(zip(low.tolist(), high.tolist(), strict=True)), labels


def match_again(session: ReviewSession, pairs: FollowUp) -> FollowUp:
    """Propose pairs for the lesions as they are now; confirmed pairs of lesions that are still there stay confirmed."""
    fresh = match_lesions(pairs.prior, lesions_of(session.freeze()), days=pairs.days)
    for pair in sorted(pairs.confirmed):
        with suppress(ReviewError):  # MATCH-ID: the reader took that lesion away
            fresh = fresh.confirm(*pair)
    return fresh
