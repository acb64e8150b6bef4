"""Docs stay true: links lead somewhere, commands exist, and the Python in the README runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "workflows").glob("*/docs/*.md")])
PAGES.append(ROOT / "sample_data" / "README.md")


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def weights(name: str) -> Path:
    return ROOT / "workflows" / name / "models" / "model.safetensors"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_relative_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [t for t in targets if "://" not in t and not t.startswith("mailto:")]
    assert not [t for t in local if not (page.parent / t).exists()]


@pytest.mark.parametrize("page", ["README.md", "docs/command_line.md"])
def test_every_command_is_in_the_table(page: str) -> None:
    from medpanoptic.cli import app

    listed = re.findall(r"^\| `medpanoptic (\w+)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == [command.name or command.callback.__name__ for command in app.registered_commands]  # type: ignore[union-attr]


def test_the_readme_has_exactly_two_set_up_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("## Try it", 1)[1].split("```sh\n", 1)[1].split("```", 1)[0]
    assert [line.split(" #")[0].strip() for line in block.splitlines()] == [
        "python3 tasks.py demo",
        "python3 tasks.py test",
    ]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "python3 tasks.py test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    if not weights("nuclei").is_file():
        pytest.skip("the nuclei bundle has no weights in this checkout")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+ nucleus score [01]\.\d\d \d+ pixels$", done.stdout, re.MULTILINE)
    made = {p.name for p in (tmp_path / "out" / "nuclei_fluorescence").iterdir()}
    assert {"panoptic.tif", "segments.json", "segments.csv", "overlay.png", "coco_panoptic.json"} <= made
