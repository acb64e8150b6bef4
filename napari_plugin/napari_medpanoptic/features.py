"""The table of the things layer, which the status bar reads, kept in step with the list. napari models only, no Qt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from medpanoptic.review.worklist import write_row

FEATURES = ("class", "score", "volume_mm3", "area_mm2", "long_axis_mm", "status", "note")


def show_features(layer: Any, table: pd.DataFrame, ids: Sequence[int] = ()) -> None:
    """Write the rows of ``ids`` of a worklist into ``layer.features``; all rows where lesions came or went."""
    columns, features = [name for name in FEATURES if name in table], layer.features
    if list(features) != ["index", *columns] or not np.array_equal(features["index"], table.index):
        layer.features = table[columns].reset_index()
        return
    shown = table[columns]
    for segment_id in ids:
        if segment_id in table.index:
            place = table.index.get_loc(segment_id)
            write_row(features, place, shown.iloc[place])
    layer.events.features()
