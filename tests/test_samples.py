"""The shipped samples are what their table says, come from validation parts, and phantoms carry a true truth."""

from __future__ import annotations

import csv
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medpanoptic.errors import SelectionError
from medpanoptic.samples import SAMPLES, phantom, reference_path, sample_folder, sample_path

ROOT = Path(__file__).resolve().parents[1]
SUMS = ROOT / "sample_data" / "SHA256SUMS"


def shared(part: str) -> Path:
    """A folder of the training data, where it lies beside the checkout."""
    folder = Path(os.environ.get("MEDPANOPTIC_SHARED", ROOT / ".." / "shared")).resolve() / "data" / part
    if not folder.is_dir():
        pytest.skip(f"needs the training data: {part} is not beside the checkout (MEDPANOPTIC_SHARED)")
    return folder


def rows(table: Path) -> dict[str, dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as lines:
        return {row["id"]: row for row in csv.DictReader(lines)}


def sums() -> dict[str, str]:
    return {name: digest for digest, name in (line.split("  ") for line in SUMS.read_text().splitlines())}


def test_every_file_has_its_digest_and_no_other_file_is_there() -> None:
    ours = {"SHA256SUMS", "README.md"}
    files = {
        p.relative_to(SUMS.parent).as_posix(): p for p in SUMS.parent.rglob("*") if p.is_file() and p.name not in ours
    }
    assert {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in files.items()} == sums()


def test_the_readme_names_every_digest() -> None:
    readme = (SUMS.parent / "README.md").read_text(encoding="utf-8")
    for name, digest in sums().items():
        folder = name.rpartition("/")[0]
        if folder.startswith("sarcoma_petct/"):
            lines = [line for line in SUMS.read_text().splitlines(True) if f"  {folder}/" in line]
            digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        assert digest in readme, name


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_and_references_are_there(name: str) -> None:
    assert sample_path(name).exists()
    assert reference_path(name).is_file()
    assert sample_folder() in sample_path(name).parents


def test_an_unknown_sample_is_refused_with_the_list() -> None:
    with pytest.raises(SelectionError, match=r"SAMPLE-NAME.*he_colon"):
        sample_path("brain")


@pytest.mark.parametrize("name", ["nuclei_fluorescence", "he_colon"])
def test_images_and_references_share_a_grid(name: str) -> None:
    with Image.open(sample_path(name)) as image, Image.open(reference_path(name)) as reference:
        assert image.size == reference.size
        assert 20 <= len(np.unique(np.asarray(reference))) - 1 <= 200


def test_fluorescence_is_a_validation_image() -> None:
    folder = shared("nuclei")
    digest = sums()["nuclei_fluorescence.png"]
    row = rows(folder / "index.csv")["777f7c4269279951"]
    assert row["split"] == "val"
    assert row["kind"] == "fluorescence"
    assert hashlib.sha256((folder / "images" / f"{row['id']}.png").read_bytes()).hexdigest() == digest


def test_he_is_a_crop_of_a_validation_tile() -> None:
    folder = shared("consep")
    assert rows(folder / "index.csv")["consep_train_03"]["split"] == "val"
    for part, mine in (("images", "he_colon"), ("labels", "reference/he_colon"), ("types", "reference/he_colon_types")):
        with Image.open(folder / part / "consep_train_03.png") as tile, Image.open(SUMS.parent / f"{mine}.png") as crop:
            np.testing.assert_array_equal(np.asarray(tile)[500:, :500, ...], np.asarray(crop))


def test_sarcoma_is_a_validation_patient() -> None:
    assert rows(shared("radiology") / "index.csv")["STS_019"]["split"] == "val"
    study = shared("dicom") / "studies" / "STS_019"
    for name, digest in sums().items():
        if name.startswith("sarcoma_petct/") and "RTSTRUCT" not in name:
            _, modality, file = name.split("/")
            assert hashlib.sha256((study / modality / "image" / file).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("dims", [2, 3])
def test_phantom_truth_lies_where_the_image_is_bright(dims: int) -> None:
    volume, truth = phantom(dims, spacing=(2.0,) * dims, lesions=3, seed=1)
    assert volume.shape == truth.ids.shape
    assert [s.class_id for s in truth.segments] == [2, 1, 1, 1]
    np.testing.assert_array_equal(volume.affine, truth.affine)
    class_map = truth.class_map()
    image = volume.array[0]
    assert image[class_map == 1].min() > 150 > image[class_map == 2].max() > image[class_map == 0].max() == 0


def test_phantom_is_the_same_each_time_and_other_seeds_differ() -> None:
    (a, _), (b, _), (c, _) = phantom(2, seed=3), phantom(2, seed=3), phantom(2, seed=4)
    assert a.array.tobytes() == b.array.tobytes() != c.array.tobytes()


def test_a_phantom_without_lesions_has_only_body() -> None:
    assert [s.id for s in phantom(3, lesions=0)[1].segments] == [1]
