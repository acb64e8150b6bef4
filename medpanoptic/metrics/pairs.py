"""Result folders and truths of the same name, read one case at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medpanoptic.errors import DataError, ReadError
from medpanoptic.geometry import same_grid
from medpanoptic.io import read_result
from medpanoptic.io.result_files import TABLE, is_calibrated, read_json
from medpanoptic.metrics.comparison import CaseScore, score_case
from medpanoptic.metrics.truth import Truth, find_truth, truth_of
from medpanoptic.result import PanopticResult


@dataclass(frozen=True)
class Pair:
    """A case with prediction and truth, not read yet."""

    name: str
    folder: Path
    read_truth: Callable[[], Truth]

    def read(self) -> tuple[PanopticResult, Truth]:
        """Return both. Raises DataError (DATA-GRID) if they are not on one grid."""
        result, truth = read_result(self.folder), self.read_truth()
        if truth.ids.shape != result.ids.shape or (
            truth.affine is not None
            and not same_grid(truth.affine, result.affine, truth.ids.shape, result.ids.shape, 0.1)
        ):
            raise DataError(
                "DATA-GRID",
                f"case {self.name}: result {result.ids.shape} and truth {truth.ids.shape} are not on one grid",
            )
        return result, truth

    def score(self) -> CaseScore:
        """Read and compare both."""
        result, truth = self.read()
        scores = {s.id: s.score for s in result.segments}
        return score_case(self.name, truth_of(result), truth, scores, is_calibrated(result))


@dataclass(frozen=True)
class Pairs:
    """The cases found. unseen : true cases without a prediction."""

    found: tuple[Pair, ...]
    unseen: int


def _class_names(table: Path) -> set[str]:
    try:
        return {str(entry["name"]) for entry in read_json(table)["classes"]}
    except (KeyError, TypeError):
        raise ReadError("RESULT-FORMAT", f"{table} lacks or garbles its classes") from None


def find_pairs(predictions: Path, truth: Path) -> Pairs:
    """Pair result folders with truths of the same name.

    Raises ReadError: NOT-FOUND, RESULT-FORMAT; DataError: DATA-CASES, DATA-LAYOUT.
    """
    for place in (predictions, truth):
        if not place.exists():
            raise ReadError("NOT-FOUND", f"{place} does not exist")
    root = predictions.resolve()
    folders = {p.parent.name: p.parent for p in sorted([*root.glob(TABLE), *root.glob(f"*/{TABLE}")])}
    if not folders:
        raise DataError("DATA-CASES", f"{predictions} has no result folder (CASE/segments.json); run 'segment' first")
    known = {name for folder in folders.values() for name in _class_names(folder / TABLE)}
    cases = find_truth(truth, known)
    alone = [name for name in folders if name not in cases]
    if alone:
        raise DataError(
            "DATA-CASES", f"{len(alone)} of {len(folders)} results have no truth in {truth}, first: {alone[:3]}"
        )
    found = tuple(Pair(name, folder, cases[name]) for name, folder in folders.items())
    return Pairs(found, len(cases) - len(folders))
