"""dciodvfy and dcmqi judge every DICOM object that is written; a new format is judged as soon as it has a row."""

import subprocess

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_cases import dcmqi_tool, errors_of_dciodvfy, lesion_ids
from dicom_objects import DICOM_FORMATS, dicom_objects
from pydicom.uid import ExplicitVRLittleEndian

# dciodvfy of 2022 knows no LABELMAP, whose background is segment 0 (Supplement 243, 2024)
UNKNOWN_TO_IT = ("Information Object Not found", "SegmentNumber not monotonically increasing from one by one")


def inflated(path, folder):
    """Return the same data set in a syntax that Debian's dciodvfy reads: it is built without zlib."""
    data = pydicom.dcmread(path)
    if not data.file_meta.TransferSyntaxUID.is_deflated:
        return path
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.save_as(folder / "inflated.dcm")
    return folder / "inflated.dcm"


@pytest.mark.parametrize("empty", [False, True], ids=["found", "none found"])
@pytest.mark.parametrize("name", DICOM_FORMATS)
def test_dciodvfy_finds_no_error(tmp_path, name, empty):
    paths = dicom_objects(name, tmp_path, empty=empty)
    assert paths
    for path in paths:
        errors = errors_of_dciodvfy(inflated(path, tmp_path))
        known = UNKNOWN_TO_IT if "labelmap" in name else ()
        assert not [line for line in errors if not any(text in line for text in known)]


# dcmqi 1.5 has no JPEG-LS for Segmentations
@pytest.mark.parametrize("name", ["dicom-seg", "dicom-seg-deflated", "dicom-seg-labelmap"])
def test_dcmqi_reads_the_segments(tmp_path, name):
    (path,) = dicom_objects(name, tmp_path)
    command = [dcmqi_tool("segimage2itkimage"), "--inputDICOM", str(path), "--outputDirectory", str(tmp_path)]
    subprocess.run([*command, "--outputType", "nrrd", "--prefix", "s"], check=True, capture_output=True, timeout=60)
    # one image per segment of BINARY, one in all of LABELMAP
    images = [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(p))) for p in tmp_path.glob("s-*.nrrd")]
    found = {(image == value).tobytes() for image in images for value in np.unique(image) if value}
    ids = lesion_ids()
    assert found == {(ids == i).tobytes() for i in np.unique(ids) if i}
