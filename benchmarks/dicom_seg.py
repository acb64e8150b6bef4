"""DICOM SEG of one large study: time, size and peak memory of each kind, against highdicom called plainly.

    python benchmarks/dicom_seg.py [--segments 30] [--slices 300] [--pixels 512]

A made-up CT series with one large stuff segment and balls of 4 to 60 pixels radius (12 beyond 100 segments). Every row
is a process of its own that reads the headers, makes the object and writes the file, once; memory is the highest beyond
what it held before, with the id map in it. The rows "read" read the file back. Linux only (it asks /proc for the peak).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROWS = (
    ("highdicom, BINARY", "plain BINARY 1.2.840.10008.1.2.1"),
    ("dicom-seg", "ours dicom-seg"),
    ("dicom-seg-deflated", "ours dicom-seg-deflated"),
    ("highdicom, LABELMAP, RLE", "plain LABELMAP 1.2.840.10008.1.2.5"),
    ("dicom-seg-labelmap", "ours dicom-seg-labelmap"),
    ("highdicom, LABELMAP, JPEG-LS", "plain LABELMAP 1.2.840.10008.1.2.4.80"),
    ("dicom-seg-labelmap-jpegls", "ours dicom-seg-labelmap-jpegls"),
    ("read dicom-seg", "read dicom-seg"),
    ("read dicom-seg-labelmap", "read dicom-seg-labelmap"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=30)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--row", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        measure(options.row, options.folder / "tiny")  # loads what is loaded on first use
        print(json.dumps(measure(options.row, options.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_study(folder, options.slices, options.pixels, options.segments)
        make_study(folder / "tiny", 3, 16, 2)
        print(f"{options.pixels} x {options.pixels} x {options.slices}, {options.segments} segments")
        print(f"{'':32}{'CPU s':>9}{'MB':>9}{'peak MB':>9}   ratios to the highdicom row above")
        base: dict[str, float] = {}
        for label, row in ROWS:
            command = [sys.executable, __file__, "--folder", str(folder), "--row", *row.split()]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            base = found if label.startswith("highdicom") else base
            ratios = "" if row.startswith("read") else "  ".join(f"{found[k] / base[k]:.2f}" for k in found)
            print(f"{label:32}{found['seconds']:9.2f}{found['megabytes']:9.2f}{found['peak']:9.0f}   {ratios}")


def make_study(folder: Path, slices: int, pixels: int, segments: int) -> None:
    """Write the series and ids.npy."""
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    folder.mkdir(exist_ok=True)
    for k in range(slices):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, f"1.2.3.4.{k + 1}"
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.5"
        data.PatientID, data.PatientName, data.PatientBirthDate, data.PatientSex = "bench", "", "", ""
        data.StudyID, data.StudyDate, data.StudyTime, data.AccessionNumber = "", "20200101", "000000", ""
        data.Modality, data.Manufacturer, data.ReferringPhysicianName = "CT", "", ""
        data.ImageType, data.SeriesNumber, data.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 1, k + 1
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2 * k], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness, data.Rows, data.Columns = [0.8, 0.8], 2, pixels, pixels
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.save_as(folder / f"{k:04}.dcm", enforce_file_format=True)
    rng = np.random.default_rng(0)
    shape = np.array([slices, pixels, pixels])
    ids = np.zeros(shape, np.int32)
    ids[:, pixels // 4 : -pixels // 4, pixels // 4 : -pixels // 4] = 1
    for i in range(2, segments + 1):
        radius, centre = rng.uniform(4, 60 if segments < 100 else 12), rng.uniform(0.2 * shape, 0.8 * shape)
        window = tuple(
            slice(max(0, int(c - radius)), min(n, int(c + radius) + 1)) for c, n in zip(centre, shape, strict=True)
        )
        grid = np.ogrid[window]
        ids[window][sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < radius**2] = i
    np.save(folder / "ids.npy", ids)


def measure(row: list[str], folder: Path) -> dict[str, float]:
    """Do one row's work once; CPU seconds, size of the file, and peak memory beyond that before the work."""
    how, kind = row[0], row[1]
    if how == "read":
        work, path = read(folder / kind), next((folder / kind).glob("seg*.dcm"))
    elif how == "ours":
        work, path = ours(folder, kind), None
    else:
        work, path = plain(folder, kind, row[2]), folder / "plain.dcm"
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before, start = memory_megabytes("VmRSS"), time.process_time()
    work()
    seconds = time.process_time() - start
    path = path or next((folder / kind).glob("seg*.dcm"))
    return {"seconds": seconds, "megabytes": path.stat().st_size / 1e6, "peak": memory_megabytes("VmHWM") - before}


def memory_megabytes(name: str) -> float:
    """Return VmRSS (now) or VmHWM (the highest since the last reset)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1e3


def ours(folder: Path, kind: str):
    from medpanoptic.classes import ClassInfo, ClassTable, Code
    from medpanoptic.io.formats import FORMATS
    from medpanoptic.result import PanopticResult, Provenance, Segment
    from medpanoptic.volume import Source

    tissue, fat, tumour = (
        Code("85756007", "SCT", "Tissue"),
        Code("55603005", "SCT", "Adipose tissue"),
        Code("108369006", "SCT", "Neoplasm"),
    )
    abnormal = Code("49755003", "SCT", "Morphologically Abnormal Structure")
    classes = ClassTable(
        (
            ClassInfo(1, "fat", False, (230, 200, 90), tissue, fat),
            ClassInfo(2, "tumour", True, (220, 60, 50), abnormal, tumour),
        )
    )
    ids = np.load(folder / "ids.npy")
    segments = tuple(Segment(int(i), 1 if i == 1 else 2) for i in np.unique(ids) if i)
    paths = tuple(sorted(folder.glob("*.dcm")))
    paths = tuple(p for p in paths if p.stem.isdecimal())
    source = Source("1.2.3", "1.2.3.4", "1.2.3.5", tuple(f"1.2.3.4.{k + 1}" for k in range(len(paths))), paths)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 2, 0.8, 0.8, 1
    result = PanopticResult(ids, segments, classes, affine, source, Provenance("bench", "1", "ab" * 32, "0"))
    target = folder / kind
    target.mkdir(exist_ok=True)
    return lambda: FORMATS[kind].write(result, target)


def plain(folder: Path, kind: str, syntax: str):
    """What highdicom's guide does: headers, one label map, descriptions, Segmentation, save_as."""
    import highdicom as hd
    import pydicom
    from pydicom.sr.codedict import codes

    ids = np.load(folder / "ids.npy")
    known = np.setdiff1d(ids, [0])
    numbers = np.empty(ids.shape, np.uint8 if len(known) < 256 else np.uint16)
    for k, plane in enumerate(ids):
        numbers[k] = np.searchsorted([0, *known], plane)
    del ids
    segments = [
        hd.seg.SegmentDescription(n, f"segment {n}", codes.SCT.Tissue, codes.SCT.Liver, "MANUAL")
        for n in range(1, len(known) + 1)
    ]

    def work() -> None:
        paths = [p for p in sorted(folder.glob("*.dcm")) if p.stem.isdecimal()]
        headers = [pydicom.dcmread(p, stop_before_pixels=True) for p in paths]
        uids = ("1.2.9", 1, "1.2.9.1", 1, "maker", "model", "1", "serial")
        hd.seg.Segmentation(headers, numbers, kind, segments, *uids, transfer_syntax_uid=syntax).save_as(
            folder / "plain.dcm"
        )

    return work


def read(folder: Path):
    from medpanoptic.io.dicom_seg_read import read_dicom_seg

    return lambda: read_dicom_seg(next(folder.glob("seg*.dcm")))


if __name__ == "__main__":
    main()
