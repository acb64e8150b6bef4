"""Many small studies through a batch whose children, and client, are killed at random; then once more in calm.

A share of all attempts is killed: half of them by SIGKILL, SIGSEGV or SIGABRT at any moment, half by SIGKILL as soon as
the draft of the result is there (between write and rename). The client is killed too, and started with --resume. Ends
well if every study has one final state, no draft is left, and every output equals that of the calm run (fallbacks and
quarantined studies aside, which are counted).

Run: python benchmarks/soak.py [--studies 1000] [--workers 2] [--kill-share 0.15] [--client-kills 2] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from pydicom.dataset import Dataset

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "batch")]

from builders import axial_affine, write_series  # noqa: E402
from tiny_batch import pack_tiny  # noqa: E402

CHILD_SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)


def command(place: Path, output: Path, workers: int) -> list[str]:
    words = ["batch", place / "in", "-o", output, "-m", place / "model", "--workers", workers, "--threads", 1]
    words += ["--resume", "--format", "csv", "--attempts", 5, "--key", place / "key"]
    return [sys.executable, "-m", "medpanoptic", *map(str, words)]


def start(place: Path, output: Path, workers: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(place, output, workers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@dataclass
class Strike:
    """What is to befall one attempt. ``due`` : when, None for as soon as a draft of its result is there."""

    process: psutil.Process
    handle: str
    number: int
    due: float | None

    def strike(self, results: Path, kills: Counter[str]) -> bool:
        """Strike if it is time; tell whether that is over."""
        if self.due is None and not any(results.glob(f".{self.handle}.*.part")):
            return not self.process.is_running()
        if self.due is not None and time.monotonic() < self.due:
            return False
        with suppress(psutil.Error):  # it ended by itself in the meantime
            self.process.send_signal(self.number)
            where = "between write and rename" if self.due is None else f"anywhere, {signal.Signals(self.number).name}"
            kills[f"child, {where}"] += 1
        return True


class Storm:
    """Sees each attempt begin, by the folder HANDLE.PID of its input, and picks those to be struck."""

    def __init__(self, output: Path, chance: random.Random, share: float) -> None:
        self._output, self._chance, self._share = output, chance, share
        self._known: dict[str, float] = {}  # folder -> when it was first seen
        self._due: list[Strike] = []
        self._usual_s = 0.3  # how long an attempt takes, a moving mean
        self.kills: Counter[str] = Counter()

    def blow(self) -> None:
        """Look once."""
        now, folders = time.monotonic(), {path.name for path in (self._output / ".work").glob("*.*")}
        for name in folders - set(self._known):
            self._known[name] = now
            if self._chance.random() < self._share:
                self._pick(name, now)
        for name in set(self._known) - folders:
            self._usual_s += 0.1 * (now - self._known.pop(name) - self._usual_s)
        self._due = [s for s in self._due if not s.strike(self._output / "results", self.kills)]

    def _pick(self, name: str, now: float) -> None:
        handle, _, pid = name.partition(".")
        with suppress(psutil.Error):
            process = psutil.Process(int(pid))
            if "medpanoptic.batch.child" in process.cmdline():
                torn = self._chance.random() < 0.5
                number = signal.SIGKILL if torn else self._chance.choice(CHILD_SIGNALS)
                due = None if torn else now + self._chance.uniform(0, self._usual_s)
                self._due.append(Strike(process, handle, number, due))


def survive(place: Path, output: Path, args: argparse.Namespace) -> Counter[str]:
    """Run the batch to its end, killing on the way; return what was killed how often."""
    storm = Storm(output, random.Random(args.seed), args.kill_share)
    client, looked, left = start(place, output, args.workers), 0.0, args.client_kills
    done_at = [args.studies * (n + 1) // (args.client_kills + 1) for n in range(args.client_kills)]
    while client.poll() is None:
        time.sleep(0.005)
        storm.blow()
        if not left or time.monotonic() - looked < 1:
            continue
        looked = time.monotonic()
        if len(list((output / "results").glob("*/batch.json"))) >= done_at[-left]:
            client.kill()
            client.wait()
            storm.kills["client, SIGKILL"] += 1
            left -= 1
            client = start(place, output, args.workers)
    return storm.kills


def write_studies(folder: Path, studies: int, size: int) -> None:
    """Write CT studies of noise. One is made by pydicom; the others are its bytes with other UIDs and pixels."""

    def number_all(index: int, dataset: Dataset) -> None:
        for part, keyword in enumerate(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), 1):
            setattr(dataset, keyword, f"1.2.826.0.{part}.{index if part == 3 else 0}.1000000")

    template = write_series(
        folder.parent / "template", np.zeros((size,) * 3, np.int16), axial_affine(), edit=number_all
    )
    heads = [path.read_bytes()[: -2 * size * size] for path in sorted(template.iterdir())]
    for number in range(studies):
        study = folder / str(number)
        study.mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 1000, (size,) * 3).astype("<i2")
        for index, head in enumerate(heads):
            own = head.replace(b".1000000", b".%d" % (1000000 + number)) + pixels[index].tobytes()
            (study / f"{index:03d}.dcm").write_bytes(own)


def states(output: Path) -> dict[str, dict[str, object]]:
    rows = map(json.loads, (output / "ledger.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["study"]: row for row in rows}


def compare(calm: dict[str, dict[str, object]], stormy: dict[str, dict[str, object]], studies: int) -> bool:
    aside = [s for s, row in stormy.items() if row["fallback"] or row["state"] == "quarantined"]
    final = {"done", "done-empty", "refused", "failed", "quarantined"}
    accounted = len(stormy) == studies and all(row["state"] in final for row in stormy.values())
    differ = [s for s in stormy if s not in aside and stormy[s]["outputs"] != calm[s]["outputs"]]
    print(f"states: {dict(Counter(str(row['state']) for row in stormy.values()))}")
    print(
        f"every study accounted for: {accounted}; fallbacks or quarantined: {len(aside)}; outputs differ: {len(differ)}"
    )
    return accounted and not differ


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("studies", 1000), ("workers", 2), ("client-kills", 2), ("seed", 0), ("size", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--kill-share", type=float, default=0.15, help="of the attempts, are killed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("SOAK_DIR")) as folder:
        place = Path(folder)
        pack_tiny(place / "model", window=args.size)
        write_studies(place / "in", args.studies, args.size)
        begun = time.monotonic()
        kills = survive(place, place / "stormy", args)
        seconds = time.monotonic() - begun
        print(
            f"{args.studies} studies of {args.size}^3 in {seconds:.0f} s, kills: {dict(sorted(kills.items()))}",
            flush=True,
        )
        begun = time.monotonic()
        subprocess.run(command(place, place / "calm", args.workers), check=True, capture_output=True)
        print(f"calm run: {time.monotonic() - begun:.0f} s")
        drafts = [p for p in (place / "stormy" / "results").iterdir() if p.name.startswith(".")]
        print(f"drafts left: {len(drafts)}")
        return int(not compare(states(place / "calm"), states(place / "stormy"), args.studies) or bool(drafts))


if __name__ == "__main__":
    sys.exit(main())
