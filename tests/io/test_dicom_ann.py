"""Bulk annotations: polygons that fill back to the cells, coded, measured, valid, the same twice."""

import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from builders import PATIENT_NAME, axial_affine, phantom, write_series
from PIL import Image
from results import CLASSES
from skimage.draw import polygon2mask
from slides import pattern, write_slide

from medpanoptic.errors import WriteError
from medpanoptic.geometry import spatial_affine
from medpanoptic.io import read_result, read_volume, write_result
from medpanoptic.result import PanopticResult, Provenance, Segment

ROOT = Path(__file__).resolve().parents[2]
PROVENANCE = Provenance("nuclei", "1.0", "ab" * 32, "0.1.0")


@pytest.fixture
def slide(tmp_path):
    return read_volume(write_slide(tmp_path / "slide" / "a.dcm", pattern()))


def result_on(slide, **changes):
    """Two lesions, the second in two parts with a hole in the larger one, on stuff."""
    ids = np.zeros(slide.shape, np.int32)
    ids[:15] = 9
    ids[1:3, 2:5] = 3
    ids[5:9, 6:11] = 300
    ids[6, 7] = 9
    ids[20, 20] = 300
    fields = {
        "ids": ids,
        "segments": (Segment(3, 1, 0.25), Segment(9, 7), Segment(300, 1, 0.5)),
        "classes": CLASSES,
        "affine": slide.affine,
        "source": slide.source,
        "provenance": PROVENANCE,
    }
    return PanopticResult(**{**fields, **changes})


def written(result, folder, **more):
    return write_result(result, folder, formats=("dicom-ann",), **more)["dicom-ann"]


def in_pixels(slide, graphic_data):
    """3D coordinates of highdicom's reader -> (N, 2) column, row of the level, by highdicom's own transformer."""
    header = pydicom.dcmread(slide.source.paths[0])
    to_pixels = hd.spatial.ReferenceToImageTransformer.for_image(header, for_total_pixel_matrix=True)
    # its image coordinates count from the corner of the first pixel, as DICOM has it
    return [to_pixels(points.astype(float))[:, :2] for points in graphic_data]


def test_polygons_fill_back_to_the_cells(tmp_path, slide):
    (path,) = written(result_on(slide), tmp_path / "out")
    (group,) = hd.ann.annread(path).get_annotation_groups()
    polygons = in_pixels(slide, group.get_graphic_data("3D"))
    assert polygons[0] == pytest.approx(np.array([[2, 1], [5, 1], [5, 3], [2, 3]]), abs=0.02)
    filled = [polygon2mask(slide.shape, p[:, ::-1] - 0.5) for p in polygons]
    first, second = (np.zeros(slide.shape, bool) for _ in range(2))
    first[1:3, 2:5] = second[5:9, 6:11] = True  # the largest part, its hole filled
    assert np.array_equal(filled[0], first)
    assert np.array_equal(filled[1], second)


def test_a_slide_without_an_origin_has_polygons_in_pixels(tmp_path):
    def no_origin(dataset):
        del dataset.TotalPixelMatrixOriginSequence

    slide = read_volume(write_slide(tmp_path / "slide" / "a.dcm", pattern(), edit=no_origin))
    (path,) = written(result_on(slide), tmp_path / "out")
    assert pydicom.dcmread(path).PixelOriginInterpretation == "VOLUME"
    (group,) = hd.ann.annread(path).get_annotation_groups()
    assert group.get_graphic_data("2D")[0].tolist() == [[2, 1], [5, 1], [5, 3], [2, 3]]


def test_it_says_what_where_how_large_and_who_found_it(tmp_path, slide):
    (path,) = written(result_on(slide), tmp_path / "out")
    annotations = hd.ann.annread(path)
    (group,) = annotations.get_annotation_groups()
    assert (group.label, group.annotated_property_type.value) == ("lesion", "52988006")
    names, values, units = group.get_measurements()
    assert [(n.meaning, u.value) for n, u in zip(names, units, strict=True)] == [
        ("Area", "um2"),
        ("Certainty of Finding", "%"),
    ]
    assert values == pytest.approx(np.array([[6 * 0.25, 25], [20 * 0.25, 50]]))
    assert group.algorithm_type.value == "AUTOMATIC"
    assert group.algorithm_identification.name == "medpanoptic nuclei"
    dataset = pydicom.dcmread(path)
    source = pydicom.dcmread(slide.source.paths[0])
    (reference,) = dataset.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == source.SeriesInstanceUID
    assert reference.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert dataset.StudyInstanceUID == source.StudyInstanceUID
    assert str(dataset.PatientName) == PATIENT_NAME
    assert dataset.AnnotationCoordinateType == "3D"
    assert dataset.FrameOfReferenceUID == source.FrameOfReferenceUID


def test_a_rerun_makes_the_same_bytes_and_other_cells_another_object(tmp_path, slide):
    a, b = (written(result_on(slide), tmp_path / name)[0] for name in "ab")
    assert a.read_bytes() == b.read_bytes()
    ids = result_on(slide).ids.copy()
    ids[0, 0] = 3
    (c,) = written(result_on(slide, ids=ids), tmp_path / "c")
    uids = {pydicom.dcmread(p).SOPInstanceUID for p in (a, c)}
    assert len(uids) == 2


def test_after_reading_back_the_slide_must_be_given(tmp_path, slide):
    write_result(result_on(slide), tmp_path / "a")
    back = read_result(tmp_path / "a")
    with pytest.raises(WriteError, match="FORMAT-NEEDS-DICOM"):
        written(back, tmp_path / "b")
    assert written(back, tmp_path / "b", volume=slide)[0].read_bytes() == (
        written(result_on(slide), tmp_path / "c")[0].read_bytes()
    )


def test_edited_and_added_cells_are_said(tmp_path, slide):
    def kind(*origins):
        segments = tuple(
            Segment(i, c, 1.0, origin)
            for (i, c), origin in zip(((3, 1), (9, 7), (300, 1)), (origins[0], "predicted", origins[1]), strict=True)
        )
        (path,) = written(result_on(slide, segments=segments), tmp_path / "out")
        return hd.ann.annread(path).get_annotation_groups()[0].algorithm_type.value

    assert kind("predicted", "edited") == kind("predicted", "added") == "SEMIAUTOMATIC"
    assert kind("added", "added") == "MANUAL"


def test_nothing_found_writes_no_file(tmp_path, slide):
    ids = np.where(result_on(slide).ids == 9, 9, 0).astype(np.int32)
    assert written(result_on(slide, ids=ids, segments=(Segment(9, 7),)), tmp_path / "out") == []


def test_other_grids_and_other_sources_are_refused(tmp_path, slide):
    with pytest.raises(WriteError, match="DICOM-GEOMETRY"):
        written(result_on(slide, affine=spatial_affine((0.5, 0.5))), tmp_path / "out")
    series = read_volume(write_series(tmp_path / "ct", phantom((1, 23, 31)), axial_affine()))
    with pytest.raises(WriteError, match="FORMAT-NEEDS-SLIDE"):
        written(result_on(slide, source=series.source), tmp_path / "out")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (Debian dicom3tools)")
def test_dciodvfy_finds_no_error(tmp_path, slide):
    (path,) = written(result_on(slide), tmp_path / "out")
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True).stderr
    assert "MicroscopyBulkSimpleAnnotations" in said
    assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_a_slide_is_segmented_from_end_to_end(tmp_path, capfd):
    """H&E as a DICOM slide -> the shipped model -> annotations on that slide."""
    if not (ROOT / "workflows" / "nuclei_he" / "models" / "model.safetensors").is_file():
        pytest.skip("the nuclei_he bundle has no weights in this checkout")
    from medpanoptic.cli import main

    with Image.open(ROOT / "sample_data" / "he_colon.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))[:256, :256]
    folder = write_slide(tmp_path / "study" / "a.dcm", pixels, tile=(128, 128), spacing=0.00025).parent
    words = ["segment", folder, "-o", tmp_path / "out", "--model", "nuclei_he", "--format", "dicom-ann,geojson"]
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert not stop.value.code, capfd.readouterr().err
    case = tmp_path / "out" / "study"
    result = read_result(case)
    groups = hd.ann.annread(case / "ann.dcm").get_annotation_groups()
    assert sum(g.number_of_annotations for g in groups) == len(result.things) > 10
    assert (case / "annotations.geojson").is_file()
