"""Small DICOM series and NIfTI files made by code, with the answer known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)

SOP_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
PATIENT_NAME = "Secret^Patient"
FRAME_UID = generate_uid(entropy_srcs=["frame of reference"])
Edit = Callable[[int, Dataset], None]


def phantom(shape: tuple[int, ...] = (5, 6, 7)) -> NDArray[np.int16]:
    """Return an array in which every voxel has another value, so that no flip or permutation goes unseen."""
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def axial_affine(spacing: tuple[float, float, float] = (2.5, 1.5, 1.25)) -> NDArray[np.float64]:
    """Return index (slice, row, column) -> LPS of an axial stack with spacing in that order."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    affine[:, 3] = -10.0, 20.0, -30.0, 1.0
    return affine


def slice_dataset(pixels: NDArray[np.int16], affine: NDArray[np.float64], index: int, modality: str) -> Dataset:
    """Return the data set of one slice of a single-frame series; positions and orientation come from the affine."""
    rows, columns = affine[:3, 1], affine[:3, 2]
    dataset = _base(modality, SOP_CLASSES[modality], pixels)
    dataset.ImagePositionPatient = [round(float(v), 6) for v in affine[:3, 0] * index + affine[:3, 3]]
    dataset.ImageOrientationPatient = [
        round(float(v), 9) for v in (*(columns / np.linalg.norm(columns)), *(rows / np.linalg.norm(rows)))
    ]
    dataset.PixelSpacing = [float(np.linalg.norm(rows)), float(np.linalg.norm(columns))]
    dataset.SliceThickness = float(np.linalg.norm(affine[:3, 0]))
    dataset.InstanceNumber = index + 1
    if modality in {"CT", "PT"}:
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    return dataset


def write_series(
    folder: Path,
    array: NDArray[np.int16],
    affine: NDArray[np.float64],
    modality: str = "CT",
    edit: Edit | None = None,
    series: str = "one",
    frame_uid: str = FRAME_UID,
) -> Path:
    """Write (slice, row, column) int16 as a single-frame series; ``edit(index, dataset)`` may spoil each slice."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(array):
        dataset = slice_dataset(pixels, affine, index, modality)
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series", series])
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=["instance", series, str(index)])
        dataset.FrameOfReferenceUID = frame_uid
        if edit is not None:
            edit(index, dataset)
        save(dataset, folder / f"{series}_{index:03d}.dcm")
    return folder


def write_enhanced(
    path: Path, array: NDArray[np.int16], affine: NDArray[np.float64], modality: str = "CT", edit: Edit | None = None
) -> Path:
    """Write one enhanced multi-frame object; ``edit(index, functional group)`` may spoil each frame."""
    dataset = _base(modality, EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage, array)
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["enhanced"])
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["enhanced instance"])
    dataset.FrameOfReferenceUID = FRAME_UID
    dataset.NumberOfFrames = len(array)
    shared = Dataset()
    one = slice_dataset(array[0], affine, 0, modality)
    shared.PixelMeasuresSequence = [_item(PixelSpacing=one.PixelSpacing, SliceThickness=one.SliceThickness)]
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=one.ImageOrientationPatient)]
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for index in range(len(array)):
        group = Dataset()
        position = slice_dataset(array[index], affine, index, modality).ImagePositionPatient
        group.PlanePositionSequence = [_item(ImagePositionPatient=position)]
        group.PixelValueTransformationSequence = [_item(RescaleSlope=1, RescaleIntercept=0)]
        if edit is not None:
            edit(index, group)
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    path.parent.mkdir(parents=True, exist_ok=True)
    save(dataset, path)
    return path


def add_suv_tags(index: int, dataset: Dataset) -> None:
    """Give a PET slice all that SUV needs: injected 3600 s before the scan, half-life 3600 s, 70 kg, 200 MBq.

    The dose has halved at the scan: SUV = activity * 70,000 g / 100e6 Bq.
    """
    dataset.Units, dataset.DecayCorrection, dataset.CorrectedImage = "BQML", "START", ["ATTN", "DECY"]
    dataset.PatientWeight = 70
    dataset.SeriesDate, dataset.SeriesTime = "20200101", "110000"
    # later beds are acquired later, but corrected to the start of the series
    dataset.AcquisitionDate, dataset.AcquisitionTime = "20200101", f"11{5 + index:02d}00"
    dataset.RadiopharmaceuticalInformationSequence = [
        _item(RadiopharmaceuticalStartTime="100000", RadionuclideTotalDose=200e6, RadionuclideHalfLife=3600)
    ]


def write_nifti_file(path: Path, array: NDArray, ras: NDArray[np.float64], **codes: Any) -> Path:
    """Write (x, y, z) with an affine to RAS, by nibabel."""
    image = nibabel.Nifti1Image(array, ras)
    image.set_sform(ras, code=codes.get("sform", 1))
    image.set_qform(codes.get("qform_affine", ras), code=codes.get("qform", 1))
    image.header.set_xyzt_units(codes.get("units", "mm"))
    nibabel.save(image, path)
    return path


def save(dataset: Dataset, path: Path) -> None:
    """Write a data set with its meta header."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    dataset.save_as(path, enforce_file_format=True)


def _base(modality: str, sop_class: str, pixels: NDArray[np.int16]) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = sop_class
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Modality = modality
    dataset.PatientName = PATIENT_NAME
    dataset.PatientID = "ID-4711"
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.PixelData = np.ascontiguousarray(pixels, "<i2").tobytes()
    return dataset


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item
