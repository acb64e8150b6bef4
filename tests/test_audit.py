"""`tasks.py audit`: clean, holes and "could not be asked" are three outcomes, and none is a traceback."""

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in for pip-audit is a shell script")


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("tasks", ROOT / "tasks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def stand_in(folder: Path, *, install: int = 0, status: int = 0, said: str = "") -> None:
    """Put a Python in .venv-audit that installs with one status, and audits with another and some words."""
    python = folder / ".venv-audit" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (folder / "said").write_text(said)
    python.write_text(f"#!/bin/sh\ncase $2 in pip) exit {install};; esac\ncat {folder}/said >&2\nexit {status}\n")
    python.chmod(0o755)


OUTCOMES = {
    "clean": (0, 0, "No known vulnerabilities found\n", 0, "no pinned version has a known hole"),
    "holes": (0, 1, "Found 2 known vulnerabilities in 1 package\n", 1, "raise these versions"),
    "no service": (0, 1, "Traceback (most recent call last):\n  x\nConnectionError: refused\n", 3, "AUDIT-UNREACHABLE"),
    "unknown": (0, 1, "ERROR:pip_audit: a: Dependency not found on PyPI\n", 3, "AUDIT-UNREACHABLE"),
    "silent": (0, 1, "", 3, "AUDIT-UNREACHABLE"),
    "no index": (1, 0, "", 3, "AUDIT-UNREACHABLE"),
}


@pytest.mark.parametrize("kind", OUTCOMES)
def test_each_outcome_has_a_status_and_a_line(tasks, tmp_path, capfd, kind):
    install, status, said, expected, line = OUTCOMES[kind]
    stand_in(tmp_path, install=install, status=status, said=said)
    assert tasks.audit([]) == expected
    printed = capfd.readouterr().err
    assert line in printed
    assert "Traceback" not in printed
