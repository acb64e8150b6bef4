"""Reader and writer on files, as napari calls them."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest
from napari_medpanoptic.layers import KEY, result_layers, volume_layers
from napari_medpanoptic.reader import get_reader
from napari_medpanoptic.writer import case_folder, write
from pydicom.data import get_testdata_file

from medpanoptic.errors import MedpanopticError
from medpanoptic.io import read_result, write_result
from medpanoptic.samples import phantom


@pytest.fixture
def nifti(tmp_path):
    """A volume with the one bright voxel far to the head, posterior and the patient's right."""
    data = np.zeros((4, 5, 6), np.float32)  # (x, y, z) in RAS
    data[3, 0, 5] = 1
    path = tmp_path / "head.right.nii.gz"
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 2.0, 3.0, 1.0])), path)
    return path


def test_nifti_is_shown_head_up_and_right_on_the_left(nifti):
    ((data, look, kind),) = get_reader(str(nifti))(str(nifti))
    assert kind == "image"
    assert look["name"] == "head.right"
    assert look["scale"] == (3.0, 2.0, 1.0)
    # first slice (head), last row (posterior), first column (patient's right)
    assert np.argwhere(data == 1).tolist() == [[0, 4, 0]]


def test_our_folder_and_its_table_open_as_labels(tmp_path):
    _, truth = phantom(3, shape=(12, 14, 16))
    write_result(truth, tmp_path / "case7")
    for path in (tmp_path / "case7", tmp_path / "case7" / "segments.json"):
        layers = get_reader(str(path))(str(path))
        assert [(look["name"], kind) for _, look, kind in layers] == [
            ("case7 stuff", "labels"),
            ("case7 things", "labels"),
        ]
        assert layers[1][1]["features"]["index"].tolist() == [s.id for s in truth.things]


def test_a_folder_is_ours_by_content_only(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    assert get_reader(str(tmp_path)) is None
    deep = tmp_path / "study" / "series"
    deep.mkdir(parents=True)
    shutil.copy(get_testdata_file("CT_small.dcm"), deep / "IM0001")
    assert get_reader(str(tmp_path)) is not None


def test_pictures_and_stacks_of_paths_are_left_alone(tmp_path):
    assert get_reader(str(tmp_path / "a.png")) is None
    assert get_reader([str(tmp_path / "a.nii"), str(tmp_path / "b.nii")]) is None
    assert get_reader([str(tmp_path / "a.nii")]) is not None


def test_an_error_carries_its_code_into_naparis_notification(tmp_path):
    path = tmp_path / "bad.nii"
    path.write_bytes(b"no image")
    with pytest.raises(MedpanopticError) as caught:
        get_reader(str(path))(str(path))
    assert caught.value.message.startswith(f"[{caught.value.code}] ")


@pytest.mark.parametrize("dims", [2, 3])
def test_edited_layers_are_written_and_read_back(tmp_path, dims):
    volume, truth = phantom(dims)
    layers = [*volume_layers(volume, "p"), *result_layers(truth, "p")]
    things = next(d for d, look, _ in layers if look["metadata"][KEY]["role"] == "things")
    gone = truth.things[0].id
    things[things == gone] = 0
    files = write(str(tmp_path / "out"), layers)
    back = read_result(tmp_path / "out")
    assert gone not in {s.id for s in back.segments}
    assert np.array_equal(back.ids == truth.things[1].id, truth.ids == truth.things[1].id)
    assert all((tmp_path / "out").joinpath(name).is_file() for name in ("segments.json", "segments.csv", "overlay.png"))
    assert str(tmp_path / "out" / "segments.json") in files


@pytest.mark.parametrize(
    ("given", "folder"),
    [("x/case", "x/case"), ("x/case.segments.json", "x/case"), ("x/case/segments.json", "x/case"), ("x/a.b", "x/a.b")],
)
def test_names_of_the_save_dialog_mean_folders(given, folder, tmp_path):
    assert case_folder(str(tmp_path / given)) == tmp_path / folder
