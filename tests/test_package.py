"""What is installed: public names, versions that agree, and a wheel that works away from the checkout."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import medpanoptic

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("name", medpanoptic.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(medpanoptic, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        medpanoptic.nothing  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, medpanoptic; print([m for m in ('torch', 'monai', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_dependency_is_pinned_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    extras = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    for requirement in map(Requirement, PROJECT["dependencies"] + extras):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
    # a local tag would tie everybody to one build of torch
    assert not [version for version in pinned.values() if "+" in version]


def third_party_imports(folder: Path) -> set[str]:
    nodes = [node for path in folder.rglob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    own = {"medpanoptic", "napari_medpanoptic"}
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - own


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("medpanoptic", ("viewer", "train", "batch")), ("napari_plugin/napari_medpanoptic", ("viewer",))],
)
def test_everything_imported_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    lines = PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    distributions = packages_distributions()
    # napari brings these with it; its own guides for plugins name the first two, its canvas is the third
    allowed = {"qtpy", "magicgui", "vispy"} if "plugin" in folder else set()
    for module in third_party_imports(ROOT / folder) - allowed:
        assert {canonicalize_name(d) for d in distributions.get(module, [module])} & declared, module


def test_versions_agree() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE).group(1) == medpanoptic.__version__  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network and unpacked in a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run_installed(site: Path, code: str) -> str:
    """Run code against the unpacked wheel, away from the checkout."""
    prelude = f"import sys; sys.path.insert(0, {str(site)!r}); "
    done = subprocess.run([sys.executable, "-c", prelude + code], cwd=site, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_wheel_holds_every_sample_and_bundle(installed: Path) -> None:
    for folder in ("sample_data", "workflows"):
        tracked = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True)
        if tracked.returncode:
            pytest.skip("not a git checkout: cannot tell which files belong")
        missing = [f for f in tracked.stdout.splitlines() if not (installed / "medpanoptic" / f).is_file()]
        assert not missing


def test_the_wheel_brings_no_other_top_level_name(installed: Path) -> None:
    names = {p.name for p in installed.iterdir() if not p.name.endswith(".dist-info")}
    assert names == {"medpanoptic", "napari_medpanoptic"}


def test_installed_samples_and_bundles_are_found_without_the_checkout(installed: Path) -> None:
    code = (
        "from medpanoptic.samples import SAMPLES, sample_path, reference_path; "
        "paths = [find(name) for name in SAMPLES for find in (sample_path, reference_path)]; "
        "print(all(path.exists() and path.is_relative_to(sys.path[0]) for path in paths))"
    )
    assert run_installed(installed, code) == "True"
    code = "from medpanoptic.bundle import list_bundles; print(sorted(b.name for b in list_bundles()))"
    shipped = sorted(p.parents[1].name for p in (ROOT / "workflows").glob("*/models/model.safetensors"))
    assert run_installed(installed, code) == str(shipped)


def test_entry_points_lead_somewhere(installed: Path) -> None:
    (entries,) = installed.glob("*.dist-info/entry_points.txt")
    text = entries.read_text(encoding="utf-8")
    assert "medpanoptic = medpanoptic.cli:main" in text
    assert "medpanoptic = napari_medpanoptic:napari.yaml" in text
    assert (installed / "napari_medpanoptic" / "napari.yaml").is_file()
    assert run_installed(installed, "from medpanoptic.cli import main; main(['--version'])") == (
        f"medpanoptic {medpanoptic.__version__}"
    )
