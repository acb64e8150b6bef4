"""What a person or a monitor sees of a batch: figures for Prometheus, the live table, drafts that go."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from medpanoptic.batch.ledger import Ledger
from medpanoptic.batch.lock import is_held, only_run
from medpanoptic.batch.log import Progress, write_metrics
from medpanoptic.batch.outputs import remove_drafts
from medpanoptic.batch.report import read_status, write_report
from medpanoptic.batch.settings import STATES, Outcome, Study

STUDIES = [Study(f"{number:020x}", "dicom", (("/data/x", 10, 1),), "f") for number in range(4)]


@contextmanager
def batch_under_way(folder: Path) -> Iterator[Ledger]:
    """A ledger of four studies, of which one is done and one refused, and the lock of a program that works on them."""
    with only_run(folder), closing(Ledger(folder / "ledger.sqlite", clock=lambda: time.time() - 60)) as ledger:
        ledger.begin_run("one", model="tiny")
        for study in STUDIES:
            ledger.queue(study, "one", "")
        ledger.attempted(STUDIES[0].handle, "one", Outcome("done"), state="done", duration_s=1.5, things=2)
        refused = Outcome(kind="refused", code="GEO-GAP", stage="read")
        ledger.attempted(
            STUDIES[1].handle, "one", refused, state="refused", code="GEO-GAP", stage="read", duration_s=0.1
        )
        yield ledger


# ---- Prometheus

_NAME, _LABEL = r"[a-zA-Z_:][a-zA-Z0-9_:]*", r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_SAMPLE = re.compile(rf"(?P<name>{_NAME})(?:\{{(?P<labels>{_LABEL}(?:,{_LABEL})*)\}})? (?P<value>\S+)")
_TYPE = re.compile(rf"# TYPE (?P<name>{_NAME}) (?P<type>counter|gauge|histogram|summary|untyped)")


def parse(text: str) -> dict[str, float]:
    """Read the text format strictly: prometheus.io, "Exposition formats", text format 0.0.4."""
    types: dict[str, str] = {}
    samples: dict[str, float] = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if found := _TYPE.fullmatch(line):
            assert found["name"] not in types, "one TYPE line for a metric"
            types[found["name"]] = found["type"]
            last = found["name"]
            continue
        sample = _SAMPLE.fullmatch(line)
        assert sample is not None, line
        assert sample["name"] == last, "the lines of a metric stand together, after its type"
        assert (types[sample["name"]] == "counter") == sample["name"].endswith("_total")
        key = sample["name"] + (f"{{{sample['labels']}}}" if sample["labels"] else "")
        assert key not in samples
        samples[key] = float(sample["value"])
    return samples


def test_the_figures_for_prometheus_are_whole_and_well_formed(tmp_path: Path) -> None:
    with batch_under_way(tmp_path) as ledger:
        path = tmp_path / "medpanoptic.prom"
        write_metrics(path, ledger.counts(), ledger.totals(), Progress(ended=2, total=4, running=0, seconds=60))
    found = parse(path.read_text("utf-8"))
    states = {state: found[f'medpanoptic_batch_studies{{state="{state}"}}'] for state in STATES}
    assert {state: n for state, n in states.items() if n} == {"queued": 2, "done": 1, "refused": 1}
    assert found["medpanoptic_batch_attempts_total"] == 2
    assert found["medpanoptic_batch_failed_attempts_total"] == 1
    assert found["medpanoptic_batch_studies_per_hour"] == 120
    assert abs(found["medpanoptic_batch_last_update_timestamp_seconds"] - time.time()) < 60
    assert [p.name for p in tmp_path.glob("*.prom*")] == [path.name]
    assert not list(tmp_path.glob(".*.part"))


# ---- status


def test_a_batch_that_runs_one_that_was_killed_and_one_that_ended_are_told_apart(tmp_path: Path) -> None:
    with batch_under_way(tmp_path) as ledger:
        assert is_held(tmp_path)
        found = read_status(tmp_path)
        assert (found.state, found.working) == ("running", True)
        assert found.per_hour == pytest.approx(120, rel=0.2)
        assert re.fullmatch(r"0:0?1:\d\d", found.figures()["time left"])
    killed = read_status(tmp_path)
    assert (killed.state, killed.working) == ("broken off; go on with --resume", False)
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        ledger.end_run("one", "DISK-FULL", 30, 2)
    ended = read_status(tmp_path)
    assert ended.state == "ended early, DISK-FULL; go on with --resume"
    assert ended.per_hour == 240
    with only_run(tmp_path):
        assert read_status(tmp_path).state == "scanning"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_the_live_table_is_redrawn_until_the_batch_ends(tmp_path: Path) -> None:
    import pty

    screen, terminal = pty.openpty()
    with batch_under_way(tmp_path) as ledger:
        command = [sys.executable, "-m", "medpanoptic", "status", str(tmp_path), "--watch"]
        size = {"COLUMNS": "100", "LINES": "40", "TERM": "xterm-256color"}
        watcher = subprocess.Popen(
            command, stdin=terminal, stdout=terminal, stderr=terminal, env={**os.environ, **size}
        )
        os.close(terminal)
        seen = read_until(screen, rb"time left")
        assert re.search(rb"queued +2\b", seen)
        assert re.search(rb"refused +GEO-GAP +read +1\b", seen)
        for study in STUDIES[2:]:
            ledger.attempted(study.handle, "one", Outcome("done"), state="done", duration_s=1.0)
        seen = read_until(screen, rb"done +3\b")
        assert b"\x1b[" in seen  # drawn over the table before it
        ledger.end_run("one", "", 30, 4)
    seen = read_until(screen, None)
    assert b"ended" in seen
    assert watcher.wait(30) == 0
    os.close(screen)


def read_until(screen: int, pattern: bytes | None) -> bytes:
    """Return what a terminal showed until a pattern came, None for its end."""
    seen = b""
    while pattern is None or not re.search(pattern, seen):
        try:
            more = os.read(screen, 4096)
        except OSError:  # Linux tells so of a terminal that nobody holds any more
            more = b""
        if not more:
            assert pattern is None, seen
            break
        seen += more
    return seen


def test_the_page_of_a_batch_without_studies_can_be_read(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.sqlite").close()
    page = write_report(tmp_path).read_text("utf-8")
    assert "<h1>Batch" in page


# ---- drafts


def test_the_drafts_of_one_study_go_and_those_of_others_stay(tmp_path: Path) -> None:
    ours, other = (study.handle for study in STUDIES[:2])
    results, work = tmp_path / "results", tmp_path / "work"
    for handle in (ours, other):
        for folder in (results / handle, results / f".{handle}.0123abcd.part", work / f"{handle}.4711"):
            folder.mkdir(parents=True)
    assert remove_drafts(results, work, ours) == 2
    assert sorted(p.name for p in results.iterdir()) == sorted([ours, other, f".{other}.0123abcd.part"])
    assert [p.name for p in work.iterdir()] == [f"{other}.4711"]
    assert remove_drafts(results, work) == 2
    assert remove_drafts(tmp_path / "gone", tmp_path / "gone") == 0
