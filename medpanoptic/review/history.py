"""The edits of a review that count, and those taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medpanoptic.errors import ReviewError
from medpanoptic.review.edit import Edit, Row, edit_from_json
from medpanoptic.review.live_map import LiveMap


class History:
    """Two stacks of edits; ``put`` writes one into the map."""

    def __init__(self, put: Callable[[Edit], None]) -> None:
        self.done: list[Edit] = []
        self.undone: list[Edit] = []
        self._put = put

    def do(self, edit: Edit) -> None:
        """Make a new edit; what was taken back before can no longer be redone."""
        self._put(edit)
        self.done.append(edit)
        self.undone.clear()

    def undo(self) -> None:
        """Take back the last edit."""
        self._put(self.done[-1].inverse())
        self.undone.append(self.done.pop())

    def redo(self) -> None:
        """Make the edit that was taken back last again."""
        self._put(self.undone[-1])
        self.done.append(self.undone.pop())

    def replay(self, lines: Sequence[Mapping[str, Any]], live: LiveMap) -> None:
        """Do again what journal lines say. Raises ReviewError (JOURNAL-DAMAGED) where one does not fit the map."""
        for line in lines:
            where = f"line {line['number'] + 1} of the journal"
            if line["action"] in ("undo", "redo"):
                stack, step = (self.done, self.undo) if line["action"] == "undo" else (self.undone, self.redo)
                if not stack:
                    raise ReviewError("JOURNAL-DAMAGED", f"{where} takes back an edit that is not there")
                step()
            elif "rows" in line:
                edit = edit_from_json(line)
                if not np.array_equal(live.ids_at(edit.at), edit.before):
                    raise ReviewError("JOURNAL-DAMAGED", f"{where} does not fit the map before it")
                self.do(edit)


def signed_rows(lines: Sequence[Mapping[str, Any]]) -> dict[int, Row]:
    """Return what the table of a review said when it was last signed, lesions that were rejected then included.

    lines : the whole journal. The signed result holds segments only: words, drawn diameters and RECIST marks are here.
    """
    signed: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    done: list[Mapping[str, Any]] = []
    undone: list[Mapping[str, Any]] = []
    for line in lines:
        action = line["action"]
        if action in ("sign", "discard"):
            signed = {i: row for i, row in rows.items() if row is not None} if action == "sign" else signed
            rows, done, undone = dict(signed), [], []
        elif action in ("undo", "redo"):
            source, target = (done, undone) if action == "undo" else (undone, done)
            target.append(source.pop())
            side = 0 if action == "undo" else 1
            rows |= {i: pair[side] for i, pair in target[-1]["rows"].items()}
        elif "rows" in line:
            rows |= {i: pair[1] for i, pair in line["rows"].items()}
            done.append(line)
            undone.clear()
    return {int(i): Row.from_json(row) for i, row in signed.items()}


def last_id(lines: Sequence[Mapping[str, Any]]) -> int:
    """Return the largest id that a journal ever used, 0 for an empty one: no later lesion may take it."""
    return max((int(i) for line in lines for i in line.get("rows", ())), default=0)
