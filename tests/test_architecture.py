"""The house keeps its shape: imports point one way, nothing above the line knows torch or Qt, files stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "medpanoptic"
PLUGIN = ROOT / "napari_plugin"

# part of the package -> the parts it may import; a part may always import itself
BASE = {"errors", "geometry", "classes", "volume", "result"}
NUMPY_SIDE = BASE | {
    "identity",
    "io",
    "cases",
    "measure",
    "metrics",
    "review",
    "match",
    "samples",
    "native",
    "stored",
    "memory",
    "stages",
}
TORCH_SIDE = {
    "networks",
    "crops",
    "fusion",
    "refusion",
    "stitching",
    "tiling",
    "preprocess",
    "bundle",
    "segmenter",
    "training",
    "batch",
}
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "geometry": {"errors"},
    "classes": {"errors"},
    "volume": {"errors", "geometry"},
    "result": {"errors", "geometry", "classes", "volume"},
    "networks": set(),
    "crops": {"networks", *BASE},
    "fusion": {"networks", "crops", *BASE},
    "stitching": {"networks"},
    "tiling": {"networks", "stitching", "errors", "memory", "stages"},
    "native": {"geometry", "result"},
    "memory": set(),
    "stages": set(),
    "stored": {"native", *BASE},
    "refusion": {"networks", "fusion", "identity", "io", "native", "stages", "stored", *BASE},
    "samples": set(BASE),
    "preprocess": {"io", *BASE},
    "bundle": {"networks", "bundle_configs", *BASE},
    "bundle_configs": {"errors"},
    "segmenter": NUMPY_SIDE | TORCH_SIDE - {"training", "batch"},
    "training": NUMPY_SIDE | TORCH_SIDE - {"batch"},
    "batch": NUMPY_SIDE | TORCH_SIDE - {"training"},
    "pacs": NUMPY_SIDE | TORCH_SIDE - {"training"},
    "demo": NUMPY_SIDE | {"segmenter", "bundle"},
    "console": {"errors"},
    "cases": {"errors", "io"},
    "cli": NUMPY_SIDE | TORCH_SIDE | {"console", "demo", "pacs"},
    "__main__": {"cli"},
    "__init__": NUMPY_SIDE | {"segmenter", "refusion"},
}
HEAVY = ("torch", "monai", "qtpy", "PySide6", "PyQt5", "PyQt6", "napari", "magicgui", "napari_medpanoptic")


def part_of(path: Path) -> str:
    """io/dicom.py -> io, result.py -> result."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: write imports in full, not relative"
            # "from medpanoptic import io" imports a part, "from medpanoptic.io import x" names it already
            yield from (
                (f"medpanoptic.{a.name}" for a in node.names) if node.module == "medpanoptic" else (node.module or "",)
            )


def top_level_imports(path: Path) -> Iterator[str]:
    """The modules that importing a file imports at once."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


MODULES = sorted(p for p in PACKAGE.rglob("*.py"))
SOURCES = sorted(
    [*MODULES, *PLUGIN.rglob("*.py"), *(ROOT / "examples").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_arrows_never_turn(path: Path) -> None:
    part = part_of(path)
    allowed = ARROWS.get(part, NUMPY_SIDE) | {part}
    parts = {module.split(".")[1] for module in imports(path) if module.startswith("medpanoptic.")}
    parts -= {"__version__"}
    assert parts <= allowed, f"{part} may not import {sorted(parts - allowed)}"


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) in NUMPY_SIDE], ids=name)
def test_no_torch_and_no_qt_above_the_line(path: Path) -> None:
    assert not [m for m in imports(path) if m.split(".")[0] in HEAVY]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_nothing_imports_the_viewer(path: Path) -> None:
    """The one way from the library to the viewer is a person's ``demo --view``."""
    viewer = {m.split(".")[0] for m in imports(path)} & {"napari", "napari_medpanoptic", "qtpy", "magicgui"}
    assert not viewer or (part_of(path) in {"cli", "demo"} and viewer == {"napari"})
    assert "napari" not in {m.split(".")[0] for m in top_level_imports(path)}


LIGHT = [*(PACKAGE / "cli").glob("*.py"), PACKAGE / "__init__.py", PACKAGE / "__main__.py"]


@pytest.mark.parametrize("path", LIGHT, ids=name)
def test_the_command_line_imports_nothing_heavy(path: Path) -> None:
    slow = {*HEAVY, "numpy", "pandas", "scipy", "pydicom", "highdicom", "nibabel", "SimpleITK"}
    assert not [m for m in top_level_imports(path) if m.split(".")[0] in slow]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_stay_small_and_say_what_is_in_them(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}
    assert path.read_text(encoding="utf-8").count("\n") <= 400


@pytest.mark.parametrize("path", [*MODULES, *PLUGIN.rglob("*.py")], ids=name)
def test_no_posix_only_modules(path: Path) -> None:
    assert not {m.split(".")[0] for m in imports(path)} & {
        "fcntl",
        "resource",
        "pwd",
        "grp",
        "termios",
        "pty",
        "syslog",
    }


def test_importing_above_the_line_loads_no_torch() -> None:
    there = sorted({part_of(p) for p in MODULES} & NUMPY_SIDE)
    lines = ["import sys", *(f"import medpanoptic.{part}" for part in there)]
    lines.append("print([m for m in ('torch', 'monai', 'qtpy', 'napari') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", "; ".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
