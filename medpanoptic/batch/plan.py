"""What is to do: studies that are new, stale or not done go into the queue of the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medpanoptic.batch.ledger import Ledger
from medpanoptic.batch.outputs import is_whole, read_marker, results
from medpanoptic.batch.policy import is_settled
from medpanoptic.batch.scan import StudyIndex
from medpanoptic.batch.settings import FAILED, FINISHED, OPEN, Folders, Study


@dataclass(frozen=True)
class Wanted:
    """What a result must have been made with to be current, and whether refused studies are tried again."""

    run: str
    model_hash: str
    parameter_hash: str
    again: bool = False


def plan(index: StudyIndex, ledger: Ledger, folders: Folders, wanted: Wanted) -> int:
    """Queue what is to do; return how many studies are settled. Outputs are hashed to know that they are whole.

    Whatever is in the queue of an earlier run and not among the inputs any more fails with INPUT-GONE.
    """
    settled = 0
    for handle in index.handles():
        study, row = index.study(handle), ledger.get(handle)
        marker = current_marker(study, row, folders, wanted)
        if marker is not None and marker["fingerprint"] == study.fingerprint and (row is None or row["state"] in OPEN):
            # done by a run that ended before it could say so
            ledger.adopt(handle, {**marker_fields(marker), "files": len(study.files), "bytes": study.bytes})
            settled += 1
        elif row is not None and is_settled(
            row["state"],
            row["fingerprint"] == study.fingerprint,
            is_current(row, wanted),
            marker is not None,
            wanted.again,
        ):
            settled += 1
        else:
            ledger.queue(study, wanted.run, "" if marker is None else marker["input_digest"])
    for state in OPEN:
        for handle in ledger.handles(state):
            if handle not in index:
                ledger.set(handle, state=FAILED, code="INPUT-GONE", stage="scan")
    return settled


def is_current(row: Mapping[str, Any], wanted: Wanted) -> bool:
    """Tell whether a row or a marker is of the same model and parameters."""
    return bool(row["model_hash"] == wanted.model_hash and row["parameter_hash"] == wanted.parameter_hash)


def current_marker(
    study: Study, row: Mapping[str, Any] | None, folders: Folders, wanted: Wanted
) -> dict[str, Any] | None:
    """Return the marker of a result that is whole and of this model and parameters, None if there is none."""
    folder = folders.results / study.handle
    marker = read_marker(folder)
    if marker is None or not is_current(marker, wanted) or not is_whole(folder, marker["outputs"]):
        return None
    if row is not None and row["state"] in FINISHED and row["input_digest"] != marker["input_digest"]:
        return None
    return marker


def rebuild(ledger: Ledger, folders: Folders) -> int:
    """Fill a new ledger from the markers of the result folders; return how many there were."""
    count = 0
    for marker in results(folders.results):
        ledger.adopt(str(marker["study"]), marker_fields(marker))
        count += 1
    return count


def marker_fields(marker: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a study's row that its marker knows."""
    names = ("kind", "state", "fingerprint", "input_digest", "model_hash", "parameter_hash", "things", "fallback")
    return {**{name: marker[name] for name in names}, "outputs": json.dumps(marker["outputs"], sort_keys=True)}
