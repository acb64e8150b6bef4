"""Make each fault that a batch must survive, for real, and print what it led to, as the table of docs/batch.md.

The faults (kills, hangs, full disks, lost schedulers and peers) are made by those tests of batch and PACS that note an
outcome; a row is printed as soon as its test has passed. A fault of the page that no test showed is named, and the exit
status is 1.

Run: python benchmarks/faults.py [tests/pacs ...] (default: all; two minutes of CPU, most of it starts of workers)
"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAD = "| fault | outcome | made by |\n|---|---|---|\n"


class Faults:
    """A plugin of pytest: takes the tests that note outcomes, and prints those of each that passes."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.skipped: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the tests that make no fault."""
        items[:] = [item for item in items if "outcome" in getattr(item, "fixturenames", ())]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print what a test noted, once it has passed."""
        if report.skipped:
            self.skipped.append(f"{report.nodeid}: {report.longrepr}")
        elif report.when == "call" and report.passed:
            for _, row in report.user_properties:
                self.rows.append(str(row))
                print(row, file=sys.__stdout__, flush=True)


def documented() -> list[str]:
    """Return the rows of the page."""
    text = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    return re.split(r"\n\n", text.partition(HEAD)[2])[0].splitlines()


def main() -> int:
    faults = Faults()
    print(HEAD, end="", flush=True)
    with contextlib.redirect_stdout(sys.stderr):
        places = sys.argv[1:] or [str(ROOT / "tests" / part) for part in ("batch", "pacs")]
        pytest.main([*places, "-q", "-p", "no:cacheprovider"], plugins=[faults])
    missing = [row for row in documented() if row not in faults.rows]
    for line in [*faults.skipped, *(f"not shown: {row}" for row in missing)]:
        print(line, file=sys.stderr)
    print(f"\n{len(faults.rows)} of {len(documented())} faults led to what docs/batch.md says")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
