"""The command line as a person meets it: what is said where, files made, exit status."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medpanoptic import __version__
from medpanoptic.cli import main
from medpanoptic.io import read_result, write_result
from medpanoptic.samples import PHANTOM_CLASSES, phantom, sample_path

ROOT = Path(__file__).resolve().parents[1]


def needs_weights(*names: str) -> None:
    for name in names:
        if not (ROOT / "workflows" / name / "models" / "model.safetensors").is_file():
            pytest.skip(f"the {name} bundle has no weights in this checkout")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run a command line; return (status, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, " ".join(err.split())

    return call


@pytest.fixture(scope="session")
def result_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result folder made from a 2D phantom."""
    volume, truth = phantom(2)
    folder = tmp_path_factory.mktemp("truth") / "disc"
    write_result(truth, folder, volume=volume)
    return folder


# ---- help, version, errors


def test_help_comes_at_once_and_loads_nothing_heavy() -> None:
    heavy = ("torch", "monai", "pandas", "numpy", "scipy", "pydicom", "napari")
    code = (
        "import sys; from medpanoptic.cli import main\n"
        "try: main(['segment', '--help'])\n"
        f"finally: print('LOADED', [m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "LOADED []" in done.stderr
    assert "--model" in done.stdout
    # about 0.3 s on a quiet machine; the limit leaves room for a busy one
    assert time.monotonic() - started < 5


def test_version(run) -> None:  # type: ignore[no-untyped-def]
    assert run("--version") == (0, f"medpanoptic {__version__}\n", "")


@pytest.mark.parametrize("words", [["nothing"], ["segment"], ["segment", "a.png", "--model"]])
def test_a_command_line_that_is_not_understood_has_status_2(run, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert "Error" in err


def test_an_error_is_one_line_with_a_code_and_no_traceback(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run("segment", tmp_path / "gone.png", "-o", tmp_path, "--model", "nuclei")
    assert (status, out) == (1, "")
    assert err.startswith("error [NOT-FOUND]")
    assert "Traceback" not in err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    words = ["--debug", "inspect", str(tmp_path / "gone")]
    done = subprocess.run([sys.executable, "-m", "medpanoptic", *words], capture_output=True, text=True)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_the_text_of_a_foreign_exception_is_not_shown(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def leak() -> None:
        raise ValueError("Doe^John")

    monkeypatch.setattr("medpanoptic.bundle.list_bundles", leak)
    status, out, err = run("models")
    assert (status, out) == (1, "")
    assert "error [INTERNAL] unexpected ValueError" in err
    assert "Doe" not in err


# ---- segment: what is refused before any work


def test_two_cases_of_one_name_are_refused_before_any_work(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("a.png", "a.tif"):
        (tmp_path / name).write_bytes(b"")
    status, _, err = run("segment", tmp_path / "a.png", tmp_path / "a.tif", "-o", tmp_path / "out", "--model", "x")
    assert status == 1
    assert "[CASE-TWICE]" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--model", "x"], r"[INPUT] give INPUT or --channel"),
        (["--model", "x", "--channel", "ct"], r"[INPUT] --channel takes NAME=VALUE, got 'ct'"),
        (["a.png", "--model", "x", "--format", "nifti,jpg"], "[FORMAT-UNKNOWN] no format 'jpg'; known are"),
        (["a.png", "--model", "x"], "[MODEL-NAME] no model 'x'"),
    ],
)
def test_requests_that_cannot_be_met(run, tmp_path, monkeypatch, words: list[str], text: str) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"")
    status, out, err = run("segment", *words, "-o", "out")
    assert (status, out) == (1, "")
    assert f"error {text}" in err
    assert not Path("out").exists()


# ---- models, inspect, convert


def test_models_as_json_says_what_each_takes_and_finds(run) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run("models", "--json")
    assert (status, err) == (0, "")
    rows = {row["name"]: row for row in json.loads(out)}
    shipped = {p.parents[1].name for p in (ROOT / "workflows").glob("*/models/model.safetensors")}
    assert set(rows) == shipped
    for row in rows.values():
        assert row["things"]
        assert row["channels"][0]["name"]
        assert len(row["weights_sha256"]) == 64


def test_inspect_lists_series_verdicts_and_skipped_files(run) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run("inspect", sample_path("sarcoma_petct"))
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert {(r[1], r[3], r[-1]) for r in rows[1:4]} == {("CT", "47", "OK"), ("MR", "47", "OK"), ("PT", "47", "OK")}
    assert out.splitlines()[-1].startswith("skipped 1: RT Structure Set Storage")


def test_inspect_shows_a_missing_slice(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(sample_path("sarcoma_petct") / "CT", tmp_path / "CT")
    sorted((tmp_path / "CT").glob("*.dcm"))[20].unlink()
    status, out, _ = run("inspect", tmp_path)
    assert status == 0
    assert "GEO-GAP" in out


def test_inspect_of_a_folder_without_dicom_fails(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "notes.txt").write_text("x")
    status, out, _ = run("inspect", tmp_path)
    assert status == 1
    assert "notes.txt" in out


def test_convert_writes_the_formats_asked_for(run, result_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run("convert", result_folder, "-o", tmp_path / "disc", "--format", "coco, csv")
    assert status == 0
    # what the formats cannot hold is said, and nothing else
    assert err.startswith("csv does not hold: ")
    assert " coco does not hold: " in err
    names = {Path(line).name for line in out.splitlines()}
    assert {"coco_panoptic.json", "panoptic.png", "segments.csv"} <= names
    assert all(Path(line).exists() for line in out.splitlines())
    np.testing.assert_array_equal(read_result(tmp_path / "disc").ids, read_result(result_folder).ids)


def test_convert_to_dicom_seg_without_dicom_is_an_error(run, result_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    status, _, err = run("convert", result_folder, "-o", tmp_path / "disc", "--format", "dicom-seg")
    assert status == 1
    assert "error [FORMAT-NDIM]" in err
    assert not (tmp_path / "disc").exists()


def test_evaluate_prints_a_table_and_writes_it(run, result_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run("evaluate", result_folder.parent, result_folder.parent, "-o", tmp_path / "scores.csv")
    assert (status, err) == (0, "")
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    assert "1.000" in rows["lesion"]
    assert "1.000" in rows["soft tissue"]
    assert (tmp_path / "scores.csv").read_text(encoding="utf-8").startswith("class,kind,cases,")


@pytest.mark.parametrize("words", [("{gone}", "{case}"), ("{case}", "{gone}")])
def test_evaluate_names_a_place_that_is_not_there(run, result_folder: Path, tmp_path: Path, words) -> None:  # type: ignore[no-untyped-def]
    places = [word.format(gone=tmp_path / "gone", case=result_folder.parent) for word in words]
    assert run("evaluate", *places) == (1, "", f"error [NOT-FOUND] {tmp_path / 'gone'} does not exist")


def test_evaluate_of_a_place_without_results_is_an_error(run, result_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run("evaluate", tmp_path, result_folder.parent)
    assert (status, out) == (1, "")
    assert err.startswith("error [DATA-CASES]")


# ---- segment: the whole way, with an untrained network so that a fresh clone tests it too


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Bundles with random weights: {2: one image, 3: CT and PET, MR optional}."""
    import torch

    from medpanoptic.bundle import pack_bundle
    from medpanoptic.networks import build

    channels = {
        2: [{"name": "image"}],
        3: [
            {"name": "ct", "modality": "CT", "unit": "HU"},
            {"name": "pet", "modality": "PT", "unit": "SUV"},
            {"name": "mr", "modality": "MR", "required": False},
        ],
    }
    folders = {}
    for dims, taken in channels.items():
        torch.manual_seed(0)
        arguments = {"spatial_dims": dims, "in_channels": len(taken), "out_channels": 2, "thing_channels": [0]}
        arguments |= {"fpn_channels": 8, "head_channels": 8, "norm": "group"}
        network = build.efficientps_centres(**arguments)
        described = {
            "classes": PHANTOM_CLASSES.to_json(),
            "channels": taken,
            # a coarse grid in 3D: the network is not what is tested
            "preprocessing": [
                *([{"_target_": "Spacingd", "pixdim": [8.0, 8.0, 8.0]}] if dims == 3 else []),
                {"_target_": "NormalizeChannelsd", "rules": [{"percentiles": [0, 100]}]},
            ],
            "window": [32] * dims,
            "overlap": 0.25,
        }
        folder = tmp_path_factory.mktemp("bundles") / f"untrained{dims}d"
        definition = {"_target_": "medpanoptic.networks.build.efficientps_centres", **arguments}
        metadata = {"version": "0.0.1", "medpanoptic": described}
        folders[dims] = pack_bundle(folder, network.state_dict(), metadata=metadata, network_def=definition).folder
    return folders


def test_an_output_that_cannot_be_is_refused_before_the_network_runs(  # type: ignore[no-untyped-def]
    run, tmp_path: Path, untrained: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medpanoptic.segmenter.Segmenter.predict", lambda *_, **__: pytest.fail("the network ran"))
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "mine" / "a").mkdir(parents=True)
    for name in ("prediction.safetensors", "notes.txt"):
        (tmp_path / "mine" / "a" / name).write_text("mine")
    words = ("segment", tmp_path / "a.png", "--model", untrained[2], "--device", "cpu", "-o")
    assert "error [FOLDER-FOREIGN] a:" in run(*words, tmp_path / "mine")[2]
    assert len(list((tmp_path / "mine" / "a").iterdir())) == 2
    assert "a.png is a file" in run(*words, tmp_path / "a.png")[2]
    assert "error [FORMAT-NDIM] a:" in run(*words, tmp_path / "out", "--format", "dicom-seg")[2]


def test_segment_goes_on_after_a_bad_input_and_says_so(run, tmp_path: Path, untrained: dict[int, Path]) -> None:  # type: ignore[no-untyped-def]
    images = tmp_path / "images"
    images.mkdir()
    with Image.open(sample_path("nuclei_fluorescence")) as image:
        image.crop((0, 0, 64, 64)).save(images / "b.png")
    (images / "a.png").write_bytes(b"not a picture")
    status, out, err = run("segment", images, "-o", tmp_path / "out", "--model", untrained[2], "--device", "cpu")
    assert status == 3
    assert "error [IMAGE-UNREADABLE] a:" in err
    assert "Research use only" in err
    assert out.startswith(f"{tmp_path / 'out' / 'b'}: ")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"b"}
    made = {p.name for p in (tmp_path / "out" / "b").iterdir()}
    assert {"panoptic.tif", "segments.json", "segments.csv", "overlay.png"} <= made


def test_segment_fails_if_every_input_does(run, tmp_path: Path, untrained: dict[int, Path]) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a.png").write_bytes(b"not a picture")
    status, out, _ = run("segment", tmp_path / "a.png", "-o", tmp_path / "out", "--model", untrained[2])
    assert (status, out) == (1, "")


def test_a_dicom_study_gets_a_dicom_seg_and_no_tag_leaves_it(run, tmp_path: Path, untrained: dict[int, Path]) -> None:  # type: ignore[no-untyped-def]
    study = tmp_path / "monday"
    for modality in ("CT", "PET"):
        shutil.copytree(sample_path("sarcoma_petct") / modality, study / modality)
    status, out, err = run("segment", study, "-o", tmp_path / "out", "--model", untrained[3], "--device", "cpu")
    assert status == 0, err
    assert out.startswith(f"{tmp_path / 'out' / 'monday'}: ")
    assert "warning [CHANNEL-MISSING] monday: channel mr is missing" in err
    made = {p.name: p for p in (tmp_path / "out" / "monday").iterdir()}
    assert {"panoptic.nii.gz", "segments.json", "segments.csv", "overlay.png", "seg.dcm"} <= set(made)
    # the patient's name, which stands in every DICOM file, goes into the SEG and nowhere else
    assert b"STS_019" in made["seg.dcm"].read_bytes()
    assert b"STS_019" not in made["segments.json"].read_bytes()
    assert "STS_019" not in out + err


def test_channels_from_files_make_one_case(run, tmp_path: Path, untrained: dict[int, Path]) -> None:  # type: ignore[no-untyped-def]
    paths = {name: sample_path("sarcoma_petct") / folder for name, folder in (("ct", "CT"), ("pet", "PET"))}
    options = [word for name, path in paths.items() for word in ("--channel", f"{name}={path}")]
    status, out, err = run("segment", *options, "-o", tmp_path, "--model", untrained[3], "--format", "csv")
    assert status == 0, err
    assert out.startswith(f"{tmp_path / 'CT'}: ")
    assert "seg.dcm" not in {p.name for p in (tmp_path / "CT").iterdir()}


# ---- the shipped models


def test_demo_runs_every_model_on_its_sample(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    needs_weights("nuclei", "nuclei_he", "sarcoma_petct")
    status, out, err = run("demo", "-o", tmp_path, "--device", "cpu")
    assert status == 0, err
    assert "Research use only" in err
    for name in ("nuclei_fluorescence", "he_colon", "sarcoma_petct"):
        assert str(tmp_path / name / "overlay.png") in out
        assert (tmp_path / name / "overlay.png").stat().st_size > 1000
    assert (tmp_path / "sarcoma_petct" / "seg.dcm").is_file()
    agreement = [float(v) for v in re.findall(r"(?:PQ|Dice) (\d\.\d\d)", out)]
    # far under the validation figures of the cards: a sample must not be a fluke of a broken install
    assert len(agreement) == 3
    assert min(agreement) > 0.3
