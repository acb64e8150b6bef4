"""Print what each fault led to: kills, hangs, full disks, lost schedulers, all made for real by the tests of the batch.

Run: python benchmarks/faults.py [--keep XML]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]


def outcomes(report: Path) -> list[tuple[str, str, str]]:
    """Return (fault, outcome, passed or failed) of every test that noted one."""
    rows = []
    for case in ElementTree.parse(report).iter("testcase"):
        verdict = "failed" if case.find("failure") is not None or case.find("error") is not None else "passed"
        for noted in case.iter("property"):
            rows.append((noted.get("name", ""), noted.get("value", ""), verdict))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="keep pytest's report there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = args.keep or Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "tests/batch", "-q", "-o", "junit_family=xunit1"]
        status = subprocess.run([*command, f"--junitxml={report}"], cwd=ROOT, stdout=sys.stderr).returncode
        print("| fault | outcome | test |\n|---|---|---|")
        for row in outcomes(report):
            print("| " + " | ".join(row) + " |")
    return status


if __name__ == "__main__":
    sys.exit(main())
