"""The examples run as they are, on the shipped samples."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
# script -> the model it needs, a line it prints, a file it makes
EXPECTED = {
    "segment_image.py": ("nuclei_he", r"^\d+ nuclei$", "out/he/overlay.png"),
    "petct_to_dicom_seg.py": ("sarcoma_petct", r"^tumour \d+: \d+\.\d ml, SUVmax", "out/sarcoma_petct/seg.dcm"),
    "evaluate_folder.py": ("nuclei", r"^ +nucleus +1 +43 +0\.\d+", "out/nuclei_fluorescence/segments.json"),
}


def test_every_example_is_expected_here_and_short() -> None:
    assert {p.name for p in EXAMPLES.glob("*.py")} == set(EXPECTED)
    for name in EXPECTED:
        assert (EXAMPLES / name).read_text(encoding="utf-8").count("\n") <= 40


@pytest.mark.parametrize("name", EXPECTED)
def test_example_runs(name: str, tmp_path: Path) -> None:
    model, line, made = EXPECTED[name]
    if not (ROOT / "workflows" / model / "models" / "model.safetensors").is_file():
        pytest.skip(f"the {model} bundle has no weights in this checkout")
    done = subprocess.run([sys.executable, EXAMPLES / name], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(line, done.stdout, re.MULTILINE), done.stdout
    assert (tmp_path / made).is_file()
