"""A review of a DICOM series is signed with SEG, report and captures; no patient data outside of them."""

import numpy as np
import pydicom
import pytest
from builders import PATIENT_NAME, axial_affine, write_series
from tiny_case import SHAPE, SPACING, Clock, tiny_result

from medpanoptic.io import read_volume, write_result
from medpanoptic.review import ReviewSession, sign


@pytest.fixture
def opened(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 90, SHAPE, np.int16)
    volume = read_volume(write_series(tmp_path / "series", pixels, axial_affine(SPACING)))
    write_result(tiny_result(affine=volume.affine), tmp_path / "case", formats=["csv"])
    return tmp_path / "case", volume


def read_and_sign(case, volume, work=lambda session: None, **options):
    session = ReviewSession.open(case, volume, reader="Reader^Anna", clock=Clock())
    session.set_verdicts(session.things, "accepted")
    work(session)
    return sign(session, **options)


def dicom_files(folder):
    return {p.name: pydicom.dcmread(p) for p in sorted(folder.rglob("*.dcm"))}


def test_seg_report_and_captures_are_written_with_the_reader_as_observer(opened):
    case, volume = opened
    folder = read_and_sign(case, volume, lambda s: s.reject(5), organization="Clinic")
    made = dicom_files(folder)
    assert {d.Modality for d in made.values()} == {"SEG", "SR", "OT"}
    report = made["sr.dcm"]
    assert report.VerificationFlag == "VERIFIED"
    assert "Reader^Anna" in str(report)
    things = [s for s in made["seg.dcm"].SegmentSequence if "TrackingUID" in s]
    assert len(things) == 2
    assert all(s.TrackingUID in str(report) for s in things)


def test_without_an_organization_the_report_names_the_reader_but_is_not_verified(opened):
    report = dicom_files(read_and_sign(*opened, formats=["dicom-sr"]))["sr.dcm"]
    assert report.VerificationFlag == "UNVERIFIED"
    assert "Reader^Anna" in str(report)


def test_nothing_found_is_signed_as_seg_and_report_too(opened):
    def nothing(session):
        session.set_verdicts(session.things, "rejected")

    made = dicom_files(read_and_sign(*opened, nothing, formats=["dicom-seg", "dicom-sr"]))
    assert {"seg.dcm", "sr.dcm"} <= set(made)
    assert not [s for s in made["seg.dcm"].SegmentSequence if "TrackingUID" in s]


def test_each_version_makes_objects_of_its_own_with_the_same_tracking_uids(opened):
    first, second = (dicom_files(read_and_sign(*opened, formats=["dicom-seg"])) for _ in range(2))
    assert first["seg.dcm"].SOPInstanceUID != second["seg.dcm"].SOPInstanceUID
    uids = [{s.TrackingUID for s in d["seg.dcm"].SegmentSequence if "TrackingUID" in s} for d in (first, second)]
    assert uids[0] == uids[1]
    assert len(uids[0]) == 3


def test_no_patient_data_and_no_uid_of_the_source_outside_dicom(opened):
    case, volume = opened
    read_and_sign(case, volume)
    secrets = [PATIENT_NAME, "ID-4711", volume.source.series_uid, volume.source.study_uid, *volume.source.sop_uids]
    for path in case.rglob("*"):
        if path.is_file() and path.suffix != ".dcm":
            content = path.read_bytes()
            assert not [s for s in secrets if s and s.encode() in content], path.name
