"""A batch that is stopped, killed, and run again: only what is missing or stale is done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from builders import axial_affine, write_series
from PIL import Image
from tiny_batch import study_uid, wait_for, workers_of, write_study

from medpanoptic.batch import Limits, Summary, run_batch
from medpanoptic.batch.keys import load_key, study_handle
from medpanoptic.batch.ledger import Ledger
from medpanoptic.batch.lock import only_run
from medpanoptic.batch.report import find_study, read_status
from medpanoptic.errors import BatchError

STUDIES = 6
LIMITS = Limits(backoff_s=0.05, min_free_mb=1)
Outcome = Callable[[str, str, str], None]


def start(place: Path, model: Path) -> subprocess.Popen[str]:
    """Start the command line on 6 studies, in a process of its own."""
    for number in range(STUDIES):
        if not (place / "in" / str(number)).exists():
            write_study(place / "in" / str(number), number)
    words = ["batch", place / "in", "-o", place / "out", "-m", model, "--workers", 1, "--threads", 1, "--resume"]
    command = [sys.executable, "-m", "medpanoptic", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_with(client: subprocess.Popen[str], condition: Callable[[], Any]) -> Any:
    """Return the first true value of a condition, while the client runs."""
    found = wait_for(lambda: client.poll() is not None or condition(), 600)
    assert client.poll() is None, client.communicate()
    return found


def run(place: Path, model: Path, **options: Any) -> Summary:
    return run_batch([place / "in"], place / "out", model=model, workers=1, threads=1, limits=LIMITS, **options)


def rows(place: Path) -> dict[str, dict[str, Any]]:
    with closing(Ledger(place / "out" / "ledger.sqlite", read_only=True)) as ledger:
        return {row["study"]: row for row in ledger.studies()}


def handle(place: Path, number: int) -> str:
    return study_handle(load_key(place / "out" / "batch.key"), study_uid(number))


def finished(place: Path) -> list[Path]:
    return list((place / "out" / "results").glob("*/batch.json"))


def written(place: Path) -> dict[str, int]:
    """When each result was written: a change tells that a study was done again."""
    return {path.parent.name: path.stat().st_mtime_ns for path in finished(place)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


def test_sigterm_ends_it_cleanly(place: Path, tiny_model: Path, outcome: Outcome) -> None:
    client = start(place, tiny_model)
    wait_with(client, lambda: list(workers_of(place / "out")))
    client.send_signal(signal.SIGTERM)
    out, err = client.communicate(timeout=60)
    assert client.returncode == 4, err
    assert "[STOPPED]" in err
    assert "queued" in out
    counts = read_status(place / "out").counts
    # what was at the worker is done, the rest waits
    assert 1 <= counts["done"] + counts["done-empty"] <= 2
    assert counts["running"] == 0
    assert counts["queued"] == STUDIES - len(finished(place))
    assert not list((place / "out" / "results").glob(".*"))
    assert not list((place / "out" / ".work").iterdir())
    outcome(
        "SIGTERM",
        "running studies end, the others stay queued, exit status 4, no partial file",
        "sent to the client",
    )


def test_a_killed_client_takes_its_children_along_and_loses_nothing(
    place: Path, tiny_model: Path, outcome: Outcome
) -> None:
    before = written(place)
    client = start(place, tiny_model)
    children = wait_with(client, lambda: len(finished(place)) > len(before) and list(workers_of(place / "out")))
    everyone = [*children, *psutil.Process(client.pid).children(recursive=True)]
    client.kill()
    client.communicate()
    assert not psutil.wait_procs(everyone, timeout=60)[1]
    killed = written(place)
    # what a cut at the worst moment leaves: a draft, and a result that is not whole
    shutil.copytree(finished(place)[0].parent, place / "out" / "results" / f".{handle(place, 0)}.0123abcd.part")
    torn = finished(place)[0].parent
    (torn / "panoptic.nii.gz").write_bytes(b"torn")
    summary = run(place, tiny_model, resume=True)
    assert summary.status == 0
    assert len(finished(place)) == STUDIES
    now = written(place)
    # no result that was whole is made again
    assert {name for name, when in now.items() if killed.get(name) == when} == set(killed) - {torn.name}
    assert not list((place / "out" / "results").glob(".*"))
    outcome(
        "client killed and re-run",
        "children end with it; the re-run does what is missing and nothing twice",
        "SIGKILL to the client",
    )
    outcome(
        "result torn by a power cut",
        "the hash of an output differs: done again",
        "an output cut short",
    )


def test_only_what_is_stale_is_done_again(place: Path, tiny_model: Path, outcome: Outcome) -> None:
    before, old = written(place), rows(place)
    # two late slices for study 0, study 1 delivered twice, study 2 touched, study 3 left alone
    pixels = np.zeros((6, 16, 16), np.int16)
    folder = write_series(place / "late", pixels, axial_affine(), series="0", edit=_of_study_0)
    for index in (4, 5):
        shutil.copy(folder / f"0_{index:03d}.dcm", place / "in" / "0")
    shutil.copytree(place / "in" / "1", place / "in" / "again" / "copy of 1")
    for path in (place / "in" / "2").iterdir():
        os.utime(path)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(place / "in" / "picture.png")  # 2D, for a model of 3D
    summary = run(place, tiny_model, resume=True)
    now, new = written(place), rows(place)
    changed = {name for name in now if now[name] != before.get(name)}
    assert changed == {handle(place, 0)}
    assert new[handle(place, 0)]["input_digest"] != old[handle(place, 0)]["input_digest"]
    assert new[handle(place, 1)]["input_digest"] == old[handle(place, 1)]["input_digest"]
    assert new[handle(place, 1)]["files"] == 8
    assert summary.unchanged == STUDIES - 3
    picture = find_study(place / "out", str(place / "in" / "picture.png"))
    assert (picture["state"], picture["code"]) == ("refused", "INPUT-DIMS")
    assert find_study(place / "out", study_uid(3))["study"] == handle(place, 3)
    assert summary.status == 3
    outcome(
        "late slices",
        "the content differs: done again",
        "two more slices, one more run",
    )
    outcome(
        "duplicate delivery",
        "same content: not done again, second copies are left out",
        "the study copied beside itself",
    )
    # a refusal holds until the input, model or parameters change
    again = run(place, tiny_model, resume=True)
    assert (again.unchanged, written(place)) == (STUDIES + 1, now)


def _of_study_0(index: int, dataset: Any) -> None:
    dataset.StudyInstanceUID = study_uid(0)


def test_two_batches_do_not_share_a_folder(place: Path, tiny_model: Path, outcome: Outcome) -> None:
    with only_run(place / "out"), pytest.raises(BatchError, match="BATCH-RUNNING"):
        run(place, tiny_model, resume=True)
    outcome(
        "same study twice at once",
        "a second batch on a folder: BATCH-RUNNING; in two inputs: one study",
        "a second batch; overlapping inputs",
    )
    with pytest.raises(BatchError, match=r"BATCH-EXISTS.*--resume"):
        run(place, tiny_model)


def test_a_damaged_ledger_is_made_again_from_the_results(place: Path, tiny_model: Path, outcome: Outcome) -> None:
    before, path = written(place), place / "out" / "ledger.sqlite"
    path.write_bytes(b"SQLite format 3\0" + os.urandom(5000))
    with pytest.raises(BatchError, match="LEDGER-DAMAGED"):
        read_status(place / "out")
    summary = run(place, tiny_model, resume=True)
    assert summary.counts["done"] + summary.counts["done-empty"] == STUDIES
    assert written(place) == before
    assert len(list((place / "out").glob("ledger.sqlite.damaged-*"))) == 1
    outcome(
        "ledger damaged",
        "LEDGER-DAMAGED; --resume puts it aside and makes it again from the results",
        "random bytes",
    )


def test_the_command_tells_how_it_went(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from medpanoptic.cli import main

    with pytest.raises(SystemExit):
        main(["status", str(place / "out"), "--json", "--report", "--export", str(place / "rows.jsonl")])
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["done"] + found["counts"]["done-empty"] == STUDIES
    assert found["codes"] == [{"state": "refused", "code": "INPUT-DIMS", "stage": "read", "number": 1}]
    assert len((place / "rows.jsonl").read_text().splitlines()) == STUDIES + 1
    page = (place / "out" / "report.html").read_text()
    assert "INPUT-DIMS" in page
    assert "<img" not in page
    assert "<script" not in page
    with pytest.raises(SystemExit):
        main(["status", str(place / "out"), "--report", "--thumbnails"])
    assert "INPUT-DIMS" in capsys.readouterr().out
    assert (place / "out" / "report.html").read_text().count("<img") == STUDIES
