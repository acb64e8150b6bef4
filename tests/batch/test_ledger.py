"""The ledger: locked, of another version, on a clock that jumps; what follows from an attempt."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpanoptic.batch.keys import content_digest, fingerprint, load_key, study_handle
from medpanoptic.batch.ledger import VERSION, Ledger
from medpanoptic.batch.policy import Tries, decide, is_settled
from medpanoptic.batch.settings import FAILED, QUARANTINED, REFUSED, Limits, Outcome, Study, Summary
from medpanoptic.errors import BatchError

Note = Callable[[str, str, str], None]
STUDY = Study("ab" * 10, "dicom", (("/data/x", 10, 1),), "f")


def test_a_locked_ledger_is_named(tmp_path: Path, outcome: Note) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path, busy_s=0.1)) as ledger, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BatchError, match=r"LEDGER-LOCKED.*--resume"):
            ledger.begin_run("one")
        assert ledger.counts()["queued"] == 0  # readers do not wait
        other.execute("ROLLBACK")
        ledger.begin_run("one")
    outcome(
        "ledger locked",
        "LEDGER-LOCKED after 30 s; readers are not held up",
        "another program's transaction",
    )


def test_a_clock_that_jumps_moves_no_duration(tmp_path: Path, outcome: Note) -> None:
    times = iter([1e9, 5e8, 2e9, 0.0])
    with closing(Ledger(tmp_path / "ledger.sqlite", clock=lambda: next(times))) as ledger:
        ledger.begin_run("one")
        ledger.queue(STUDY, "one", "")
        ledger.start(STUDY.handle)
        ledger.attempted(STUDY.handle, "one", Outcome("done", duration_s=1.5), state="done", duration_s=1.5)
        ledger.end_run("one", "", 2.5, 1)
        row, run = ledger.get(STUDY.handle) or {}, ledger.last_run() or {}
        assert (row["started"], row["duration_s"]) == (5e8, 1.5)
        assert (run["started"], run["ended"], run["seconds"]) == (1e9, 2e9, 2.5)
    outcome(
        "clock jump",
        "durations and deadlines are monotonic; wall time is only noted",
        "a clock that goes back",
    )


def test_a_run_that_ended_without_a_word_leaves_nothing_running(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        ledger.begin_run("one")
        ledger.queue(STUDY, "one", "")
        ledger.start(STUDY.handle)
        assert ledger.counts()["running"] == 1
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        ledger.begin_run("two")
        assert ledger.counts()["running"] == 0
        assert ledger.first("queued") == STUDY.handle
        ledger.export(tmp_path / "rows.jsonl")
    (row,) = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert (row["study"], row["state"], row["attempts"]) == (STUDY.handle, "queued", 1)


def test_a_state_that_does_not_exist_cannot_be_written(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        ledger.queue(STUDY, "one", "")
        with pytest.raises(BatchError):
            ledger.set(STUDY.handle, state="lost")
        assert (ledger.get(STUDY.handle) or {})["state"] == "queued"


def test_missing_and_newer_ledgers_are_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with pytest.raises(BatchError, match="LEDGER-MISSING"):
        Ledger(path, read_only=True)
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version={VERSION + 1}")
    with pytest.raises(BatchError, match="LEDGER-VERSION"):
        Ledger(path)


def test_a_ledger_on_a_network_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    mounts = [SimpleNamespace(mountpoint="/", fstype="ext4"), SimpleNamespace(mountpoint=str(tmp_path), fstype="nfs4")]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: mounts)
    with pytest.raises(BatchError, match=r"LEDGER-REMOTE.*--ledger"):
        Ledger(tmp_path / "ledger.sqlite")


# ---- keys


def test_the_key_is_made_once_and_is_the_owners(tmp_path: Path) -> None:
    key = load_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    assert load_key(tmp_path / "key") == key
    assert study_handle(key, "1.2.3") != study_handle(load_key(tmp_path / "other"), "1.2.3")
    (tmp_path / "bad").write_text("short")
    with pytest.raises(BatchError, match="BATCH-KEY"):
        load_key(tmp_path / "bad")


def test_digests_see_content_and_fingerprints_see_files() -> None:
    assert content_digest(["a", "b"]) == content_digest(["b", "a", "a"]) != content_digest(["a"])
    files = [("x", 1, 2), ("y", 3, 4)]
    assert fingerprint(b"k", files) == fingerprint(b"k", files[::-1])
    assert (
        len({fingerprint(b"k", f) for f in (files, files[:1], [("x", 1, 3), files[1]], [("x", 2, 2), files[1]])}) == 4
    )
    assert fingerprint(b"k", files) != fingerprint(b"l", files)


# ---- policy

LIMITS = Limits(attempts=3, backoff_s=1)


def ends(outcome: Outcome) -> list[tuple[str, int, float]]:
    """Follow one outcome that never changes to its end: (state, divisor, pause) of each step."""
    tries, steps = Tries(), []
    while not steps or not steps[-1][0]:
        verdict = decide(outcome, tries, LIMITS)
        tries = verdict.tries
        steps.append((verdict.state, tries.divisor, verdict.delay_s))
    return steps


def test_each_kind_of_failure_has_its_own_way() -> None:
    assert ends(Outcome("done")) == [("done", 1, 0)]
    assert ends(Outcome(kind="refused")) == [(REFUSED, 1, 0)]
    assert ends(Outcome(kind="failed")) == [(FAILED, 1, 0)]
    assert ends(Outcome(kind="crash")) == [("", 1, 1), ("", 1, 2), (QUARANTINED, 1, 0)]
    assert ends(Outcome(kind="transient")) == [("", 1, 1), ("", 1, 2), (FAILED, 1, 0)]
    assert ends(Outcome(kind="memory")) == [("", 2, 0), ("", 4, 0), (FAILED, 1, 0)]
    assert decide(Outcome(kind="output", code="DISK-FULL"), Tries(2), LIMITS).stop == "DISK-FULL"
    assert decide(Outcome(kind="fatal", code="MODEL-HASH"), Tries(), LIMITS).stop == "MODEL-HASH"


@given(st.lists(st.sampled_from(["crash", "transient", "memory", "output", "failed", "refused", "fatal"])))
def test_no_history_goes_on_for_ever(kinds: list[str]) -> None:
    tries, steps = Tries(), 0
    for kind in kinds * 10:
        verdict = decide(Outcome(kind=kind), tries, LIMITS)
        if verdict.state:
            break
        tries, steps = verdict.tries, steps + 1
    assert steps <= LIMITS.attempts - 1 + 2


def test_only_what_still_holds_is_left_alone() -> None:
    assert is_settled("done", True, True, whole=True, again=False)
    assert not is_settled("done", True, True, whole=False, again=False)
    assert not is_settled("done-empty", True, False, whole=True, again=False)
    assert not is_settled("done", False, True, whole=True, again=False)
    assert is_settled("quarantined", True, True, whole=False, again=False)
    assert not is_settled("refused", True, True, whole=False, again=True)
    assert not is_settled("failed", True, True, whole=False, again=False)


def test_the_exit_status_says_what_happened() -> None:
    assert Summary({"done": 2}, 0, 1.0).status == 0
    assert Summary({"done": 1, "failed": 1}, 0, 1.0).status == 3
    assert Summary({"refused": 1}, 0, 1.0).status == 1
    assert Summary({"done": 1}, 0, 1.0, "STOPPED").status == 4
