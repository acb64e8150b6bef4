"""Time a batch: headers scanned per second, a large ledger, studies per hour for 1 and 2 workers, and what the runner
adds to a study.

The overhead is the wall time of a run with one worker, without the start of its child, less the time that the child
says it spent on the studies (from reading to the marker), per study.

Run: python benchmarks/batch.py [--studies 40] [--files 10000] [--size 32] [--rows 100000] (0 leaves a part out)
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "batch")]

from tiny_batch import pack_tiny, write_study  # noqa: E402

from medpanoptic.batch import Limits, run_batch  # noqa: E402
from medpanoptic.batch.ledger import Ledger  # noqa: E402
from medpanoptic.batch.scan import scan_inputs  # noqa: E402
from medpanoptic.batch.settings import QUEUED, Outcome, Study  # noqa: E402


def time_scan(place: Path, files: int) -> None:
    """One study of 100 slices of 64 x 64 each, linked as often as needed: a header costs the same each time."""
    write_study(place / "one", 0, shape=(100, 64, 64))
    slices = sorted((place / "one").iterdir())
    for number in range(files // len(slices)):
        (place / "many" / str(number)).mkdir(parents=True)
        for path in slices:
            (place / "many" / str(number) / path.name).hardlink_to(path)
    before = psutil.Process().memory_info().rss
    begun, cpu = time.monotonic(), time.process_time()
    index = scan_inputs([place / "many"], b"k" * 32, place / "nowhere")
    wall, cpu = time.monotonic() - begun, time.process_time() - cpu
    grown = (psutil.Process().memory_info().rss - before) / 2**20
    print(f"scan: {index.files} headers in {wall:.1f} s ({cpu:.1f} s CPU), {grown:.0f} MiB more memory")
    index.close()


def time_ledger(place: Path, rows: int) -> None:
    """A ledger with so many studies done: what the next study costs, and what ``status`` and the metrics read."""
    path = place / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        fields = {"kind": "dicom", "files": 300, "bytes": 150_000_000, "state": "done", "duration_s": 1.0, "things": 2}
        fields |= {"outputs": json.dumps({f"file{n}": "0" * 64 for n in range(6)}), "model_hash": "0" * 64}
        outcome = Outcome("done", seconds=dict.fromkeys(("stage", "read", "network", "write", "mark"), 1.0))
        with ledger._database.transaction():
            for number in range(rows):
                ledger._insert("studies", study=f"{number:020x}", **fields)
                ledger._insert("attempts", study=f"{number:020x}", attempt=1, duration_s=1.0, seconds="{}")
        last = [Study(f"{rows + n:020x}", "dicom", (("x", 1, 1),)) for n in range(100)]
        for study in last:
            ledger.queue(study, "run", "")
        begun = time.monotonic()
        for study in last:
            ledger.first(QUEUED)
            ledger.start(study.handle)
            ledger.attempted(study.handle, "run", outcome, **fields)
        each = (time.monotonic() - begun) / len(last)
        begun = time.monotonic()
        ledger.counts(), ledger.codes(), ledger.totals()
        figures = time.monotonic() - begun
    size = path.stat().st_size / 2**20
    print(f"ledger of {rows} studies: {size:.0f} MiB, {1000 * each:.1f} ms per study, {figures:.2f} s for all figures")


def time_runs(place: Path, studies: int, size: int) -> None:
    model = pack_tiny(place / "model", window=size)
    for number in range(studies):
        write_study(place / "in" / str(number), number, shape=(size,) * 3)
    for workers in (1, 2):
        output = place / f"out{workers}"
        summary = run_batch(
            [place / "in"], output, model=model, workers=workers, threads=1, limits=Limits(min_free_mb=1)
        )
        wall, inside, spent = steady(output)
        rate = 3600 * (studies - workers) / wall
        line = f"{workers} worker(s): {studies} studies of {size}^3 in {summary.seconds:.1f} s with start, "
        line += f"then {rate:.0f} per hour, {1000 * inside / studies:.0f} ms in the child per study"
        print(line + (f", overhead {1000 * (wall - spent) / (studies - 1):.0f} ms" if workers == 1 else ""))


def steady(output: Path) -> tuple[float, float, float]:
    """Return seconds from the first outcome to the last, those all children worked, and those after the first."""
    times, worked = [], []
    with closing(sqlite3.connect(output / "ledger.sqlite")) as ledger:
        rows = ledger.execute("SELECT seconds FROM attempts ORDER BY rowid").fetchall()
        worked = [sum(json.loads(row[0]).values()) for row in rows]
    for line in (output / "batch.log").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["event"] == "attempt":
            times.append(to_seconds(entry["time"]))
    return times[-1] - times[0], sum(worked), sum(worked[1:])


def to_seconds(text: str) -> float:
    """Seconds of the day of an ISO time."""
    hours, minutes, seconds = text[11:-1].split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("studies", 40), ("files", 10000), ("size", 32), ("rows", 100000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.files:
            time_scan(Path(folder), args.files)
        if args.rows:
            time_ledger(Path(folder), args.rows)
        if args.studies:
            time_runs(Path(folder), args.studies, args.size)


if __name__ == "__main__":
    main()
