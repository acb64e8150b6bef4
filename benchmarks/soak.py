"""Many small studies through a batch whose children, and client, are killed at random; then once more in calm.

Kills: SIGKILL, SIGSEGV, SIGABRT at any moment; SIGKILL as soon as a draft lies beside the results (between write and
rename); and the client itself, which is started again with --resume. Ends well if every study has one final state and
every output equals that of the calm run (fallbacks and quarantined studies aside, which are counted).

Run: python benchmarks/soak.py [--studies 1000] [--workers 2] [--kill-every 3] [--client-kills 2] [--seed 0]
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
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "batch")]

from tiny_batch import pack_tiny, workers_of, write_study  # noqa: E402

CHILD_SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)


def command(place: Path, output: Path, workers: int) -> list[str]:
    words = ["batch", place / "in", "-o", output, "-m", place / "model", "--workers", workers, "--threads", 1]
    words += ["--resume", "--format", "csv", "--attempts", 5, "--key", place / "key"]
    return [sys.executable, "-m", "medpanoptic", *map(str, words)]


def start(place: Path, output: Path, workers: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(place, output, workers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def send(process: psutil.Process, number: int, kills: Counter[str], name: str) -> None:
    try:
        process.send_signal(number)
        kills[name] += 1
    except psutil.Error:
        pass  # it ended by itself in the meantime


def storm(place: Path, output: Path, args: argparse.Namespace) -> Counter[str]:
    """Run the batch to its end, killing on the way; return what was killed how often."""
    chance, kills = random.Random(args.seed), Counter[str]()
    client, results, left = start(place, output, args.workers), output / "results", args.client_kills
    next_kill = next_draft = time.monotonic()
    done_at = [args.studies * (n + 1) // (args.client_kills + 1) for n in range(args.client_kills)]
    while client.poll() is None:
        time.sleep(0.005)
        now, busy = time.monotonic(), list(workers_of(output))
        if now > next_kill and busy:
            number = chance.choice(CHILD_SIGNALS)
            send(chance.choice(busy), number, kills, f"child, {signal.Signals(number).name}")
            next_kill = now + chance.expovariate(1 / args.kill_every)
        elif now > next_draft and busy and any(results.glob(".*.part")):
            send(chance.choice(busy), signal.SIGKILL, kills, "child, between write and rename")
            next_draft = now + chance.expovariate(1 / args.kill_every)
        if left and len(list(results.glob("*/batch.json"))) >= done_at[-left]:
            client.kill()
            client.wait()
            kills["client, SIGKILL"] += 1
            left -= 1
            client = start(place, output, args.workers)
    return kills


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
    parser.add_argument("--kill-every", type=float, default=3.0, help="mean seconds between kills")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("SOAK_DIR")) as folder:
        place = Path(folder)
        pack_tiny(place / "model", window=args.size)
        for number in range(args.studies):
            write_study(place / "in" / str(number), number, shape=(args.size,) * 3)
        begun = time.monotonic()
        kills = storm(place, place / "stormy", args)
        seconds = time.monotonic() - begun
        print(f"{args.studies} studies of {args.size}^3 in {seconds:.0f} s, kills: {dict(kills)}")
        begun = time.monotonic()
        subprocess.run(command(place, place / "calm", args.workers), check=True, capture_output=True)
        print(f"calm run: {time.monotonic() - begun:.0f} s")
        drafts = [p for p in (place / "stormy" / "results").iterdir() if p.name.startswith(".")]
        print(f"drafts left: {len(drafts)}")
        return int(not compare(states(place / "calm"), states(place / "stormy"), args.studies) or bool(drafts))


if __name__ == "__main__":
    sys.exit(main())
