"""Structured reports: highdicom and dcmqi read the right numbers, units and references; dciodvfy finds no error."""

import json
import subprocess
from dataclasses import replace

import highdicom as hd
import numpy as np
import pydicom
import pytest
from builders import PATIENT_NAME
from dicom_cases import CLASSES, case_on, dcmqi_tool, dicom_case, enhanced_case, errors_of_dciodvfy, nothing
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medpanoptic.classes import ClassTable
from medpanoptic.errors import WriteError
from medpanoptic.io import dicom_sr_groups as groups
from medpanoptic.io.dicom_sr import Reader, write_dicom_sr
from medpanoptic.io.write import write_result
from medpanoptic.measure import measure
from medpanoptic.result import Segment
from medpanoptic.volume import Channel, Volume


def report(path):
    return hd.sr.srread(path).content


def numbers(group):
    """{(concept, derivation): (value, unit)} of a measurement group."""
    found = {}
    for m in group.get_measurements():
        derivation = m.derivation.value if m.derivation else ""
        found[m.name.value, derivation] = (float(m.value), m.unit.value)
    return found


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return dicom_case(tmp_path_factory.mktemp("ct") / "in")


@pytest.fixture(scope="module")
def pet(tmp_path_factory):
    return dicom_case(tmp_path_factory.mktemp("pet") / "in", "PT")


def write(case, folder, **options):
    result, volume = case
    folder.mkdir(exist_ok=True)
    return write_dicom_sr(result, folder, volume, **options)[0]


def test_each_lesion_has_its_measures_in_the_right_units(ct, tmp_path):
    groups = report(write(ct, tmp_path)).get_volumetric_roi_measurement_groups()
    by_label = {g.tracking_identifier: numbers(g) for g in groups}
    assert list(by_label) == ["tumour 5", "tumour 6"]
    tumour, _ = measure(*ct)
    found = by_label["tumour 5"]
    assert found["118565006", ""] == (pytest.approx(tumour.volume_mm3, rel=1e-5), "mm3")
    assert found["103339001", ""] == (pytest.approx(tumour.long_axis.length_mm, rel=1e-5), "mm")
    assert found["103340004", ""] == (pytest.approx(tumour.short_axis.length_mm, rel=1e-5), "mm")
    assert found["112031", "373098007"] == (pytest.approx(tumour.intensities[0].mean, rel=1e-5), "[hnsf'U]")
    assert found["112031", "56851009"] == (300, "[hnsf'U]")
    assert found["111012", ""] == (87.5, "%")
    # a lesion that a person drew has no certainty of a model
    assert ("111012", "") not in by_label["tumour 6"]


def test_pet_is_reported_in_suv_with_its_peak(pet, tmp_path):
    group = report(write(pet, tmp_path)).get_volumetric_roi_measurement_groups()[0]
    values = measure(*pet)[0].intensities[0]
    assert values.unit == "SUV"
    found = numbers(group)
    assert found["126401", "373098007"] == (pytest.approx(values.mean, rel=1e-5), "g/ml{SUVbw}")
    assert found["126401", "126031"] == (pytest.approx(values.peak, rel=1e-5), "g/ml{SUVbw}")
    assert found["126401", "373098007"][0] < found["126401", "126031"][0] < found["126401", "56851009"][0]


def test_units_are_those_of_ucum():
    names = ("Millimeter", "CubicMillimeter", "Percent", "NoUnits")
    ours = (groups.MM, groups.MM3, groups.PERCENT, groups.NO_UNITS)
    for name, code in zip(names, ours, strict=True):
        known = getattr(codes.UCUM, name)
        assert (code.value, code.scheme) == (known.value, "UCUM")
    units = [unit.value for _, unit in groups.QUANTITIES.values()]
    names = ("HounsfieldUnit", "StandardizedUptakeValueBodyWeight", "BecquerelsPerMilliliter", "NoUnits")
    assert units == [getattr(codes.UCUM, n).value for n in names]
    for group, concepts in (
        (codes.cid7469, [q for q, _ in groups.QUANTITIES.values()]),
        (codes.cid7464, groups.DERIVATIONS.values()),
        (codes.cid7470, [groups.LONG_AXIS, groups.SHORT_AXIS]),
    ):
        for concept in concepts:
            assert Code(concept.value, concept.scheme, concept.meaning) in group


def test_two_channels_of_one_kind_are_told_apart(ct, tmp_path):
    result, volume = ct
    array = np.stack([volume.array[0], volume.array[0] + 1])
    both = Volume(array, volume.affine, (Channel("t1", "MR"), Channel("t2", "MR")), volume.source)
    group = report(write((result, both), tmp_path)).get_volumetric_roi_measurement_groups()[0]
    named = [m for m in group.get_measurements() if m.name.value == "110852"]
    labels = [i.TextValue for m in named for i in m[0].ContentSequence if i.ValueType == "TEXT"]
    assert labels == ["t1"] * 4 + ["t2"] * 4


def test_it_points_at_the_segments_of_the_seg_and_shares_their_tracking_uids(ct, tmp_path):
    result, volume = ct
    files = write_result(result, tmp_path / "out", formats=("dicom-seg",), volume=volume)
    seg = pydicom.dcmread(files["dicom-seg"][0])
    path = write(ct, tmp_path)
    segments = {s.TrackingUID: s for s in seg.SegmentSequence if "TrackingUID" in s}
    groups = report(path).get_volumetric_roi_measurement_groups()
    assert {g.tracking_uid for g in groups} == set(segments)
    for group in groups:
        reference = group.referenced_segment[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == seg.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == seg.SOPClassUID
        segment = segments[group.tracking_uid]
        assert reference.ReferencedSegmentNumber == segment.SegmentNumber
        assert group.tracking_identifier == segment.TrackingID
        assert group.finding_type.value == segment.SegmentedPropertyTypeCodeSequence[0].CodeValue
    evidence = {
        i.ReferencedSOPInstanceUID
        for study in pydicom.dcmread(path).CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for i in series.ReferencedSOPSequence
    }
    assert evidence == {seg.SOPInstanceUID, *result.source.sop_uids}


def test_model_observer_site_and_language_are_named(pet, tmp_path):
    _, volume = pet
    node = case_on(volume, segments=(Segment(9, 3), Segment(5, 2), Segment(6, 1)))
    content = report(write(node, tmp_path))
    group = content.get_volumetric_roi_measurement_groups(tracking_uid=None)[0]
    assert group.finding_category.value == "49755003"
    assert [s.topographical_modifier or s.value.value for s in group.finding_sites] == ["59441001"]
    text = pydicom.dcmread(tmp_path / "sr.dcm")
    root = {i.ConceptNameCodeSequence[0].CodeMeaning: i for i in text.ContentSequence}
    assert text.ConceptNameCodeSequence[0].CodeValue == "126000"
    assert root["Language of Content Item and Descendants"].ConceptCodeSequence[0].CodeValue == "en-US"
    assert root["Procedure reported"].ConceptCodeSequence[0].CodeValue == "44136-0"
    assert root["Device Observer Name"].TextValue == "medpanoptic 0.1.0"
    assert root["Device Observer UID"].UID.startswith("2.25.")
    assert root["Device Observer Serial Number"].TextValue == "ab" * 32
    assert (text.CompletionFlag, text.PreliminaryFlag, text.VerificationFlag) == (
        "COMPLETE",
        "PRELIMINARY",
        "UNVERIFIED",
    )
    assert str(text.PatientName) == PATIENT_NAME
    algorithm = group[0].ContentSequence
    names = {i.ConceptNameCodeSequence[0].CodeMeaning: i for i in algorithm}
    assert names["Algorithm Name"].TextValue == "medpanoptic sarcoma"
    assert "ab" * 32 in names["Algorithm Parameters"].TextValue


def test_a_reader_signs_it(ct, tmp_path):
    path = write(ct, tmp_path, reader=Reader("Muster^Anna", "Clinic"), verified=True)
    signed = pydicom.dcmread(path)
    assert (signed.VerificationFlag, signed.PreliminaryFlag) == ("VERIFIED", "FINAL")
    (observer,) = signed.VerifyingObserverSequence
    assert (observer.VerifyingObserverName, observer.VerifyingOrganization) == ("Muster^Anna", "Clinic")
    people = [i.PersonName for i in signed.ContentSequence if i.ValueType == "PNAME"]
    assert people == ["Muster^Anna"]
    assert not errors_of_dciodvfy(path)
    plain = write(ct, tmp_path / "b", reader=Reader("Muster"), complete=False)
    assert pydicom.dcmread(plain).CompletionFlag == "PARTIAL"
    assert pydicom.dcmread(plain).SOPInstanceUID != signed.SOPInstanceUID
    for reader in (None, Reader("Muster^Anna"), Reader("", "Clinic")):
        with pytest.raises(WriteError, match="SR-READER"):
            write(ct, tmp_path, reader=reader, verified=True)


def test_rejected_lesions_are_left_out(ct, tmp_path):
    _, volume = ct
    case = case_on(volume, segments=(Segment(9, 3), Segment(5, 1, verdict="rejected"), Segment(6, 1, verdict="unsure")))
    content = report(write(case, tmp_path))
    groups = content.get_volumetric_roi_measurement_groups()
    assert [g.tracking_identifier for g in groups] == ["tumour 6"]
    # segment numbers are those of the SEG, which leaves the rejected one out too
    assert groups[0].referenced_segment[0].ReferencedSOPSequence[0].ReferencedSegmentNumber == 1


def absences(path):
    groups = report(path).get_image_measurement_groups()
    return {
        # highdicom takes the finding category for one more evaluation
        g.tracking_identifier: [(e.name.value, e.value.value) for e in g.get_qualitative_evaluations()][-1]
        for g in groups
    }


def test_nothing_found_is_a_valid_report_that_says_so(ct, tmp_path):
    path = write(case_on(ct[1], **nothing()), tmp_path, reader=Reader("Muster^Anna", "Clinic"), verified=True)
    absent = ("121052", "121054")
    assert absences(path) == {"tumour (none found)": absent, "node (none found)": absent}
    assert not report(path).get_volumetric_roi_measurement_groups()
    assert not errors_of_dciodvfy(path)
    for group in report(path).get_image_measurement_groups():
        assert numbers(group) == {("246206008", ""): (0, "1")}


def test_a_class_of_which_there_is_none_is_named(ct, tmp_path):
    assert list(absences(write(ct, tmp_path))) == ["node (none found)"]


def test_a_result_without_classes_of_things_reports_its_stuff(ct, tmp_path):
    result, volume = ct
    ids = (result.ids == 9).astype("int32")
    case = case_on(volume, ids=ids, segments=(Segment(1, 3),), classes=ClassTable((CLASSES[3],)))
    (group,) = report(write(case, tmp_path)).get_volumetric_roi_measurement_groups()
    assert numbers(group)["118565006", ""][0] == pytest.approx(ids.sum() * result.voxel_size, rel=1e-5)


@pytest.mark.parametrize("kind", ["ct", "pet", "enhanced"])
def test_dciodvfy_finds_no_error(kind, tmp_path, request):
    case = enhanced_case(tmp_path / "in") if kind == "enhanced" else request.getfixturevalue(kind)
    assert not errors_of_dciodvfy(write(case, tmp_path))


def test_dcmqi_reads_the_same(pet, tmp_path):
    path, out = write(pet, tmp_path), tmp_path / "out.json"
    command = [dcmqi_tool("tid1500reader"), "--inputDICOM", str(path), "--outputMetadata", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    first, second, absent = json.loads(out.read_text(encoding="utf-8"))["Measurements"]
    assert (first["TrackingIdentifier"], first["ReferencedSegment"]) == ("tumour 5", 1)
    assert second["TrackingUniqueIdentifier"] == "2.25.77"
    items = {
        (i["quantity"]["CodeMeaning"], i.get("derivationModifier", {}).get("CodeMeaning", "")): i
        for i in first["measurementItems"]
    }
    volume = items["Volume", ""]
    assert volume["units"]["CodeValue"] == "mm3"
    assert float(volume["value"]) == pytest.approx(measure(*pet)[0].volume_mm3, rel=1e-5)
    assert items["SUVbw", "Peak Value Within ROI"]["units"]["CodeValue"] == "g/ml{SUVbw}"
    assert absent["TrackingIdentifier"] == "node (none found)"


def test_a_rerun_makes_the_same_bytes_and_other_values_another_uid(ct, tmp_path):
    a, b = write(ct, tmp_path / "a"), write(ct, tmp_path / "b")
    assert a.read_bytes() == b.read_bytes()
    c = write((ct[0], None), tmp_path / "c")
    assert pydicom.dcmread(a).SOPInstanceUID != pydicom.dcmread(c).SOPInstanceUID
    assert pydicom.dcmread(a).SeriesInstanceUID == pydicom.dcmread(c).SeriesInstanceUID


def test_without_the_image_there_are_sizes_and_no_grey_values(ct, tmp_path):
    group = report(write((ct[0], None), tmp_path)).get_volumetric_roi_measurement_groups()[0]
    assert {name for name, _ in numbers(group)} == {"118565006", "103339001", "103340004", "111012"}


def test_it_is_a_format_and_needs_a_dicom_source(ct, tmp_path):
    result, volume = ct
    files = write_result(result, tmp_path / "out", formats=("dicom-sr", "dicom-seg"), volume=volume)
    assert files["dicom-sr"] == [tmp_path / "out" / "sr.dcm"]
    with pytest.raises(WriteError, match="FORMAT-NEEDS-DICOM"):
        write_result(replace(result, source=replace(result.source, sop_uids=())), tmp_path / "b", formats=("dicom-sr",))
