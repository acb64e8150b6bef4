"""What follows from an attempt: an end, or another try. No clock, no process, no disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from medpanoptic.batch.settings import FAILED, FINISHED, QUARANTINED, REFUSED, Limits, Outcome

# windows 1, 1/2, 1/4 as wide as the model's
_SMALLEST_DIVISOR = 4


@dataclass(frozen=True)
class Tries:
    """What a study has been through. ``failures`` : attempts that count; ``divisor`` : of the next attempt."""

    failures: int = 0
    divisor: int = 1


@dataclass(frozen=True)
class Verdict:
    """state : how the study ends, "" to try again after ``delay_s`` with ``tries``. stop : code that ends the run."""

    state: str = ""
    delay_s: float = 0.0
    tries: Tries = field(default_factory=Tries)
    stop: str = ""


def decide(outcome: Outcome, tries: Tries, limits: Limits) -> Verdict:
    """Return what follows.

    The input's fault ends at once. Short memory goes down a ladder of narrower windows. What may pass, a disk that
    cannot be written and a dead child are tried ``limits.attempts`` times; then a study that kills its children is
    quarantined, and a disk or a set-up that fails ends the run.
    """
    if outcome.state:
        return Verdict(outcome.state)
    if outcome.kind == "refused":
        return Verdict(REFUSED)
    if outcome.kind == "fatal":
        return Verdict(FAILED, stop=outcome.code)
    if outcome.kind == "memory" and tries.divisor < _SMALLEST_DIVISOR:
        return Verdict(tries=Tries(tries.failures, tries.divisor * 2))
    if outcome.kind in {"failed", "memory"}:
        return Verdict(FAILED)
    failures = tries.failures + 1
    if failures < limits.attempts:
        return Verdict(delay_s=limits.backoff_s * 2 ** (failures - 1), tries=Tries(failures, tries.divisor))
    if outcome.kind == "crash":
        return Verdict(QUARANTINED)
    return Verdict(FAILED, stop=outcome.code if outcome.kind == "output" else "")


def is_settled(state: str, same_input: bool, same_model: bool, whole: bool, again: bool) -> bool:
    """Tell whether what the ledger says of a study still holds, so that nothing is to do.

    same_input : no file was touched. whole : its outputs are there and have their hashes.
    again : refused and quarantined studies are tried once more.
    """
    if not (same_input and same_model):
        return False
    if state in FINISHED:
        return whole
    return state in {REFUSED, QUARANTINED} and not again
