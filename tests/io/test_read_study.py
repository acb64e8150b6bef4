"""Studies: which series becomes which channel, on whose grid, and PET in SUV."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from builders import add_suv_tags, axial_affine, phantom, write_series
from scipy.ndimage import map_coordinates

from medpanoptic.errors import GeometryError, ReadError, SelectionError
from medpanoptic.geometry import to_index, to_world
from medpanoptic.io.nifti import write_nifti
from medpanoptic.io.read import find_series, read_study, read_volume
from medpanoptic.volume import ChannelSpec

CT = ChannelSpec("ct", "CT", "HU")
PET = ChannelSpec("pet", "PT", "SUV")
MR = ChannelSpec("mr", "MR", required=False)


def _gml(index, dataset):
    dataset.Units = "GML"


def _coarse() -> np.ndarray:
    affine = axial_affine((5.0, 3.0, 2.5))
    affine[:3, 3] += 0.4, 0.6, 1.1
    return affine


def _study(folder):
    write_series(folder / "CT" / "image", phantom(), axial_affine(), series="ct")
    write_series(folder / "PET" / "image", phantom((3, 4, 5)), _coarse(), "PT", _gml, series="pet")
    return folder


def test_channels_by_modality_on_the_grid_of_the_first(tmp_path):
    volume = read_study(_study(tmp_path), [CT, PET, MR])
    assert volume.array.shape == (3, 5, 6, 7)
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array[0], phantom())
    assert np.allclose(volume.affine, axial_affine())
    assert [(c.name, c.modality, c.unit, c.present) for c in volume.channels] == [
        ("ct", "CT", "HU", True),
        ("pet", "PT", "SUV", True),
        ("mr", "MR", "", False),
    ]
    assert not volume.array[2].any()
    assert len(volume.source.paths) == 5
    assert "pet: resampled onto the reference grid" in volume.notes
    # independent: scipy at the world position of every voxel, where PET covers it
    voxels = np.indices((5, 6, 7)).reshape(3, -1)
    there = to_index(to_world(voxels.T, axial_affine()), _coarse()).T
    inside = np.all((there >= 0) & (there <= np.array([[2], [3], [4]])), axis=0)
    expected = map_coordinates(phantom((3, 4, 5)).astype(float), there, order=1)
    assert inside.sum() > 50
    assert np.allclose(volume.array[1].ravel()[inside], expected[inside], atol=1e-3)
    far = np.any((there < -0.51) | (there > np.array([[2.51], [3.51], [4.51]])), axis=0)
    assert not volume.array[1].ravel()[far].any()


def test_reference_may_be_another_channel_and_outside_ct_is_air(tmp_path):
    volume = read_study(_study(tmp_path), [CT, PET], reference="pet")
    assert volume.shape == (3, 4, 5)
    assert np.array_equal(volume.array[1], phantom((3, 4, 5)))
    assert volume.array[0].min() == -1024
    with pytest.raises(SelectionError):
        read_study(tmp_path, [CT, PET], reference="mr")


def test_resampling_agrees_with_simpleitk(tmp_path):
    _study(tmp_path)
    ct, pet = (sitk.ReadImage(_itk_names(tmp_path / n / "image")) for n in ("CT", "PET"))
    moved = sitk.Resample(sitk.Cast(pet, sitk.sitkFloat32), ct, sitk.Transform(), sitk.sitkLinear, 0.0)
    volume = read_study(tmp_path, [CT, PET])
    assert np.allclose(volume.array[1], sitk.GetArrayFromImage(moved), atol=1e-3)


def _itk_names(folder):
    return sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))


def test_sheared_channel_is_resampled_where_it_lies(tmp_path):
    tilted = axial_affine()
    tilted[1, 0] = 0.7
    write_series(tmp_path / "ct", np.zeros((5, 6, 7), np.int16), axial_affine(), series="ct")
    # a plane wave in y: linear, so that linear interpolation is exact
    y = to_world(np.indices((5, 6, 7)).reshape(3, -1).T, tilted)[:, 1].reshape(5, 6, 7)
    write_series(tmp_path / "mr", np.round(y * 100).astype(np.int16), tilted, "MR", series="mr")
    volume = read_study(tmp_path, [CT, ChannelSpec("mr", "MR")])
    here = to_world(np.indices((5, 6, 7)).reshape(3, -1).T, axial_affine())[:, 1].reshape(5, 6, 7)
    middle = np.s_[1:4, 3:5, :]
    assert np.allclose(volume.array[1][middle], here[middle] * 100, atol=1.0)


def test_same_grid_is_not_touched_and_dtype_kept(tmp_path):
    for name in ("a", "b"):
        write_nifti(tmp_path / f"{name}.nii.gz", phantom() + (name == "b"), axial_affine())
    volume = read_study({"t1": tmp_path / "a.nii.gz", "t2": tmp_path / "b.nii.gz"})
    assert volume.array.dtype == np.int16
    assert [c.name for c in volume.channels] == ["t1", "t2"]
    assert np.array_equal(volume.array[1], phantom() + 1)


def test_ambiguous_channel_lists_handles_and_series_chooses(tmp_path):
    _study(tmp_path)
    write_series(tmp_path / "CT" / "sharp", phantom() + 500, axial_affine(), series="sharp")
    with pytest.raises(SelectionError) as caught:
        read_study(tmp_path, [CT, PET])
    assert caught.value.code == "SERIES-AMBIGUOUS"
    sharp = next(s.handle for s in find_series(tmp_path).series if s.folder == "CT/sharp")
    assert sharp in str(caught.value)
    for choice in (sharp, [sharp], {"ct": sharp}):
        assert read_study(tmp_path, [CT, PET], series=choice).array[0].min() == 500
    with pytest.raises(SelectionError) as caught:
        read_study(tmp_path, [CT, PET], series="deadbeef")
    assert caught.value.code == "NO-SERIES"
    with pytest.raises(SelectionError) as caught:
        read_study(tmp_path, [CT, PET], series={"kidney": sharp})
    assert caught.value.code == "CHANNEL-UNKNOWN"


def test_missing_required_channel(tmp_path):
    with pytest.raises(SelectionError, match="no MR series") as caught:
        read_study(_study(tmp_path), [CT, ChannelSpec("mr", "MR")])
    assert caught.value.code == "NO-SERIES"
    with pytest.raises(SelectionError):
        read_study({"ct": tmp_path / "CT"}, [CT, PET])


def test_without_specs_one_series_or_those_named(tmp_path):
    _study(tmp_path)
    assert read_study(tmp_path / "CT").channels[0].name == "CT"
    with pytest.raises(SelectionError) as caught:
        read_study(tmp_path)
    assert caught.value.code == "SERIES-AMBIGUOUS"
    handles = [s.handle for s in find_series(tmp_path).series]
    assert [c.name for c in read_study(tmp_path, series=handles).channels] == ["CT", "PT"]


def test_other_frame_of_reference_is_refused(tmp_path):
    write_series(tmp_path / "ct", phantom(), axial_affine(), series="ct")
    write_series(tmp_path / "pet", phantom(), axial_affine(), "PT", _gml, series="pet", frame_uid="1.2.3")
    for source in (tmp_path, {"ct": tmp_path / "ct", "pet": tmp_path / "pet"}):
        with pytest.raises(GeometryError) as caught:
            read_study(source, [CT, PET])
        assert caught.value.code == "MIX-FRAME"


def test_channels_far_apart_are_refused(tmp_path):
    away = axial_affine()
    away[0, 3] += 1000
    write_series(tmp_path / "ct", phantom(), axial_affine(), series="ct")
    write_series(tmp_path / "pet", phantom(), away, "PT", _gml, series="pet")
    with pytest.raises(GeometryError) as caught:
        read_study(tmp_path, [CT, PET])
    assert caught.value.code == "GEO-OVERLAP"


def test_single_nifti_for_one_required_channel(tmp_path):
    write_nifti(tmp_path / "ct.nii.gz", phantom(), axial_affine())
    volume = read_study(tmp_path / "ct.nii.gz", [CT, MR])
    assert [(c.name, c.present) for c in volume.channels] == [("ct", True), ("mr", False)]
    assert "ct: the file gives no unit, values are taken as HU" in volume.notes
    with pytest.raises(SelectionError):
        read_study(tmp_path / "ct.nii.gz", [CT, PET])


def test_suv_by_body_weight(tmp_path):
    volume = read_study(write_series(tmp_path, phantom(), axial_affine(), "PT", add_suv_tags), [PET])
    assert np.allclose(volume.array[0], phantom() * (70_000 / 100e6))
    assert volume.channels[0].unit == "SUV"


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        ({"DecayCorrection": "ADMIN"}, 70_000 / 200e6),
        # a later SeriesTime was written by post-processing: the first acquisition counts, 5 minutes after START
        ({"SeriesTime": "150000"}, 70_000 / (200e6 * 2 ** (-65 / 60))),
    ],
)
def test_suv_reference_time(tmp_path, change, factor):
    def edit(index, dataset):
        add_suv_tags(index, dataset)
        for keyword, value in change.items():
            setattr(dataset, keyword, value)

    volume = read_volume(write_series(tmp_path, phantom(), axial_affine(), "PT", edit))
    assert np.allclose(volume.array[0], phantom() * factor)


def test_injection_before_midnight(tmp_path):
    def edit(index, dataset):
        add_suv_tags(index, dataset)
        dataset.SeriesTime, dataset.AcquisitionTime = "003000", "003500"
        dataset.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartTime = "233000"

    volume = read_volume(write_series(tmp_path, phantom(), axial_affine(), "PT", edit))
    assert np.allclose(volume.array[0], phantom() * (70_000 / 100e6))


@pytest.mark.parametrize(
    "missing", ["PatientWeight", "DecayCorrection", "RadionuclideTotalDose", "RadionuclideHalfLife"]
)
def test_suv_names_what_is_missing(tmp_path, missing):
    def edit(index, dataset):
        add_suv_tags(index, dataset)
        for place in (dataset, dataset.RadiopharmaceuticalInformationSequence[0]):
            if missing in place:
                delattr(place, missing)

    write_series(tmp_path, phantom(), axial_affine(), "PT", edit)
    with pytest.raises(ReadError, match=missing) as caught:
        read_study(tmp_path, [PET])
    assert caught.value.code == "SUV-MISSING"
    # it can still be looked at, in the unit of the file
    volume = read_volume(tmp_path)
    assert volume.channels[0].unit == "BQML"
    assert np.array_equal(volume.array[0], phantom())
    assert any(missing in note for note in volume.notes)


@pytest.mark.parametrize("units", ["CNTS", "PROPCPS", None])
def test_other_units_are_refused(tmp_path, units):
    def edit(index, dataset):
        add_suv_tags(index, dataset)
        dataset.Units = units

    write_series(tmp_path, phantom(), axial_affine(), "PT", edit)
    with pytest.raises(ReadError) as caught:
        read_volume(tmp_path)
    assert caught.value.code == "SUV-UNIT"


def test_gml_by_lean_body_mass_is_refused(tmp_path):
    def edit(index, dataset):
        dataset.Units, dataset.SUVType = "GML", "LBM"

    with pytest.raises(ReadError) as caught:
        read_volume(write_series(tmp_path, phantom(), axial_affine(), "PT", edit))
    assert caught.value.code == "SUV-UNIT"


def test_scan_long_after_injection_is_refused(tmp_path):
    def edit(index, dataset):
        add_suv_tags(index, dataset)
        dataset.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime = "20191201100000"

    with pytest.raises(ReadError) as caught:
        read_volume(write_series(tmp_path, phantom(), axial_affine(), "PT", edit))
    assert caught.value.code == "SUV-TIME"
