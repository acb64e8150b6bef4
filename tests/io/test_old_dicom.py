"""DICOM files of old archives, without preamble or without any meta header: read and written from like all others."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from dicom_results import GRIDS, result_on, write_series
from PIL import Image

from medpanoptic.batch.scan import scan_inputs
from medpanoptic.cases import find_cases
from medpanoptic.io import inspect, read_volume, write_result

DICOM_OUT = ("dicom-seg", "dicom-seg-labelmap", "dicom-sr", "rtstruct")
CUTS = {
    "no preamble": lambda raw: raw[132:],
    # the meta header says its own length at 140. Source: DICOM PS3.10 7.1
    "no meta header": lambda raw: raw[144 + int.from_bytes(raw[140:144], "little") :],
}


@pytest.mark.parametrize("cut", CUTS)
def test_old_files_are_read_and_written_from_like_others(tmp_path, cut):
    affine = GRIDS["axial"]
    source = write_series(tmp_path / "in", affine)
    result = result_on(affine, source)
    before = read_volume(tmp_path / "in")
    files = write_result(result, tmp_path / "before", formats=DICOM_OUT, volume=before)
    for path in source.paths:
        path.write_bytes(CUTS[cut](path.read_bytes()))
    after = read_volume(tmp_path / "in")
    assert np.array_equal(after.array, before.array)
    assert np.array_equal(after.affine, before.affine)
    assert [s.code for s in inspect(tmp_path / "in").series] == ["OK"]
    again = write_result(result, tmp_path / "after", formats=DICOM_OUT, volume=after)
    for name in DICOM_OUT:
        assert [p.read_bytes() for p in again[name]] == [p.read_bytes() for p in files[name]], name
    # they are what makes a folder a study, whatever pictures lie beside them
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "in" / "picture.png")
    assert [case.source for case in find_cases([tmp_path / "in"])] == [tmp_path / "in"]
    with closing(scan_inputs([tmp_path / "in"], b"k" * 32, tmp_path / "nowhere")) as index:
        assert sorted(len(index.study(handle).files) for handle in index.handles()) == [1, len(source.paths)]
