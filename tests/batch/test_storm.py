"""One batch at DEBUG, planted names everywhere, while its workers are killed, stopped and fed with garbage."""

from __future__ import annotations

import gzip
import json
import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom.datadict import DicomDictionary
from tiny_batch import study_uid, workers_of, write_study

from medpanoptic.batch import Limits, Summary, run_batch
from medpanoptic.batch.keys import load_key, study_handle
from medpanoptic.batch.ledger import Ledger
from medpanoptic.batch.report import write_report
from medpanoptic.io import read_result

PLANTED = "ZZPLANTED"
# what the reader looks at must stay as it is
_READ = {"RescaleType"}
TEXT_TAGS = {
    entry[4]: f"{PLANTED}^{number}"
    for number, (tag, entry) in enumerate(sorted(DicomDictionary.items()))
    if entry[0] in {"LO", "SH", "PN", "LT", "ST", "UT", "UC"}
    and not entry[3]
    and entry[4]
    and tag >> 16 > 8
    and entry[4] not in _READ
}
DATES = {"PatientBirthDate": "19010203", "StudyDate": "19010203", "AccessionNumber": PLANTED, "PatientID": PLANTED}
GOOD, POISON, ABORTED, HUNG, TORN, KILLED, GARBLED = range(7)
SIGNALS = {
    POISON: (signal.SIGSEGV, 99),
    ABORTED: (signal.SIGABRT, 1),
    HUNG: (signal.SIGSTOP, 1),
    TORN: (signal.SIGKILL, 1),
    KILLED: (signal.SIGKILL, 1),
}


@dataclass
class Storm:
    """A finished batch. ``handles`` : by the numbers above. ``said`` : all log records of every library."""

    output: Path
    summary: Summary
    handles: dict[int, str]
    rows: dict[str, dict[str, Any]]
    said: str

    def row(self, number: int) -> dict[str, Any]:
        return self.rows[self.handles[number]]

    def attempts(self, number: int) -> list[str]:
        """Codes of the attempts at a study, as logged."""
        lines = [json.loads(line) for line in (self.output / "batch.log").read_text("utf-8").splitlines()]
        return [e["code"] for e in lines if e["event"] == "attempt" and e["study"] == self.handles[number]]


def strike(output: Path, handles: dict[int, str], over: threading.Event) -> None:
    """Send each study's worker its signal, as soon as it is seen at work (TORN: between write and rename)."""
    left = {number: list(SIGNALS[number]) for number in SIGNALS}
    struck: set[tuple[int, int]] = set()
    while not over.is_set():
        time.sleep(0.002)
        for number, (which, times) in left.items():
            if number == TORN and not list((output / "results").glob(f".{handles[number]}.*.part")):
                continue
            for worker in workers_of(output, handles[number]):
                if times and (number, worker.pid) not in struck:
                    struck.add((number, worker.pid))
                    left[number][1] -= 1
                    with suppress(psutil.Error):
                        worker.send_signal(which)


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Storm:
    place = tmp_path_factory.mktemp("storm")
    for number in range(7):
        write_study(place / "in" / f"{PLANTED} {number}", number, **DATES)
    # every text tag of the standard, in one study; a value that no reader can convert in another
    write_study(place / "in" / f"{PLANTED} {GOOD}", GOOD, **{k: v for k, v in TEXT_TAGS.items() if k not in DATES})
    for path in (place / "in" / f"{PLANTED} {GARBLED}").iterdir():
        data = path.read_bytes()
        path.write_bytes(data.replace(b"1.25", b"ZZPL"))
    key = load_key(place / "key")
    handles = {number: study_handle(key, study_uid(number)) for number in range(7)}
    (place / "in" / "notes.txt").write_text(PLANTED)
    over, output = threading.Event(), place / "out"
    thread = threading.Thread(target=strike, args=(output, handles, over))
    said = logging.FileHandler(place / "said.log")
    logging.getLogger().addHandler(said)
    for name in ("", "distributed", "pydicom"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    thread.start()
    try:
        limits = Limits(deadline_s=10, attempts=3, backoff_s=0.05, studies_per_child=4, min_free_mb=1)
        options: dict[str, Any] = {"model": tiny_model, "workers": 1, "threads": 1, "key_file": place / "key"}
        summary = run_batch([place / "in"], output, limits=limits, log_level="DEBUG", **options)
    finally:
        over.set()
        thread.join()
        logging.getLogger().removeHandler(said)
        for name in ("", "distributed", "pydicom"):
            logging.getLogger(name).setLevel(logging.WARNING)
    write_report(output)
    ledger = Ledger(output / "ledger.sqlite", read_only=True)
    rows = {row["study"]: row for row in ledger.studies()}
    ledger.close()
    return Storm(output, summary, handles, rows, (place / "said.log").read_text("utf-8"))


Outcome = Callable[[str, str, str], None]


def test_every_study_ends_in_one_state_with_a_code(storm: Storm) -> None:
    assert set(storm.rows) == set(storm.handles.values())
    for row in storm.rows.values():
        assert row["state"] in {"done", "done-empty", "refused", "failed", "quarantined"}
        assert bool(row["code"]) == (row["state"] not in {"done", "done-empty"})
        assert row["duration_s"] > 0
    assert sum(storm.summary.counts.values()) == 7
    assert storm.summary.status == 3
    assert storm.summary.stopped == ""
    assert storm.summary.skipped == {"neither DICOM nor an image": 1}
    assert storm.row(GOOD)["state"] in {"done", "done-empty"}


def test_a_poison_study_is_quarantined_and_the_others_finish(storm: Storm, outcome: Outcome) -> None:
    assert storm.attempts(POISON) == ["CHILD-SEGFAULT"] * 3
    assert storm.row(POISON)["state"] == "quarantined"
    assert storm.row(POISON)["attempts"] == 3
    assert not (storm.output / "results" / storm.handles[POISON]).exists()
    outcome(
        "poison study, codec segfault",
        "quarantined after 3 attempts, CHILD-SEGFAULT; the others finish",
        "SIGSEGV at each attempt",
    )


@pytest.mark.parametrize(
    ("number", "code", "fault", "by"),
    [
        (ABORTED, "CHILD-ABORTED", "library aborts", "SIGABRT"),
        (KILLED, "CHILD-KILLED", "worker child killed", "SIGKILL"),
        (HUNG, "DEADLINE", "hang, GIL held past every heartbeat", "SIGSTOP, deadline 10 s"),
        (TORN, "CHILD-KILLED", "power cut between write and rename", "SIGKILL when the draft folder appears"),
    ],
)
def test_a_child_that_dies_or_hangs_once_is_replaced(
    storm: Storm, outcome: Outcome, number: int, code: str, fault: str, by: str
) -> None:
    assert storm.attempts(number) == [code, ""]
    assert storm.row(number)["state"] in {"done", "done-empty"}
    read_result(storm.output / "results" / storm.handles[number])
    outcome(fault, f"{code}, done at the second attempt", by)


def test_an_unreadable_study_is_refused_at_once(storm: Storm, outcome: Outcome) -> None:
    assert storm.row(GARBLED)["state"] == "refused"
    assert storm.attempts(GARBLED) == [storm.row(GARBLED)["code"]] == ["GEO-PIXEL-SPACING"]
    assert storm.row(GARBLED)["stage"] == "read"
    outcome(
        "unreadable study",
        "refused with the reader's code, not tried again",
        "garbled PixelSpacing",
    )


def test_nothing_is_left_over(storm: Storm) -> None:
    results = storm.output / "results"
    done = [h for n, h in storm.handles.items() if n not in {POISON, GARBLED}]
    assert sorted(p.name for p in results.iterdir()) == sorted(done)
    assert not list((storm.output / ".work").iterdir())
    assert not [p for p in psutil.Process().children(recursive=True) if "medpanoptic" in " ".join(p.cmdline())]
    assert (storm.output / "batch.log").is_file()


def test_nobody_learns_a_name(storm: Storm) -> None:
    """Planted text, dates, UIDs: in no log, ledger, page, file name or non-DICOM output."""
    planted = [PLANTED, "19010203", "Secret^Patient", "ID-4711", "1.2.826.0.1."]
    for word in planted:
        assert word not in storm.said
    for path in storm.output.rglob("*"):
        assert not [word for word in planted if word in str(path.relative_to(storm.output))]
        if path.is_file() and path.name != "seg.dcm":
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            assert not [word for word in planted if word.encode() in data], path.name
    assert storm.handles[GOOD] in (storm.output / "batch.log").read_text("utf-8")


def test_the_log_is_json_lines_that_tell_the_whole_story(storm: Storm) -> None:
    lines = [json.loads(line) for line in (storm.output / "batch.log").read_text("utf-8").splitlines()]
    events = [line["event"] for line in lines]
    assert events[0] == "scanned"
    assert events[-1] == "ended"
    assert all({"time", "level", "event"} <= set(line) for line in lines)
    assert {line["level"] for line in lines} == {"DEBUG", "INFO", "WARNING"}
    ended = [line["study"] for line in lines if line["event"] == "attempt" and line["state"] != "again"]
    assert sorted(ended) == sorted(storm.rows)
