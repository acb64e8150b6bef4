"""The same result makes the same bytes in every process; another one never shares a UID."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_objects import DICOM_FORMATS
from dicom_results import GRIDS, nothing, result_on, volume_of, write_series

from medpanoptic.identity import identify
from medpanoptic.io import read_result, write_result

KINDS = tuple(name for name in DICOM_FORMATS if name.startswith("dicom-seg"))
AXIAL = GRIDS["axial"]
AGAIN = """
import sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from dicom_objects import DICOM_FORMATS, dicom_objects
for name in DICOM_FORMATS:
    dicom_objects(name, Path(sys.argv[1]) / name / sys.argv[2])
"""


def test_every_process_writes_the_same_bytes(tmp_path):
    """Other hash seeds, another time zone and another hour change nothing."""
    tests = Path(__file__).parents[1]
    for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", AGAIN, str(tmp_path), seed, str(tests), str(tests / "io")]
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=300)
    for name in DICOM_FORMATS:
        first, second = (sorted((tmp_path / name / seed / "out").rglob("*.dcm")) for seed in "12")
        assert len(first) == len(second) > 0
        for a, b in zip(first, second, strict=True):
            assert a.read_bytes() == b.read_bytes(), f"{name}: {a.name}"


def uids_of(path):
    data = pydicom.dcmread(path, stop_before_pixels=True)
    return {data.SOPInstanceUID, data.SeriesInstanceUID}


def changed(result):
    """Yield (what changed, another result)."""
    ids = result.ids.copy()
    ids[4, 9, 6] = 41
    made = result.provenance
    yield "pixels", replace(result, ids=ids)
    yield "weights", replace(result, provenance=replace(made, weights_sha256="cd" * 32))
    yield "parameters", replace(result, provenance=replace(made, parameters={"score": 0.5}))
    yield "long parameters", replace(result, provenance=replace(made, parameters={"p": np.arange(2000)}))
    other = np.arange(2000)
    other[1000] = -1
    yield "the middle of long parameters", replace(result, provenance=replace(made, parameters={"p": other}))
    yield "version", replace(result, provenance=replace(made, medpanoptic_version="0.2.0"))
    yield "review", replace(result, provenance=replace(made, parameters={"review_version": 1}))
    yield "score", replace(result, segments=(replace(result.segments[0], score=0.91), *result.segments[1:]))
    yield (
        "source",
        replace(result, source=replace(result.source, sop_uids=(*result.source.sop_uids[:-1], "1.2.3.4.99"))),
    )
    yield "nothing", replace(result, **nothing())


def test_another_result_has_other_uids(tmp_path):
    result = result_on(AXIAL, write_series(tmp_path / "in", AXIAL))
    seen = {}
    for what, other in (("first", result), *changed(result)):
        for kind in ("dicom-seg", "dicom-seg-labelmap"):
            path = write_result(other, tmp_path / what.replace(" ", "_"), formats=(kind,))[kind][0]
            for uid in uids_of(path):
                assert seen.setdefault(uid, (what, kind)) == (what, kind)
                assert len(uid) <= 64
    identities = {identify(other, other.source).uid("a role") for _, other in changed(result)}
    assert len(identities) == len(list(changed(result)))


def test_one_object_in_two_encodings_has_one_uid(tmp_path):
    result = result_on(AXIAL, write_series(tmp_path / "in", AXIAL))
    files = write_result(result, tmp_path / "out", formats=KINDS)
    assert uids_of(files["dicom-seg"][0]) == uids_of(files["dicom-seg-deflated"][0])
    assert uids_of(files["dicom-seg-labelmap"][0]) == uids_of(files["dicom-seg-labelmap-jpegls"][0])
    assert not uids_of(files["dicom-seg"][0]) & uids_of(files["dicom-seg-labelmap"][0])


def test_what_says_the_same_has_the_same_uids(tmp_path):
    """Order of the table, time of making, memory layout, number types, and a way over files."""
    result = result_on(AXIAL, write_series(tmp_path / "in", AXIAL))
    identity = identify(result, result.source)
    same = [
        replace(result, segments=result.segments[::-1]),
        replace(result, provenance=replace(result.provenance, created="2026-01-01T00:00:00")),
        replace(result, ids=np.asfortranarray(result.ids)),
        replace(result, segments=tuple(replace(s, score=np.float64(s.score)) for s in result.segments)),
        replace(result, affine=np.where(result.affine == 0, -0.0, result.affine)),
    ]
    write_result(result, tmp_path / "a", formats=("csv",))
    same.append(replace(read_result(tmp_path / "a"), source=volume_of(result).source))
    for other in same:
        assert identify(other, other.source) == identity


@pytest.mark.parametrize("version", [0, 3])
def test_the_review_version_is_an_argument_or_a_parameter(tmp_path, version):
    result = result_on(AXIAL, write_series(tmp_path / "in", AXIAL))
    given = identify(result, result.source, review_version=version)
    assert given.review_version == version
    assert (given == identify(result, result.source)) == (version == 0)
    signed = replace(result, provenance=replace(result.provenance, parameters={"review_version": version}))
    assert identify(signed, result.source).review_version == version
