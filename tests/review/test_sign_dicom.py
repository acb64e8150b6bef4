"""A review of a DICOM series is signed with SEG, report and captures; no patient data outside of them."""

import re
import shutil
import subprocess

import highdicom as hd
import numpy as np
import pandas as pd
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


# ---- diameters that the reader drew

LONG, SHORT = ((-4.0, 23.0, -18.0), (5.0, 35.0, -18.0)), ((-2.0, 30.0, -18.0), (2.0, 27.0, -18.0))


def draw(session):
    session.set_axes(3, LONG, SHORT)
    session.set_axes(4, LONG, None)


def diameters(folder):
    """{tracking uid: {concept: (mm, method)}} of the report."""
    groups = hd.sr.srread(folder / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    return {
        str(g.tracking_uid): {
            m.name.meaning: (float(m.value), m.method.meaning) for m in g.get_measurements() if m.unit.value == "mm"
        }
        for g in groups
    }


def test_diameters_that_the_reader_drew_are_those_of_report_captures_and_tables(opened):
    case, volume = opened
    plain = ReviewSession.open(case, volume, reader="Reader^Anna", clock=Clock())
    computed = {i: plain.measures(i) for i in plain.things}
    uids = {i: plain.row(i).segment.tracking_uid for i in plain.things}
    folder = read_and_sign(case, volume, draw, organization="Clinic")
    drawn_long, drawn_short = 15.0, 5.0  # 9 x 12 and 4 x 3 mm
    short, both = computed[4].short_axis.length_mm, (computed[5].long_axis.length_mm, computed[5].short_axis.length_mm)
    found = diameters(folder)
    assert found[uids[3]] == {"Long axis": (drawn_long, "Manual"), "Short axis": (drawn_short, "Manual")}
    assert found[uids[4]] == {
        "Long axis": (drawn_long, "Manual"),
        "Short axis": (pytest.approx(short, rel=1e-5), "Automated"),
    }
    assert [m for _, m in found[uids[5]].values()] == ["Automated"] * 2
    assert [v for v, _ in found[uids[5]].values()] == pytest.approx(both, rel=1e-5)
    for name in ("segments.csv", "lesions.csv"):
        table = pd.read_csv(folder / name, index_col="id")
        assert table.loc[3, ["long_axis_mm", "short_axis_mm"]].tolist() == [drawn_long, drawn_short]
        assert table.loc[4, "short_axis_mm"] == pytest.approx(short, rel=1e-5)


def test_captures_show_the_drawn_axes_on_their_slice(opened):
    case, volume = opened
    first, second = (read_and_sign(case, volume, work, formats=["dicom-sc"]) for work in (lambda s: None, draw))
    before, after = (dicom_files(folder) for folder in (first, second))
    name = next(n for n in after if n.endswith("segment_3.dcm"))
    # the slice at z = -18 mm: the fifth from -30 mm in steps of 3 mm
    (source,) = after[name].SourceImageSequence
    assert source.ReferencedSOPInstanceUID == volume.source.sop_uids[4]
    yellow = [np.argwhere((f[name].pixel_array == (255, 230, 0)).all(-1)).shape[0] for f in (before, after)]
    assert yellow[0] > 0
    assert yellow[0] != yellow[1] > 0


def test_an_axis_drawn_outside_the_image_is_no_reason_not_to_sign(opened):
    away = ((900.0, 0.0, 500.0), (900.0, 30.0, 500.0))
    folder = read_and_sign(*opened, lambda s: s.set_axes(3, away, ((0.0, 0.0, 0.0), (0.0, 9.0, 0.0))))
    assert len(list((folder / "captures").iterdir())) == 4


# ---- what an independent checker says


def nothing(session):
    session.set_verdicts(session.things, "rejected")


@pytest.mark.parametrize("organization", ["Clinic", ""])
@pytest.mark.parametrize("work", [draw, nothing])
def test_dciodvfy_finds_no_error_in_anything_that_is_signed(opened, work, organization):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian dicom3tools) is not installed")
    folder = read_and_sign(*opened, work, organization=organization)
    files = sorted(folder.rglob("*.dcm"))
    assert {"seg.dcm", "sr.dcm", "000_overview.dcm"} <= {p.name for p in files}
    assert dicom_files(folder)["sr.dcm"].VerificationFlag == ("VERIFIED" if organization else "UNVERIFIED")
    for path in files:
        run = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=60, check=False)
        assert not re.findall(r"^Error.*", run.stdout + run.stderr, re.MULTILINE), path.name
