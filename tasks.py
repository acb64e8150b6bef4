#!/usr/bin/env python3
"""The tasks of this project, each by one command: ``python3 tasks.py TASK``.

demo    segment the sample data with the three shipped models and write demo_out/ (add --view for napari)
test    every check: format, lint, types, and the tests with the viewer
check   format, lint and types only
fix     let ruff mend what it can
gui     open napari with the plugin
docs    run the code in README and docs, check their links
audit   hold constraints.txt against the public list of known holes; needs the network, and is no part of test

demo and gui make .venv-demo, the others .venv-test, in this folder, with the versions of constraints.txt; an
environment that is up to date is used again. ``--here`` uses the Python that runs this file and installs
nothing. Whatever follows ``--`` goes to the tool: ``tasks.py test -- tests/test_cli.py -x``.
Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# what a bare Debian 12 lacks: virtual environments, a real viewer without a screen, the DICOM checker and archive
SYSTEM_PACKAGES = (  # noqa: SIM905
    "python3-venv xvfb xauth libgl1 libegl1 libopengl0 libgl1-mesa-dri libxkbcommon-x11-0 libdbus-1-3 libfontconfig1 "
    "libglib2.0-0 libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 "
    "libxcb-shape0 libxcb-xfixes0 libxcb-xkb1 dicom3tools orthanc orthanc-dicomweb"
).split()


def say(text: str) -> None:
    """Print a line of progress, in step with what the tools print."""
    print(f"tasks: {text}", file=sys.stderr, flush=True)


def run(command: list[str], **environment: str) -> int:
    """Run a command in the project folder and return its exit status."""
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL).returncode


def must(command: list[str], **environment: str) -> None:
    """Run a command that has to succeed."""
    status = run(command, **environment)
    if status:
        sys.exit(f"tasks: failed with status {status}: {' '.join(command)}")


def venv_python(folder: Path) -> Path:
    """Where a virtual environment keeps its Python, on every system."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def fingerprint(extras: set[str]) -> str:
    """What an environment depends on: the two files that name versions, this Python, the extras."""
    digest = hashlib.sha256()
    for name in ("constraints.txt", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return f"{digest.hexdigest()} {sys.version_info.major}.{sys.version_info.minor} {ROOT} {','.join(sorted(extras))}"


def is_current(folder: Path, extras: set[str]) -> bool:
    """Tell whether an environment was finished from the same files and has at least these extras."""
    stamp = folder / "medpanoptic.stamp"
    if not venv_python(folder).exists() or not stamp.exists():
        return False
    has = set(stamp.read_text(encoding="utf-8").rpartition(" ")[2].split(",")) - {""}
    return has >= extras and stamp.read_text(encoding="utf-8") == fingerprint(has)


def environment(name: str, extras: set[str]) -> str:
    """Make or reuse a virtual environment with the project installed editable; return its Python."""
    folder = ROOT / name
    if is_current(folder, extras):
        return str(venv_python(folder))
    say(f"making {name} (a few minutes, about 1-2 GB) ...")
    try:
        # a sound environment that lacks an extra is added to
        venv.create(folder, clear=not is_current(folder, set()), with_pip=True, symlinks=os.name != "nt")
    except subprocess.CalledProcessError:
        sys.exit("tasks: this Python cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv")
    python = str(venv_python(folder))
    target = f".[{','.join(sorted(extras))}]" if extras else "."
    pip = [python, "-m", "pip", "install", "-q", "--no-input", "--disable-pip-version-check"]
    must([*pip, "-c", "constraints.txt", "-e", target])
    # written last: an interrupted install is made anew
    (folder / "medpanoptic.stamp").write_text(fingerprint(extras), encoding="utf-8")
    return python


def needs_system_packages(asked: bool) -> bool:
    """System packages are touched only on request or on a CI machine, and only where that can work."""
    on_debian = bool(shutil.which("apt-get")) and hasattr(os, "geteuid") and os.geteuid() == 0
    if asked and not on_debian:
        sys.exit("tasks: --system-packages needs root and apt-get; install by hand: " + " ".join(SYSTEM_PACKAGES))
    if not on_debian or not (asked or os.environ.get("CI") == "true"):
        return False
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}\n", *SYSTEM_PACKAGES]
    states = subprocess.run(query, capture_output=True, text=True).stdout.split()
    return states.count("installed") < len(SYSTEM_PACKAGES)


def install_system_packages() -> None:
    """Install what the viewer and DICOM tests need from Debian."""
    say("installing system packages ...")
    had_orthanc = bool(shutil.which("Orthanc"))
    retries = ["-o", "Acquire::Retries=3"]
    must(["apt-get", "-qq", *retries, "update"])
    install = ["apt-get", "-qq", "-y", *retries, "install", "--no-install-recommends", *SYSTEM_PACKAGES]
    must(install, DEBIAN_FRONTEND="noninteractive")
    if not had_orthanc:
        # Debian starts it as a service that all the network can reach; the tests start their own on loopback
        stop = (
            ["systemctl", "disable", "--now", "orthanc"]
            if shutil.which("systemctl")
            else ["service", "orthanc", "stop"]
        )
        run(stop)


def with_screen(command: list[str]) -> list[str]:
    """Give a command a virtual screen where there is none and one can be had."""
    if sys.platform != "linux" or os.environ.get("DISPLAY"):
        return command
    if shutil.which("xvfb-run") and shutil.which("xauth"):
        return ["xvfb-run", "-a", "-s", "-screen 0 1600x1000x24", *command]
    say("no screen and no xvfb-run: the viewer tests will be skipped (apt install xvfb xauth)")
    return command


def check(python: str) -> int:
    """Lint, format and types; all three run, so that one pass shows everything."""
    ruff = [python, "-m", "ruff"]
    commands = [
        [*ruff, "check", "-q"],
        [*ruff, "format", "--check", "-q"],
        [python, "-m", "mypy", "--no-error-summary"],
    ]
    failed = [" ".join(command[2:]) for command in commands if run(command)]
    say(f"check failed: {', '.join(failed)}" if failed else "check passed")
    return int(bool(failed))


def test(python: str, arguments: list[str]) -> int:
    """Check, then the tests; pytest's summary is the last thing printed."""
    checked = 0 if arguments else check(python)
    tested = run(with_screen([python, "-m", "pytest", *arguments]))
    return tested or checked


def fix(python: str) -> int:
    """Mend lint and format."""
    ruff = [python, "-m", "ruff"]
    return run([*ruff, "check", "--fix", "-q"]) or run([*ruff, "format", "-q"])


def audit(arguments: list[str]) -> int:
    """Run pip-audit, in an environment of its own, on the pinned versions.

    Returns 0 where none has a known hole, 1 where one has, 3 where that could not be found out: a version that cannot
    be looked up counts as not audited, never as clean.
    """
    folder = ROOT / ".venv-audit"
    if not venv_python(folder).exists():
        say("making .venv-audit ...")
        venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    python = str(venv_python(folder))
    if run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "pip-audit>=2.7"]):
        return not_audited("pip-audit cannot be installed: no package index is reachable")
    pinned = ["--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off", "-r", "constraints.txt"]
    command = [python, "-m", "pip_audit", *pinned, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    holes = re.search(r"^Found \d+ known vulnerabilit.*", done.stderr, re.MULTILINE)
    if done.returncode == 0:
        say("audit: no pinned version has a known hole")
        return 0
    if holes:
        say(f"audit: {holes.group(0)}; raise these versions in constraints.txt")
        return 1
    # the last line says why; what stands above it is a traceback, or advice
    return not_audited((done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1])


def not_audited(why: str) -> int:
    """Say that nothing is known, and return the status for it."""
    say(f"AUDIT-UNREACHABLE: {why}")
    say("nothing was audited; run it again where the advisory service (https://pypi.org) can be reached")
    return 3


def main() -> int:
    """Read the command line and run one task."""
    if sys.version_info < (3, 11):  # noqa: UP036 - the newcomer's Python is what it is
        sys.exit(f"tasks: Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("demo", "test", "check", "fix", "gui", "docs", "audit"))
    parser.add_argument("--view", action="store_true", help="demo: open the results in napari")
    parser.add_argument("--here", action="store_true", help="use this Python, install nothing")
    parser.add_argument("--system-packages", action="store_true", help="test: apt-get what the viewer tests need")
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, tool = parser.parse_args(sys.argv[1:cut]), sys.argv[cut + 1 :]
    if options.task == "test" and needs_system_packages(options.system_packages):
        install_system_packages()
    if options.task == "audit":
        return audit(tool)
    if options.task in ("demo", "gui"):
        extras = {"viewer"} if options.view or options.task == "gui" else set()
        python = sys.executable if options.here else environment(".venv-demo", extras)
    else:
        python = sys.executable if options.here else environment(".venv-test", {"viewer", "train", "batch", "test"})
    commands = {
        "demo": lambda: run([python, "-m", "medpanoptic", "demo", *(["--view"] if options.view else []), *tool]),
        "gui": lambda: run([python, "-m", "napari", *tool]),
        "test": lambda: test(python, tool),
        "check": lambda: check(python),
        "fix": lambda: fix(python),
        "docs": lambda: run([python, "-m", "pytest", "tests/test_docs.py", *tool]),
    }
    return commands[options.task]()


if __name__ == "__main__":
    sys.exit(main())
