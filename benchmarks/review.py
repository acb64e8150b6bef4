"""Time a review of a 512 x 512 x 300 study: opening, each edit until its measures are new, freezing, signing.

Run: python benchmarks/review.py [--slices 300]. Each figure is ms on the clock and ms of CPU: the second is what an
idle core takes and has the targets, 200 ms an edit (without the screen), 5 s to open, 3 s to freeze, 20 s to sign with
SEG, report, captures, tables and pictures. The reference for an edit is what the journal replaces: a copy of the map.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.geometry import spatial_affine
from medpanoptic.io import write_result
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.review import Change, ReviewSession, sign, stroke, update_rows, worklist
from medpanoptic.volume import Channel, Source, Volume

CODE = Code("108369006", "SCT", "Neoplasm")
CLASSES = ClassTable(
    (
        ClassInfo(1, "background", False, (0, 0, 0), CODE, CODE),
        ClassInfo(2, "body", False, (90, 90, 90), CODE, CODE),
        ClassInfo(3, "tumour", True, (255, 0, 0), CODE, CODE),
    )
)
SPACING = (1.5, 0.8, 0.8)
# centre (voxels) and radius in mm: a small, two middle and a large lesion, the two middle ones touching
LESIONS = (((0.3, 0.3, 0.3), 6), ((0.5, 0.5, 0.5), 18), ((0.5, 0.5, 0.57), 18), ((0.65, 0.6, 0.4), 40))


def phantom(shape: tuple[int, ...]) -> tuple[PanopticResult, Volume]:
    affine = spatial_affine(SPACING)
    stuff = np.ones(shape, np.uint8)
    stuff[:, shape[1] // 6 : -shape[1] // 6, shape[2] // 8 : -shape[2] // 8] = 2
    ids = stuff.astype(np.int32)
    image = np.random.default_rng(0).normal(0, 20, shape).astype(np.float32)
    for number, (place, radius) in enumerate(LESIONS, 3):
        region = stroke([np.array(place) * shape], radius, affine, shape)
        where = tuple(slice(a, b) for a, b in region.box)
        ids[where][region.mask] = number
        image[where][region.mask] += 80
    segments = (Segment(1, 1), Segment(2, 2), *(Segment(i + 3, 3, 0.8) for i in range(len(LESIONS))))
    result = PanopticResult(ids, segments, CLASSES, affine, stuff=stuff)
    return result, Volume(image[None], affine, (Channel("ct", "CT", "HU"),))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return ms on the clock and ms of CPU: the second is what an idle core takes."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return 1000 * (time.perf_counter() - start), 1000 * (time.process_time() - used)


def edits(session: ReviewSession, shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    def near(lesion: int, radius: float) -> object:
        middle = [(a + b) / 2 for a, b in session.live.box(lesion)]
        middle[1] += (session.live.box(lesion)[1][1] - session.live.box(lesion)[1][0]) / 2  # on the rim
        return stroke([middle], radius, session.affine, shape)

    large = 6
    session.measures(3)  # what is done once in a program, such as imports
    return {
        "accept": lambda: session.accept(3),
        "paint a ball of 10 mm": lambda: session.paint(4, near(4, 10)),
        "paint on the lesion of 8 cm": lambda: session.paint(large, near(large, 10)),
        "erase a ball of 10 mm": lambda: session.erase(large, near(large, 10)),
        "undo": session.undo,
        "merge two of 3.6 cm": lambda: session.merge([4, 5]),
        "split them by seeds": lambda: session.split_by_seeds(4, [np.array(p) * shape for p, _ in LESIONS[1:3]]),
        "grow from a click": lambda: session.add_at(_free_place(session), 3),
        "split 8 cm by a line": lambda: session.split_by_line(large, *_line(session, large)),
        "delete a lesion of 6 cm": lambda: session.delete(large),
        "undo it": session.undo,
    }


def _line(session: ReviewSession, lesion: int) -> tuple[list[float], list[float]]:
    middle = [(a + b) / 2 for a, b in session.live.box(lesion)]
    return middle, [middle[0], middle[1] + 10, middle[2]]


def _free_place(session: ReviewSession) -> list[int]:
    """Put a bright ball where no lesion is and return its middle."""
    shape = session.ids.shape
    middle = [int(0.75 * n) for n in shape]
    region = stroke([middle], 12, session.affine, shape)
    where = tuple(slice(a, b) for a, b in region.box)
    if session.volume is not None and session.volume.array[(0, *middle)] < 60:
        session.volume.array[0][where][region.mask] += 80
    return middle


def dicom_source(folder: Path, shape: tuple[int, ...]) -> Source:
    """Write the headers of a CT series on the grid of ``phantom``, without pixels: signing reads no more of it."""
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    paths, uids = [], []
    for k in range(shape[0]):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, f"1.2.3.4.{k + 1}"
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.5"
        data.PatientID, data.PatientName, data.PatientBirthDate, data.PatientSex = "bench", "", "", ""
        data.StudyID, data.StudyDate, data.StudyTime, data.AccessionNumber = "", "20200101", "000000", ""
        data.Modality, data.Manufacturer, data.ReferringPhysicianName = "CT", "", ""
        data.ImageType, data.SeriesNumber, data.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 1, k + 1
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, SPACING[0] * k], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = list(SPACING[1:]), SPACING[0]
        data.Rows, data.Columns, data.PositionReferenceIndicator = shape[1], shape[2], ""
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        paths.append(folder / f"{k:04d}.dcm")
        uids.append(data.SOPInstanceUID)
        data.save_as(paths[-1], enforce_file_format=True)
    return Source("1.2.3", "1.2.3.4", "1.2.3.5", tuple(uids), tuple(paths))


def row(name: str, times: tuple[float, float], limit: float | None = None, more: str = "") -> None:
    ms, cpu = times
    met = "" if limit is None else f"   {'met' if cpu < limit else 'NOT met'}: under {limit:.0f} ms of CPU"
    print(f"{name:34} {ms:9.1f} {cpu:9.1f}{more}{met}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    shape = (parser.parse_args().slices, 512, 512)
    result, volume = phantom(shape)
    opened: list[ReviewSession] = []
    with tempfile.TemporaryDirectory() as name:
        case, series = Path(name) / "case", Path(name) / "series"
        series.mkdir()
        volume = replace(volume, source=dicom_source(series, shape))
        write_result(result, case, formats=["csv"])
        print(f"{'x'.join(map(str, shape)):34} {'ms':>9} {'CPU ms':>9}   bytes in the journal")
        row("copy of the map", timed(lambda: result.ids.copy()))
        row("open", timed(lambda: opened.append(ReviewSession.open(case, volume, reader="Bench^Mark"))), 5000)
        session = opened[0]
        time_edits(session, case / "review" / "journal.jsonl")
        session.set_verdicts(session.things, "accepted")
        row("freeze to a result", timed(session.freeze), 3000)
        row("sign", timed(lambda: sign(session, organization="Clinic")), 20_000)
        made = sorted(p.name for p in (case / "review" / "v1").iterdir())
        print(f"signed: {', '.join(made)}")


def time_edits(session: ReviewSession, journal: Path) -> None:
    state = {"table": worklist(session)}

    def follow(change: Change) -> None:
        state["table"] = update_rows(state["table"], session, change.ids)

    session.listeners.append(follow)
    worst = (0.0, 0.0)
    for name, work in edits(session, session.ids.shape).items():
        size = journal.stat().st_size if journal.exists() else 0
        times = timed(work)
        worst = max(worst, times, key=lambda t: t[1])
        row(name, times, more=f" {journal.stat().st_size - size:15,}")
    session.listeners.remove(follow)
    row("worst edit", worst, 200)


if __name__ == "__main__":
    main()
