"""DICOM slides: one level in its place, or a refusal by name; never tiles in a guessed order."""

import numpy as np
import pytest
from slides import item, pattern, write_slide

from medpanoptic.errors import MedpanopticError
from medpanoptic.geometry import to_world
from medpanoptic.io import dicom_slide, find_series, read_study, read_volume
from medpanoptic.volume import ChannelSpec

ALL = [(r, c) for r in range(3) for c in range(4)]


def pixels_of(volume):
    return np.moveaxis(volume.array, 0, -1)


@pytest.mark.parametrize("sparse", [None, ALL, ALL[::-1]], ids=["full", "sparse", "sparse in reverse"])
def test_a_level_is_read_whole_and_in_place(tmp_path, sparse):
    volume = read_volume(write_slide(tmp_path / "a.dcm", pattern(), sparse=sparse).parent)
    assert np.array_equal(pixels_of(volume), pattern())
    assert [(c.name, c.modality) for c in volume.channels] == [("red", "SM"), ("green", "SM"), ("blue", "SM")]
    assert volume.calibrated
    # columns run along -y and rows along -x of the slide, from (20, 40)
    assert to_world([[0, 0], [2, 0], [0, 3]], volume.affine) == pytest.approx(
        np.array([[20, 40, 0], [20 - 2 * 0.0005, 40, 0], [20, 40 - 3 * 0.0005, 0]])
    )
    assert volume.source.sop_uids
    assert volume.source.paths == (tmp_path / "a.dcm",)
    assert volume.source.downsample == 1


def test_absent_tiles_are_white_and_said(tmp_path):
    volume = read_volume(write_slide(tmp_path / "a.dcm", pattern(20, 16), sparse=[(1, 0), (0, 1)]))
    wanted = pattern(20, 16).copy()
    wanted[:10, :8] = wanted[10:, 8:] = 255
    assert np.array_equal(pixels_of(volume), wanted)
    assert "50.0% of the slide has no tiles and is white" in volume.notes


def test_gray_slides_have_one_channel(tmp_path):
    gray = pattern()[..., 0]
    volume = read_volume(write_slide(tmp_path / "a.dcm", gray))
    assert np.array_equal(volume.array, gray[None])


def test_the_finest_level_or_the_one_that_is_named(tmp_path):
    write_slide(tmp_path / "b.dcm", pattern())
    write_slide(tmp_path / "a.dcm", pattern()[::2, ::2], spacing=0.001)
    fine, coarse = find_series(tmp_path).series
    assert (fine.modality, fine.shape, fine.code) == ("SM", (1, 23, 31), "OK")
    assert coarse.spacing == (0.001, 0.001)
    assert read_volume(tmp_path).shape == (23, 31)
    found = read_volume(tmp_path, series=coarse.handle)
    assert found.shape == (12, 16)
    assert found.source.downsample == 2
    study = read_study(tmp_path, [ChannelSpec("image")], series=[coarse.handle])
    assert study.shape == (12, 16)
    with pytest.raises(MedpanopticError, match="NO-SERIES"):
        read_volume(tmp_path, series="00000000")


def test_two_slides_or_two_images_of_one_size_are_a_choice(tmp_path):
    write_slide(tmp_path / "two" / "a.dcm", pattern())
    write_slide(tmp_path / "two" / "b.dcm", pattern(), series="another")
    write_slide(tmp_path / "twins" / "a.dcm", pattern())
    write_slide(tmp_path / "twins" / "b.dcm", pattern())
    for name in ("two", "twins"):
        with pytest.raises(MedpanopticError, match=r"SERIES-AMBIGUOUS(.|\n)*23 x 31"):
            read_volume(tmp_path / name)


def test_labels_and_overviews_are_no_levels(tmp_path):
    def is_label(dataset):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]

    write_slide(tmp_path / "label.dcm", pattern(), edit=is_label)
    with pytest.raises(MedpanopticError, match="NO-SERIES"):
        read_volume(tmp_path)


def put(**elements):
    return lambda dataset: [setattr(dataset, k, v) for k, v in elements.items()]


def drop(*keywords):
    return lambda dataset: [dataset.pop(k) for k in keywords]


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (drop("DimensionOrganizationType"), "SLIDE-TILES.*order is unknown"),
        (put(DimensionOrganizationType="TILED_SPARSE"), "SLIDE-TILES"),
        (put(NumberOfFrames=11), "SLIDE-TILES.*11 tiles"),
        (put(NumberOfFrames=24), "SLIDE-TILES"),
        (put(TotalPixelMatrixFocalPlanes=2), "SLIDE-LAYERS"),
        (put(OpticalPathSequence=[item(OpticalPathIdentifier="1"), item(OpticalPathIdentifier="2")]), "SLIDE-LAYERS"),
        (put(ConcatenationUID="1.2.3"), "SLIDE-PARTS"),
        (put(PhotometricInterpretation="PALETTE COLOR"), "IMAGE-COLOR"),
        (put(BitsAllocated=16), "IMAGE-COLOR"),
        (drop("SharedFunctionalGroupsSequence"), "GEO-PIXEL-SPACING"),
        (put(SharedFunctionalGroupsSequence=[item(PixelMeasuresSequence=[item(PixelSpacing=[0, 1])])]), "GEO-PIXEL"),
        (drop("ImageOrientationSlide"), "GEO-ORIENTATION"),
        (put(ImageOrientationSlide=[0, -1, 0, 0, -1, 0]), "GEO-ORIENTATION"),
        (drop("PixelData"), "PIXELS-MISSING"),
        (lambda d: setattr(d, "PixelData", d.PixelData[:-480]), "PIXELS-UNREADABLE"),
        (put(TotalPixelMatrixRows=2**20, TotalPixelMatrixColumns=2**20, Rows=2**15, Columns=2**15, NumberOfFrames=1024),
         "READ-TOO-LARGE"),
    ],
)  # fmt: skip
def test_what_cannot_be_placed_is_refused_by_name(tmp_path, edit, code):
    write_slide(tmp_path / "a.dcm", pattern(), edit=edit)
    with pytest.raises(MedpanopticError, match=code) as caught:
        read_volume(tmp_path)
    assert "Secret" not in str(caught.value)
    if code.startswith(("SLIDE", "GEO", "IMAGE")):
        (info,) = find_series(tmp_path).series
        assert info.code.startswith(code.split(".")[0])


@pytest.mark.parametrize(
    ("places", "code"),
    [([(0, 0), (0, 0)], "SLIDE-LAYERS"), ([(0, 0), (3, 0)], "SLIDE-TILES.*outside")],
)
def test_sparse_tiles_must_have_places_of_their_own(tmp_path, places, code):
    with pytest.raises(MedpanopticError, match=code):
        read_volume(write_slide(tmp_path / "a.dcm", pattern(), sparse=places))


def test_a_sparse_tile_without_a_place_is_refused(tmp_path):
    def forget(dataset):
        dataset.PerFrameFunctionalGroupsSequence[1] = item()

    with pytest.raises(MedpanopticError, match=r"SLIDE-TILES.*without a position"):
        read_volume(write_slide(tmp_path / "a.dcm", pattern(), sparse=ALL, edit=forget))


def test_a_level_too_large_names_those_that_are_not(tmp_path, monkeypatch):
    write_slide(tmp_path / "a.dcm", pattern())
    write_slide(tmp_path / "b.dcm", pattern()[::2, ::2], spacing=0.001)
    small = find_series(tmp_path).series[1].handle

    def check(shape, *_):
        if shape[1] > 20:
            raise dicom_slide.ReadError("READ-TOO-LARGE", "too large")

    monkeypatch.setattr(dicom_slide, "check_size", check)
    with pytest.raises(MedpanopticError, match=rf"READ-TOO-LARGE(.|\n)*{small}  12 x 16  1 um"):
        read_volume(tmp_path)


# ---- slides of others


def test_the_real_pyramid_reads_as_it_was_stitched(shared_data):
    from PIL import Image

    folder = shared_data("data/wsi_samples/dicom_cmu1_small_region")
    volume = read_volume(folder)
    with Image.open(shared_data("data/wsi_samples/cmu1_small_region_from_dicom.jpg")) as picture:
        stitched = np.asarray(picture).astype(int)
    assert np.abs(pixels_of(volume).astype(int) - stitched).mean() < 1.5  # that one was compressed once more
    assert [s.shape[1:] for s in find_series(folder).series][::5] == [(2967, 2220), (92, 69)]


@pytest.mark.parametrize("name", ["sm_image.dcm", "sm_image_jpegls.dcm"])
def test_highdicom_agrees(shared_data, name):
    import highdicom as hd

    path = shared_data(f"data/wsi_samples/highdicom_tiny/{name}")
    image = hd.imread(path)
    volume = read_volume(path)
    theirs = image.get_total_pixel_matrix(dtype=np.uint8, apply_icc_profile=False)
    assert np.array_equal(pixels_of(volume), theirs)
    to_slide = hd.spatial.PixelToReferenceTransformer.for_image(image, for_total_pixel_matrix=True)
    corners = np.array([[0, 0], [49, 0], [0, 49]])  # (column, row)
    assert to_world(corners[:, ::-1], volume.affine) == pytest.approx(to_slide(corners), abs=1e-9)


def test_columns_first_without_positions_is_refused(shared_data):
    with pytest.raises(MedpanopticError, match="SLIDE-TILES"):
        read_volume(shared_data("data/wsi_samples/tcga_xk_aaju_small.dcm"))
