"""The container examples do what they say when their environment is set, here without a container."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from peers import study_files
from tiny_batch import pack_tiny, study_uid

from medpanoptic.cli import main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
pytestmark = pytest.mark.skipif(shutil.which("sh") is None, reason="needs a POSIX shell")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return pack_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def run(tmp_path):
    """Return a function: run a script with the medpanoptic of this Python."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "medpanoptic"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m medpanoptic "$@"\n')
    command.chmod(0o755)

    def script(path, **environment):
        path_variable = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        settings = {**os.environ, "PATH": path_variable, **{k: str(v) for k, v in environment.items()}}
        return subprocess.run(["sh", path], env=settings, capture_output=True, text=True, timeout=180)

    return script


def kinds(files):
    datasets = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    assert {dataset.StudyInstanceUID for dataset in datasets} == {study_uid(1)}
    return sorted(dataset.Modality for dataset in datasets)


def test_mercure_module(tmp_path, model, run):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for path in study_files(tmp_path):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        path.rename(tmp_path / "in" / f"{header.SeriesInstanceUID}#{header.SOPInstanceUID}.dcm")
    (tmp_path / "in" / "task.json").write_text(json.dumps({"process": {"settings": {}}}))
    script = EXAMPLES / "mercure" / "docker-entrypoint.sh"
    places = {"MERCURE_IN_DIR": tmp_path / "in", "MERCURE_OUT_DIR": tmp_path / "out"}
    done = run(script, MEDPANOPTIC_MODEL=model, **places)
    assert done.returncode == 0, done.stderr
    assert kinds((tmp_path / "out").iterdir()) == ["SEG", "SR"]
    assert "1.2.826" not in done.stdout + done.stderr
    # a study that cannot be done fails the task
    (tmp_path / "bin" / "medpanoptic").write_text("#!/bin/sh\nexit 3\n")
    assert run(script, MEDPANOPTIC_MODEL=model, **places).returncode == 3


def test_monai_deploy_container(tmp_path, model, run):
    study_files(tmp_path)[0].parent.rename(tmp_path / "input")
    places = {"HOLOSCAN_INPUT_PATH": f"{tmp_path / 'input'}/", "HOLOSCAN_OUTPUT_PATH": f"{tmp_path / 'output'}/"}
    # what the script asks for is done here, without a start of its own
    (tmp_path / "bin" / "medpanoptic").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    done = run(EXAMPLES / "monai_deploy" / "run.sh", HOLOSCAN_MODEL_PATH=model, **places)
    with pytest.raises(SystemExit) as ended:
        main(done.stdout.splitlines())
    assert not ended.value.code
    assert kinds((tmp_path / "output" / "input").glob("*.dcm")) == ["SEG", "SR"]


@pytest.mark.parametrize("name", ["mercure", "monai_deploy"])
def test_the_steps_of_a_dockerfile_run_and_leave_its_command(tmp_path, name):
    """All but ``pip install``, in a folder that stands for the root of the image."""
    lines = (EXAMPLES / name / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    for part in ("examples", "workflows/sarcoma_petct"):
        shutil.copytree(EXAMPLES.parent / part, tmp_path / "src" / part)
    (steps,) = [line.removeprefix("RUN ") for line in lines if line.startswith("RUN ")]
    assert " /src " in steps.partition("pip install")[2]
    steps = re.sub(r"(?<=\s)/(?=[a-z])", f"{tmp_path}/", steps.replace("pip install", "true"))
    subprocess.run(["sh", "-eu", "-c", steps], check=True, cwd=tmp_path)
    assert not (tmp_path / "src").exists()
    (command,) = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD ")]
    script = tmp_path / command[0].lstrip("/")
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", script], check=True)
    named = [part.partition("=") for line in lines if line.startswith("ENV ") for part in line.split()[1:]]
    for variable, _, path in named:
        if path.startswith("/") and path != "/tmp":
            assert (tmp_path / path.lstrip("/")).exists(), variable


def test_the_manifests_agree():
    app = json.loads((EXAMPLES / "monai_deploy" / "app.json").read_text())
    package = json.loads((EXAMPLES / "monai_deploy" / "pkg.json").read_text())
    assert app["command"] == package["applicationRoot"] + "run.sh"
    assert app["environment"]["HOLOSCAN_MODEL_PATH"] in package["models"].values()
