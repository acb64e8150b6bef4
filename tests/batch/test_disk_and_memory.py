"""A disk that is full or read-only, and memory that is too small."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_batch import pack_tiny, write_study

from medpanoptic.batch import Limits, run_batch
from medpanoptic.batch.child import attempt
from medpanoptic.batch.keys import model_hash
from medpanoptic.batch.ledger import Ledger
from medpanoptic.batch.policy import Tries, decide
from medpanoptic.batch.scan import scan_inputs
from medpanoptic.batch.settings import ChildSettings, Study
from medpanoptic.batch.slot import Slot
from medpanoptic.bundle import load_bundle
from medpanoptic.errors import BatchError
from medpanoptic.io import read_result
from medpanoptic.segmenter import Segmenter

Outcome = Callable[[str, str, str], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk needs root, and mount allowed in this container")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def the_study(place: Path) -> Study:
    """The one study below a folder."""
    with closing(scan_inputs([place], b"k" * 32, place / "nowhere")) as index:
        return index.study(next(index.handles()))


def request(place: Path) -> dict[str, Any]:
    study = the_study(place)
    fields = {"study": study.handle, "kind": study.kind, "files": study.files, "fingerprint": study.fingerprint}
    return {**fields, "window_divisor": 1, "known_digest": ""}


def test_a_full_disk_fails_the_attempt_and_leaves_no_part_of_it(
    small_disk: Path, tmp_path: Path, tiny_model: Path
) -> None:
    write_study(tmp_path / "in", 1)
    (small_disk / "fill").write_bytes(bytes(2**20 - 40 * 1024))
    segmenter = Segmenter.load(tiny_model, "cpu")
    settings = ChildSettings(str(tiny_model), str(small_disk))
    made = attempt(request(tmp_path / "in"), segmenter, settings, lambda stage: None)
    assert (made.kind, made.code, made.stage) == ("output", "DISK-FULL", "write")
    assert not list((small_disk / "results").iterdir())
    assert not list((small_disk / ".work").iterdir())
    (small_disk / "fill").unlink()
    assert attempt(request(tmp_path / "in"), segmenter, settings, lambda stage: None).state.startswith("done")


def test_a_batch_stops_before_the_disk_is_full(
    small_disk: Path, tmp_path: Path, tiny_model: Path, outcome: Outcome
) -> None:
    write_study(tmp_path / "in", 1)
    summary = run_batch([tmp_path / "in"], small_disk, model=tiny_model, workers=1, limits=Limits(min_free_mb=50))
    assert (summary.stopped, summary.status, summary.counts["queued"]) == ("DISK-FULL", 4, 1)
    outcome(
        "disk full",
        "DISK-FULL: no further study is started, none is half written, the rest stays queued",
        "tmpfs of 1 MiB",
    )


def test_a_ledger_that_cannot_grow_is_named(small_disk: Path) -> None:
    with closing(Ledger(small_disk / "ledger.sqlite")) as ledger:
        (small_disk / "fill").write_bytes(bytes(2**20 - 150 * 1024))
        with pytest.raises(BatchError, match="LEDGER-FULL"):  # noqa: PT012
            for number in range(10000):
                ledger.begin_run(f"{number}", parameters="x" * 1000)


def test_a_read_only_output_is_named(small_disk: Path, tmp_path: Path, tiny_model: Path, outcome: Outcome) -> None:
    write_study(tmp_path / "in", 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(BatchError, match="OUTPUT-DISK"):
        run_batch([tmp_path / "in"], small_disk, model=tiny_model)
    outcome(
        "read-only output",
        "OUTPUT-DISK, before any work",
        "tmpfs, remounted",
    )


def test_too_little_memory_goes_on_with_smaller_windows(tmp_path: Path, outcome: Outcome) -> None:
    write_study(tmp_path / "in", 1)
    write_study(tmp_path / "large", 2, shape=(96, 96, 96))
    model = load_bundle(pack_tiny(tmp_path / "model", window=96, channels=48))
    settings = ChildSettings(str(model.folder), str(tmp_path / "out"), ("csv",), model_hash=model_hash(model))
    slot, limits, tries = Slot(settings, Limits()), Limits(), Tries()
    try:
        usual = slot.run(the_study(tmp_path / "in")).peak_mb
        # whole windows take about 260 MiB more, half ones 105
        slot.limits = replace(limits, memory_gb=(usual + 185) / 1024)
        killed = slot.run(the_study(tmp_path / "large"))
        assert (killed.kind, killed.code, killed.stage) == ("memory", "MEMORY-CAP", "network")
        assert killed.peak_mb > usual + 185
        verdict = decide(killed, tries, limits)
        assert (verdict.state, verdict.tries.divisor, verdict.delay_s) == ("", 2, 0)
        made = slot.run(the_study(tmp_path / "large"), verdict.tries.divisor)
    finally:
        slot.close()
    assert made.state in {"done", "done-empty"}
    assert made.fallback == "windows 1/2 as wide"
    result = read_result(tmp_path / "out" / "results" / the_study(tmp_path / "large").handle)
    assert result.provenance.parameters["window"] == [48, 48, 48]
    outcome(
        "out of memory",
        "MEMORY-CAP, done with windows 1/2 as wide; recorded as fallback",
        "a cap that whole windows pass",
    )
