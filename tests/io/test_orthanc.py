"""A real Orthanc stores every DICOM object that is written, by C-STORE and by STOW, and returns it equal."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_objects import DICOM_FORMATS, dicom_objects
from orthanc_server import MISSING, is_there, running_orthanc

from medpanoptic.io import read_result

pynetdicom = pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra: batch)")
web_client = pytest.importorskip("dicomweb_client.api", reason="dicomweb-client is not installed (extra: batch)")
pytestmark = pytest.mark.skipif(not is_there(), reason=MISSING)

# what a server may add or change: how it names itself, padding of the pixels
OWN = ("SpecificCharacterSet",)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


def store(server, paths):
    """C-STORE files as they are, each in its own transfer syntax."""
    entity = pynetdicom.AE("MEDPANOPTIC")
    datasets = [pydicom.dcmread(path) for path in paths]
    for sop_class, syntax in {(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets}:
        entity.add_requested_context(sop_class, syntax)
    association = entity.associate("127.0.0.1", server.dicom_port, ae_title=server.aet)
    assert association.is_established
    try:
        return [association.send_c_store(dataset).Status for dataset in datasets]
    finally:
        association.release()


def fetched(client, sent):
    return client.retrieve_instance(
        sent.StudyInstanceUID, sent.SeriesInstanceUID, sent.SOPInstanceUID, media_types=(("application/dicom", "*"),)
    )


def same(sent, back):
    """Compare all elements but the pixels, and the decoded pixels."""
    names = [e.tag for e in sent if e.keyword not in ("PixelData", *OWN)]
    assert [e.tag for e in back if e.keyword not in ("PixelData", *OWN)] == names
    for tag in names:
        assert back[tag].to_json() == sent[tag].to_json()
    if "PixelData" in sent:
        assert np.array_equal(back.pixel_array, sent.pixel_array)


@pytest.mark.parametrize("empty", [False, True], ids=["found", "none found"])
@pytest.mark.parametrize("way", ["C-STORE", "STOW"])
@pytest.mark.parametrize("name", DICOM_FORMATS)
def test_it_stores_and_returns(orthanc, tmp_path, name, way, empty):
    paths = dicom_objects(name, tmp_path, empty=empty)
    client = web_client.DICOMwebClient(orthanc.dicomweb)
    if way == "C-STORE":
        assert store(orthanc, paths) == [0] * len(paths)
    else:
        client.store_instances([pydicom.dcmread(path) for path in paths])
    for path in paths:
        sent = pydicom.dcmread(path)
        found = client.search_for_instances(search_filters={"SOPInstanceUID": sent.SOPInstanceUID})
        assert [f["00080018"]["Value"] for f in found] == [[sent.SOPInstanceUID]]
        back = fetched(client, sent)
        same(sent, back)
        if name.startswith("dicom-seg"):
            copy = tmp_path / "back.dcm"
            back.save_as(copy)
            assert np.array_equal(read_result(copy).ids, read_result(Path(path)).ids)
