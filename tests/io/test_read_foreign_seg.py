"""DICOM SEG of highdicom, dcmqi and others: read by stated rules, in the right place, or refused by name."""

import json
import subprocess

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_results import (
    CLASSES,
    GRIDS,
    SHAPE,
    dcmqi_tool,
    image_points,
    result_on,
    volume_of,
    world_points,
    write_series,
)
from pydicom.sr.codedict import codes

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.errors import MedpanopticError, ReadError
from medpanoptic.geometry import to_index
from medpanoptic.io import write_result
from medpanoptic.io.dicom_seg_read import read_dicom_seg

AXIAL = GRIDS["axial"]


def written(result, folder, kind="dicom-seg"):
    return write_result(result, folder, formats=(kind,))[kind][0]


# ---- those of others

TUMOUR = (codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm)
LIVER = (codes.SCT.Tissue, codes.SCT.Liver)


def foreign(folder, masks, described, kind="BINARY", **changes):
    """Write a SEG by plain highdicom: masks (slice, row, column, segment); described: (category, type) of each."""
    source = write_series(folder / "in", AXIAL)
    headers = [pydicom.dcmread(p, stop_before_pixels=True) for p in source.paths]
    for header in headers:
        header.PatientName = ""
        del header.SpacingBetweenSlices
    segments = [
        hd.seg.SegmentDescription(n, f"Secret label {n}", *pair, "MANUAL") for n, pair in enumerate(described, 1)
    ]
    seg = hd.seg.Segmentation(
        headers, masks, kind, segments, *("1.2.9", 1, "1.2.9.1", 1, "Maker", "Model", "1", "serial"), **changes
    )
    path = folder / "foreign.dcm"
    seg.save_as(path)
    return path


def boxes(*places):
    masks = np.zeros((*SHAPE, len(places)), np.uint8)
    for n, place in enumerate(places):
        masks[(*place, n)] = 1
    return masks


WHOLE = (slice(None), slice(1, 11), slice(1, 9))
FIRST = (slice(1, 3), slice(2, 6), slice(2, 6))
SECOND = (slice(2, 4), slice(4, 8), slice(4, 8))


def test_codes_become_classes_and_labels_stay_out(tmp_path):
    result = read_dicom_seg(foreign(tmp_path, boxes(FIRST, (4, 1, 1), (0, 0, 0)), [TUMOUR, TUMOUR, LIVER]))
    assert [(c.id, c.name, c.is_thing) for c in result.classes] == [(1, "Neoplasm", True), (2, "Liver", False)]
    assert [(s.id, s.class_id, s.origin) for s in result.segments] == [
        (1, 1, "added"),
        (2, 1, "added"),
        (3, 2, "added"),
    ]
    assert "Secret" not in repr((result.classes, result.segments, result.provenance))


def test_things_lie_over_stuff_which_is_kept_below(tmp_path):
    masks = boxes(WHOLE, FIRST)
    for order in ([0, 1], [1, 0]):
        folder = tmp_path / str(order[0])
        folder.mkdir()
        result = read_dicom_seg(foreign(folder, masks[..., order], [(LIVER, TUMOUR)[i] for i in order]))
        names = {s.id: result.classes[s.class_id].name for s in result.segments}
        tumour = next(i for i, name in names.items() if name == "Neoplasm")
        assert np.array_equal(result.ids == tumour, masks[..., 1] > 0)
        assert np.array_equal(result.ids > 0, masks[..., 0] > 0)
        assert np.array_equal(result.stuff > 0, masks[..., 0] > 0)
        assert set(np.unique(result.stuff)) == {0, next(c.id for c in result.classes if c.name == "Liver")}
        assert "things lie over stuff" in result.provenance.parameters["notes"][0]


def test_overlapping_things_need_a_choice(tmp_path):
    masks = boxes(FIRST, SECOND)
    path = foreign(tmp_path, masks, [TUMOUR, TUMOUR])
    with pytest.raises(ReadError, match=r"SEG-OVERLAP.*segments 1 and 2.*overlap="):
        read_dicom_seg(path)
    first, last = (read_dicom_seg(path, overlap=choice) for choice in ("first", "last"))
    low = masks[1:4]
    assert np.array_equal(first.ids, np.where(low[..., 0], 1, 2 * low[..., 1]))
    assert np.array_equal(last.ids, np.where(low[..., 1], 2, low[..., 0]))
    assert first.provenance.parameters["notes"] == ["segments 1 and 2 overlap: the first has the voxels"]


def test_a_segment_that_is_covered_is_named(tmp_path):
    result = read_dicom_seg(foreign(tmp_path, boxes(WHOLE, FIRST), [TUMOUR, TUMOUR]), overlap="first")
    assert [s.id for s in result.segments] == [1]
    assert "segments without a voxel: 2" in result.provenance.parameters["notes"]


def test_known_classes_take_segments_whose_codes_agree(tmp_path):
    """The old SNOMED code of a neoplasm is the same concept."""
    old = (codes.SCT.MorphologicallyAbnormalStructure, hd.sr.CodedConcept("M-8FFFF", "SRT", "Neoplasm"))
    path = foreign(tmp_path, boxes(FIRST, (4, 1, 1)), [old, LIVER])
    known = ClassTable((ClassInfo(7, "tumour", True, (9, 9, 9), CLASSES[1].category, CLASSES[1].type),))
    result = read_dicom_seg(path, classes=known)
    assert result.classes[7] == known[7]
    assert [(s.id, result.classes[s.class_id].name) for s in result.segments] == [(1, "tumour"), (2, "Liver")]


def test_segments_of_one_stuff_class_become_one(tmp_path):
    path = foreign(tmp_path, boxes(FIRST, (4, 1, 1)), [LIVER, LIVER])
    assert [s.class_id for s in read_dicom_seg(path).segments] == [1, 1]
    liver = ClassInfo(3, "liver", False, (1, 2, 3), Code("85756007", "SCT", "Tissue"), Code("10200004", "SCT", "Liver"))
    result = read_dicom_seg(path, classes=ClassTable((liver,)))
    assert [(s.id, s.class_id) for s in result.segments] == [(1, 3)]
    assert result.sizes == {1: 33}
    assert "became one" in result.provenance.parameters["notes"][0]


def test_a_fractional_segmentation_needs_a_threshold(tmp_path):
    masks = boxes(FIRST, (4, 1, 1)) * np.float32(0.6)
    masks[1, 2, 2] = 0.3
    path = foreign(tmp_path, masks, [TUMOUR, LIVER], "FRACTIONAL")
    with pytest.raises(ReadError, match=r"SEG-FRACTIONAL.*threshold=0.5"):
        read_dicom_seg(path)
    assert read_dicom_seg(path, threshold=0.5).sizes == {1: 31, 2: 1}
    assert read_dicom_seg(path, threshold=0.25).sizes == {1: 32, 2: 1}


def edited(path, change):
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)
    return path


def measures(data):
    return data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


GAPS = ((0, 2, 2), (3, 4, 5), (4, 1, 1))


@pytest.mark.parametrize("wrong", [99, 0, 0.001, None, 2.2])
def test_a_wrong_spacing_between_slices_is_not_used(tmp_path, wrong):
    def change(data):
        measures(data).SpacingBetweenSlices = wrong
        if wrong is None:
            del measures(data).SpacingBetweenSlices

    result = read_dicom_seg(edited(foreign(tmp_path, boxes(*GAPS), [TUMOUR] * 3), change))
    assert result.ids.shape == SHAPE
    assert world_points(result.ids, result.affine) == world_points(boxes(*GAPS).any(-1), AXIAL)
    assert ("notes" in result.provenance.parameters) == (wrong in (99, 0.001, 2.2))


def test_spacing_between_slices_tells_of_gaps_that_positions_do_not(tmp_path):
    path = foreign(tmp_path, boxes((0, 2, 2), (2, 4, 5), (4, 1, 1)), [TUMOUR] * 3)
    result = read_dicom_seg(path)
    assert result.ids.shape == SHAPE
    no_hint = read_dicom_seg(edited(path, lambda d: delattr(measures(d), "SpacingBetweenSlices")))
    assert no_hint.ids.shape == (3, *SHAPE[1:])
    for back in (result, no_hint):
        assert world_points(back.ids == 2, back.affine) == world_points(boxes((2, 4, 5))[..., 0], AXIAL)


def move(data, frame, by):
    place = data.PerFrameFunctionalGroupsSequence[frame].PlanePositionSequence[0]
    place.ImagePositionPatient = [float(v) + b for v, b in zip(place.ImagePositionPatient, by, strict=True)]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: move(d, 0, (0, 0, 1.3)), "GEO-SPACING"),
        (lambda d: move(d, 0, (2, 0, 0)), "GEO-SPACING"),
        (lambda d: move(d, 0, (0, 0, 3e9)), "READ-TOO-LARGE"),
        (lambda d: delattr(measures(d), "PixelSpacing"), "GEO-PIXEL-SPACING"),
        (lambda d: d.PerFrameFunctionalGroupsSequence[1].pop("PlanePositionSequence"), "GEO-POSITION"),
        (lambda d: d.SharedFunctionalGroupsSequence[0].pop("PlaneOrientationSequence"), "GEO-ORIENTATION"),
        (lambda d: d.pop("PerFrameFunctionalGroupsSequence"), "GEO-POSITION"),
        (lambda d: d.pop("SegmentSequence"), "SEG-DAMAGED"),
        (lambda d: d.SegmentSequence.pop(), "SEG-DAMAGED"),
        (lambda d: d.SegmentSequence[0].pop("SegmentedPropertyTypeCodeSequence"), "SEG-DAMAGED"),
        (lambda d: d.PerFrameFunctionalGroupsSequence[1].pop("SegmentIdentificationSequence"), "SEG-DAMAGED"),
        (lambda d: setattr(d, "NumberOfFrames", 2), "SEG-DAMAGED"),
        (lambda d: setattr(d, "PixelData", d.PixelData[:20]), "PIXELS-UNREADABLE"),
        (lambda d: d.pop("PixelData"), "PIXELS-UNREADABLE"),
        (lambda d: d.pop("Rows"), "SEG-DAMAGED"),
        (lambda d: setattr(d, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"), "RESULT-UNKNOWN"),
        (lambda d: setattr(d, "TotalPixelMatrixColumns", 5), "SEG-SLIDE"),
    ],
)
def test_what_is_wrong_has_a_name(tmp_path, change, code):
    path = edited(foreign(tmp_path, boxes(*GAPS), [TUMOUR] * 3), change)
    with pytest.raises(MedpanopticError) as caught:
        read_dicom_seg(path)
    assert caught.value.code == code


def test_a_single_slice_has_the_depth_of_its_slice_or_of_the_image(tmp_path):
    path = foreign(tmp_path, boxes((2, 4, 5)), [TUMOUR])
    assert read_dicom_seg(path).affine[2, 0] == 3.0

    def forget(data):
        del measures(data).SliceThickness, measures(data).SpacingBetweenSlices

    with pytest.raises(MedpanopticError, match="GEO-SINGLE"):
        read_dicom_seg(edited(path, forget))
    image = volume_of(result_on(AXIAL, write_series(tmp_path / "again", AXIAL)))
    assert np.argwhere(read_dicom_seg(path, image).ids).tolist() == [[2, 4, 5]]


# ---- dcmqi


def itk_image(array, affine):
    image = SimpleITK.GetImageFromArray(array)
    image.SetOrigin(affine[:3, 3].tolist())
    spacing = np.linalg.norm(affine[:3, 2::-1], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, 2::-1] / spacing).ravel().tolist())
    return image


@pytest.mark.parametrize("grid", ["axial", "head first", "oblique"])
def test_what_dcmqi_makes_is_read_in_its_place(tmp_path, grid):
    tool, affine = dcmqi_tool("itkimage2segimage"), GRIDS[grid]
    source = write_series(tmp_path / "in", affine)
    for path in source.paths:
        edited(path, lambda data: data.pop("SpacingBetweenSlices"))
    labels = boxes(FIRST, (4, 1, 1), WHOLE)
    labels = np.select(list(np.moveaxis(labels, -1, 0) > 0), [1, 2, 3]).astype(np.uint8)
    SimpleITK.WriteImage(itk_image(labels, affine), str(tmp_path / "labels.nrrd"))

    def code(concept):
        return {
            "CodeValue": concept.value,
            "CodingSchemeDesignator": concept.scheme_designator,
            "CodeMeaning": concept.meaning,
        }

    described = [
        {
            "labelID": n,
            "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": code(pair[0]),
            "SegmentedPropertyTypeCodeSequence": code(pair[1]),
        }
        for n, pair in enumerate([TUMOUR, TUMOUR, LIVER], 1)
    ]
    meta = {"ContentCreatorName": "a", "SeriesDescription": "b", "segmentAttributes": [described]}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    out = tmp_path / "seg.dcm"
    command = [tool, "--inputImageList", str(tmp_path / "labels.nrrd"), "--inputDICOMDirectory", str(tmp_path / "in")]
    command += ["--inputMetadata", str(tmp_path / "meta.json"), "--outputDICOM", str(out), "--skip"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert out.exists(), run.stdout + run.stderr
    result = read_dicom_seg(out, volume_of(result_on(affine, source)))
    assert np.array_equal(result.ids, labels)
    assert [result.classes[s.class_id].name for s in result.segments] == ["Neoplasm", "Neoplasm", "Liver"]


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("seg_sr/liver.dcm", ["Liver"], 1),
        ("seg_sr/seg.dcm", ["Neoplasm, Primary"], 1),
        ("seg_11_lesions/seg.dcm", ["Neoplasm, Primary", "Neoplasm, Secondary"], 11),
    ],
)
def test_real_ones_equal_what_dcmqi_reads(shared_data, tmp_path, name, classes, count):
    path = shared_data(f"data/dicom/{name}")
    result = read_dicom_seg(path)
    assert [c.name for c in result.classes] == classes
    assert len(result.segments) == count
    command = [dcmqi_tool("segimage2itkimage"), "--inputDICOM", str(path), "--outputDirectory", str(tmp_path)]
    subprocess.run([*command, "--outputType", "nrrd"], check=True, capture_output=True, timeout=60)
    points = [to_index(sorted(image_points(p)), result.affine) for p in tmp_path.glob("*.nrrd")]
    theirs = {frozenset(map(tuple, np.rint(p).astype(int).tolist())) for p in points}
    assert theirs == {frozenset(map(tuple, np.argwhere(result.ids == s.id).tolist())) for s in result.segments}


def test_a_real_labelmap_with_a_gap_and_overlapping_segments(shared_data):
    sparse = read_dicom_seg(shared_data("data/dicom/seg_sr/sparse-labelmap-noppv.dcm"))
    assert (sparse.ids.shape, [s.tracking_uid for s in sparse.segments]) == ((3, 38, 24), ["1.2.3"])
    assert not sparse.ids[1].any()
    with pytest.raises(ReadError, match="SEG-OVERLAP"):
        read_dicom_seg(shared_data("data/dicom/seg_sr/partial_overlaps.dcm"))
