"""A study with a mark in every tag, ways to break it, and the search for the mark in all that is said and written."""

from __future__ import annotations

import gzip
import logging
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import axial_affine, write_series
from pydicom import dcmread
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medpanoptic.bundle import pack_bundle
from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.cli import main
from medpanoptic.errors import MedpanopticError
from medpanoptic.result import PanopticResult, Segment

MARK, DATE, TIME, UID_MARK = "Qqsecret", "19430317", "231743.717171", "1.2.777777777"
MARKS = ("qqsecret", DATE, "1943-03-17", "231743", "23:17:43", "717171", UID_MARK)
TEXT_VRS = {"PN", "LO", "SH", "ST", "LT", "UT", "UC", "AE", "UR", "CS", "AS"}
# what decides on geometry, units and kind is spoiled in its own case
NEEDED = {"RescaleType", "Modality", "PhotometricInterpretation", "SpecificCharacterSet"}
CODE = ["49755003", "SCT", "Morphologically Abnormal Structure"]
NETWORK = {
    "_target_": "medpanoptic.networks.build.efficientps_centres", "spatial_dims": 3, "in_channels": 1,
    "out_channels": 2, "thing_channels": [1], "fpn_channels": 8, "head_channels": 8,
}  # fmt: skip


def plant(index: int, dataset: Dataset) -> None:
    """Put the mark into every text tag of the dictionary, a date into every date, and private elements."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag, (vr, vm, _, retired, keyword) in DicomDictionary.items():
            if not keyword or retired or vm != "1" or keyword in NEEDED or not 0x0008 <= tag >> 16 <= 0x0040:
                continue
            if vr in TEXT_VRS:
                setattr(
                    dataset, keyword, f"{MARK}^{keyword[:4]}" if vr == "PN" else MARK.upper() if vr == "CS" else MARK
                )
            elif vr in {"DA", "DT"}:
                setattr(dataset, keyword, DATE)
            elif vr == "TM":
                setattr(dataset, keyword, TIME)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        entropy = [name, str(index)] if name == "SOPInstanceUID" else [name]
        setattr(dataset, name, generate_uid(prefix=f"{UID_MARK}.", entropy_srcs=entropy))
    block = dataset.private_block(0x0011, MARK, create=True)
    block.add_new(1, "LO", MARK)
    block.add_new(2, "UN", MARK.encode())
    deep, item = Dataset(), Dataset()
    deep.PatientName = deep.PatientID = MARK
    item.PatientName, item.OtherPatientIDsSequence = MARK, [deep]
    dataset.OtherPatientIDsSequence = [item]
    dataset.RequestAttributesSequence = [item]


def plant_meta(folder: Path) -> None:
    """Put the mark into the file meta information, too."""
    for path in folder.iterdir():
        dataset = dcmread(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.file_meta.SourceApplicationEntityTitle = MARK
            dataset.file_meta.ImplementationVersionName = MARK
            dataset.file_meta.PrivateInformationCreatorUID = f"{UID_MARK}.9"
            dataset.file_meta.PrivateInformation = MARK.encode()
            dataset.save_as(path)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    array = np.zeros((8, 32, 32), np.int16)
    array[2:6, 10:20, 10:20] = 300
    folder = write_series(tmp_path_factory.mktemp("in") / "case", array, axial_affine(), edit=plant)
    plant_meta(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    classes = [
        {"id": 1, "name": "body", "is_thing": False, "color": [0, 0, 90], "category": CODE, "type": CODE},
        {"id": 2, "name": "lesion", "is_thing": True, "color": [200, 90, 0], "category": CODE, "type": CODE},
    ]
    block = {
        "classes": classes,
        "channels": [{"name": "ct", "modality": "CT", "unit": "HU", "required": True}],
        "spacing_mm": None,
        "preprocessing": [{"_target_": "NormalizeChannelsd", "rules": [{"window": [0, 300]}]}],
        "window": [32, 32, 32],
        "overlap": 0.25,
    }
    import torch

    from medpanoptic.networks import build

    torch.manual_seed(0)
    network = build.efficientps_centres(**{k: v for k, v in NETWORK.items() if k != "_target_"})
    described = {"version": "0.1.0", "monai_version": "1.6.1", "description": "test", "medpanoptic": block}
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pack_bundle(folder, network.state_dict(), metadata=described, network_def=NETWORK)
    return folder


def leaks(text: str) -> list[str]:
    return [mark for mark in MARKS if mark in text.lower()]


def all_texts(error: BaseException | None) -> str:
    """What an exception says, and every one that hangs on it, shown or not."""
    seen, found = set(), []
    todo = [error]
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            found += [repr(one), "".join(traceback.format_exception(one))]
            todo += [one.__cause__, one.__context__]
    return "\n".join(found)


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file that is not DICOM, unpacked, by name."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".dcm":
            raw = path.read_bytes()
            yield path.name, gzip.decompress(raw) if path.suffix == ".gz" else raw


@pytest.fixture
def told(capfd, caplog, recwarn):
    """Run something with all logging on; return all that was printed, logged and warned of."""

    def run(work) -> str:
        # what the test itself did to the files is not the library's doing
        capfd.readouterr()
        caplog.clear()
        recwarn.clear()
        said = []
        with caplog.at_level(logging.DEBUG):
            try:
                work()
            except (SystemExit, MedpanopticError) as error:
                said.append(all_texts(error) if isinstance(error, MedpanopticError) else "")
        out, err = capfd.readouterr()
        said += [out, err, caplog.text, *(str(w.message) for w in recwarn)]
        caplog.clear()
        recwarn.clear()
        return "\n".join(said)

    return run


def command(*words: object):
    return lambda: main([str(word) for word in words])


def spoil(keyword: str, value: str):
    """Write text where numbers or UIDs belong, past pydicom's checks."""

    def edit(path: Path) -> None:
        dataset = dcmread(path)
        element = dataset.get_item(keyword)
        raw = path.read_bytes()
        old = element.value if isinstance(element.value, bytes) else str(element.value).encode()
        assert old in raw
        path.write_bytes(raw.replace(old, value.encode().ljust(len(old))[: len(old)], 1))

    return edit


def _set(keyword: str, value: object):
    def edit(path: Path) -> None:
        dataset = dcmread(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            setattr(dataset, keyword, value)
            dataset.save_as(path)

    return edit


def _syntax(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"1.2.840.10008.1.2.1\0", b"Qqsecret.1.2.840.1\0\0", 1))


BROKEN = {
    **{
        name: spoil(name, MARK * 9)
        for name in (
            "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "SliceThickness",
            "SOPClassUID", "PhotometricInterpretation", "InstanceNumber", "ImageType",
        )
    },
    "RescaleType": _set("RescaleType", MARK),
    "PatientID": _set("PatientID", "Qqsecret2"),
    "StudyInstanceUID": _set("StudyInstanceUID", f"{UID_MARK}.2"),
    "FrameOfReferenceUID": _set("FrameOfReferenceUID", f"{UID_MARK}.3"),
    "SeriesInstanceUID": _set("SeriesInstanceUID", f"{UID_MARK}.4"),
    "SpecificCharacterSet": _set("SpecificCharacterSet", MARK),
    "Rows": _set("Rows", 7),
    "transfer syntax": _syntax,
    "cut header": lambda path: path.write_bytes(path.read_bytes()[:3000]),
    "cut pixels": lambda path: path.write_bytes(path.read_bytes()[:-99]),
    "gone": lambda path: path.unlink(),
}  # fmt: skip


def blank_result(volume):
    """A result with one thing on the grid of a volume."""
    code = Code(*CODE)
    classes = ClassTable((ClassInfo(2, "lesion", True, (200, 90, 0), code, code),))
    ids = np.zeros(volume.shape, np.int32)
    ids[2:4, 5:9, 5:9] = 1
    return PanopticResult(ids, (Segment(1, 2, 0.9),), classes, volume.affine, volume.source)
