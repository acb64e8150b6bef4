"""Reader and writer on files, as napari calls them."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from napari_medpanoptic.inputs import candidate_text, find_inputs
from napari_medpanoptic.layers import KEY, result_layers, volume_layers
from napari_medpanoptic.reader import get_reader
from napari_medpanoptic.writer import case_folder, write
from pydicom.data import get_testdata_file

from medpanoptic.errors import MedpanopticError
from medpanoptic.geometry import to_world
from medpanoptic.io import read_result, read_volume, write_result
from medpanoptic.samples import phantom, reference_path, sample_path
from tests.builders import axial_affine, write_series
from tests.builders import phantom as voxels


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


@pytest.fixture(scope="module")
def sample_layers():
    from napari_medpanoptic.sample_data import sarcoma_petct

    return sarcoma_petct()


def test_a_study_is_one_volume_with_its_pet_over_its_ct(sample_layers):
    names = [look["name"] for _, look, _ in sample_layers]
    assert names == ["sarcoma_petct CT", "sarcoma_petct MR", "sarcoma_petct PT"]
    assert len({id(look["metadata"][KEY]["volume"]) for _, look, _ in sample_layers}) == 1
    assert sample_layers[0][1]["metadata"][KEY]["path"].is_dir()


def test_the_tumour_of_the_sample_is_hot_where_the_annotators_drew_it(sample_layers):
    reference = read_volume(reference_path("sarcoma_petct"))
    place = to_world(np.argwhere(reference.array[0] > 0), reference.affine)
    data, look, _ = sample_layers[2]
    # the viewer's axes run to the feet, to posterior and to the left of the patient: -z, y, x
    index = (place[:, [2, 1, 0]] * (-1, 1, 1) - look["translate"]) / look["scale"]
    suv = data[tuple(index.round().astype(int).T)]
    assert np.median(suv) > 3
    assert np.median(data) < 0.5


def two_ct_series(tmp_path):
    for name, shift in (("one", 0), ("two", 100)):
        write_series(tmp_path / name, voxels() + shift, axial_affine(), series=name)
    return tmp_path


def test_two_series_of_one_modality_are_one_input_with_a_choice(tmp_path, model_viewer):
    folder = two_ct_series(tmp_path)
    for data, look, kind in get_reader(str(folder))(str(folder)):
        getattr(model_viewer, f"add_{kind}")(data, **look)
    assert [layer.visible for layer in model_viewer.layers] == [True, False]
    (found,) = find_inputs(model_viewer.layers)
    assert found.image == folder
    assert list(found.candidates) == ["CT"]
    for handle, volume in found.candidates["CT"].items():
        assert np.array_equal(volume.array, read_volume(folder, series=handle).array)
        assert any(handle in layer.name for layer in model_viewer.layers)
        assert candidate_text(handle, volume).startswith(f"{handle}: 5 x 6 x 7 voxels of 2.5 x 1.5 x")


def test_series_of_two_frames_of_reference_are_shown_apart(tmp_path):
    study = sample_path("sarcoma_petct")
    for name in ("CT", "MR_T1"):
        shutil.copytree(study / name, tmp_path / name)
    for file in (tmp_path / "MR_T1").rglob("*.dcm"):
        dataset = pydicom.dcmread(file)
        dataset.FrameOfReferenceUID = "2.25.1"
        dataset.save_as(file)
    layers = get_reader(str(tmp_path))(str(tmp_path))
    assert [look.get("visible", True) for _, look, _ in layers] == [True, False]
    assert [look["metadata"][KEY]["volume"].channels[0].modality for _, look, _ in layers] == ["CT", "MR"]
    assert layers[0][0].shape != layers[1][0].shape  # each on its own grid
