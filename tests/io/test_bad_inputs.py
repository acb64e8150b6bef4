"""The collection of bad inputs, run as a person runs it: a process for each case, with limits and canaries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "bad_inputs.py"


def test_every_bad_input_is_right_or_refused_for_its_reason(shared_data):
    collection = shared_data("bad_inputs")
    done = subprocess.run([sys.executable, str(BENCHMARK), str(collection)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n95 cases: " in done.stdout
