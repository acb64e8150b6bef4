"""Files of a DICOM folder grouped into series, and the verdict on each: what can become a volume, and why not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medpanoptic.errors import GeometryError, ReadError, SelectionError
from medpanoptic.io.dicom_files import CLOSED, has_decoder, walk_files
from medpanoptic.io.dicom_header import Frame, Instance, SkippedFile, read_header, series_handle
from medpanoptic.io.limits import check_size

# "US" (unspecified) and nothing mean HU in CT. Source: DICOM PS3.3 C.8.2.1
_HOUNSFIELD = {"HU", "HU_MOD", "US", "UNSPECIFIED"}


@dataclass(frozen=True)
class DicomSeries:
    """The image files of one series. ``damaged`` are files that belong, or may belong, to it and cannot be read."""

    uid: str
    instances: tuple[Instance, ...]
    damaged: tuple[SkippedFile, ...] = ()

    @property
    def handle(self) -> str:
        """8 hex digits that name the series, safe to print."""
        return series_handle(self.uid)

    @property
    def modality(self) -> str:
        """DICOM modality CT, MR or PT."""
        return self.instances[0].modality

    @property
    def folder(self) -> str:
        """Folder of the first file, inside the folder that was given ("." for itself)."""
        return Path(self.instances[0].name).parent.as_posix()

    @property
    def frames(self) -> list[tuple[Instance, Frame]]:
        """Every slice with the file that holds it."""
        return [(instance, frame) for instance in self.instances for frame in instance.frames]

    @property
    def label(self) -> str:
        """How messages name the series."""
        return f"series {self.handle} ({self.modality}, {sum(i.frame_count for i in self.instances)} slices)"


@dataclass(frozen=True)
class Scan:
    """What lies in a folder."""

    name: str
    series: tuple[DicomSeries, ...]
    skipped: tuple[SkippedFile, ...] = field(default=())

    @property
    def notes(self) -> tuple[str, ...]:
        """One line on the skipped files, by reason, or nothing."""
        if not self.skipped:
            return ()
        counts = Counter(s.reason for s in self.skipped)
        return (f"skipped {len(self.skipped)} file(s): " + ", ".join(f"{n} {reason}" for reason, n in counts.items()),)


def scan_folder(path: Path) -> Scan:
    """Read the headers of a folder, or of one file, and group them by series.

    Raises ReadError: NOT-FOUND.
    """
    if not path.exists():
        raise ReadError("NOT-FOUND", f"{path}: no such file or folder")
    found: dict[str, list[Instance]] = defaultdict(list)
    skipped: list[SkippedFile] = []
    files = walk_files(path) if path.is_dir() else iter([(path, path.name, "")])
    for file, name, reason in files:
        # what lies in a closed folder may be slices of any series beside it
        header = SkippedFile(name, reason, damaged=reason == CLOSED) if reason else read_header(file, name)
        if isinstance(header, SkippedFile):
            skipped.append(header)
        else:
            found[header.series_uid].append(header)
    for instances in found.values():
        skipped += _take_projections(instances)
    series = tuple(
        DicomSeries(uid, tuple(instances), tuple(s for s in skipped if s.damaged and s.series_uid in ("", uid)))
        for uid, instances in found.items()
    )
    return Scan(path.name, series, tuple(skipped))


def _take_projections(instances: list[Instance]) -> list[SkippedFile]:
    """Take the few views through the stack (MIP) out of a series of slices; a series of many stays as it is."""
    views = [i for i in instances if i.is_projection]
    if not 0 < 4 * len(views) < len(instances):
        return []
    instances[:] = [i for i in instances if not i.is_projection]
    return [SkippedFile(i.name, f"{i.modality} projection (MIP) among slices") for i in views]


def select_series(scan: Scan, wanted: str | None, candidates: Sequence[DicomSeries] | None = None) -> DicomSeries:
    """Return the one series, or the one named by handle or full UID.

    Raises SelectionError: NO-SERIES, SERIES-AMBIGUOUS with the list of candidates.
    """
    pool = scan.series if candidates is None else candidates
    if not scan.series:
        what = " ".join(scan.notes) or "The folder is empty."
        raise SelectionError("NO-SERIES", f"{scan.name}: no DICOM images of CT, MR or PET found. {what}")
    if wanted is not None:
        pool = [s for s in pool if wanted in (s.handle, s.uid)]
        if not pool:
            raise SelectionError(
                "NO-SERIES", f"{scan.name}: no series has this handle; found:\n{list_series(scan.series)}"
            )
    if len(pool) > 1:
        raise SelectionError(
            "SERIES-AMBIGUOUS", f"{scan.name}: {len(pool)} series fit, choose one by its handle:\n{list_series(pool)}"
        )
    return pool[0]


def list_series(series: Sequence[DicomSeries]) -> str:
    """Return one line per series: handle, modality, slices, size, folder."""
    return "\n".join(
        f"  {s.handle}  {s.modality}  {sum(i.frame_count for i in s.instances)} slices  "
        f"{s.instances[0].rows} x {s.instances[0].columns}  in {s.folder}"
        for s in series
    )


def check_headers(series: DicomSeries) -> None:
    """Check by headers alone that the files can make one volume.

    Raises ReadError: READ-TOO-LARGE, DICOM-DAMAGED, NOT-GRAY, TRANSFER-SYNTAX, PIXELS-TRUNCATED, PIXELS-BITS,
    NO-RESCALE, RESCALE-SLOPE, RESCALE-LUT, CT-UNIT. GeometryError: MIX-STUDY, MIX-FRAME, MIX-MODALITY, MIX-SIZE,
    GEO-POSITION.
    """
    label, instances = series.label, series.instances
    count = sum(i.frame_count for i in instances)
    shape = (count, max(i.rows for i in instances), max(i.columns for i in instances))
    check_size(shape, 4, label)
    check_size(shape, 2, label, sum(i.file_bytes for i in instances))
    # pydicom reads a file whole, also what is not pixels
    check_size((max(i.file_bytes for i in instances),), 1, label)
    if series.damaged:
        raise ReadError(
            "DICOM-DAMAGED",
            f"{label}: {len(series.damaged)} file(s) or folder(s) beside it are truncated or cannot be opened and may "
            f"belong to it, first {series.damaged[0].name}; copy the series again, or alone",
        )
    if len({(i.study_uid, i.patient) for i in instances}) > 1:
        raise GeometryError("MIX-STUDY", f"{label}: its slices belong to different studies or patients")
    if len({i.modality for i in instances}) > 1:
        raise GeometryError("MIX-MODALITY", f"{label}: images of different modality in one series")
    if len({i.frame_uid for i in instances}) > 1:
        raise GeometryError("MIX-FRAME", f"{label}: its slices lie in different frames of reference")
    if len({(i.rows, i.columns) for i in instances}) > 1:
        sizes = sorted({f"{i.rows} x {i.columns}" for i in instances})
        raise GeometryError("MIX-SIZE", f"{label}: slices differ in size (rows x columns): {', '.join(sizes)}")
    for instance in instances:
        _check_instance(instance, label)


def _check_instance(instance: Instance, label: str) -> None:
    where = f"{label}, {instance.name}"
    if len(instance.frames) != instance.frame_count:
        raise GeometryError("GEO-POSITION", f"{where}: not a position for each of its {instance.frame_count} frames")
    if not instance.photometric.startswith("MONOCHROME"):
        raise ReadError("NOT-GRAY", f"{where}: not a gray image (colour or palette); a volume needs MONOCHROME1 or 2")
    syntax = instance.syntax
    if not has_decoder(syntax):
        raise ReadError("TRANSFER-SYNTAX", f"{where}: its transfer syntax is unknown; convert it")
    stored = instance.rows * instance.columns * instance.frame_count * instance.bits_allocated // 8
    if not (syntax.is_compressed or syntax.is_deflated) and instance.file_bytes < stored:
        raise ReadError("PIXELS-TRUNCATED", f"{where}: pixel data is missing or truncated; copy the file again")
    if instance.bits_allocated not in (8, 16, 32) or not 0 < instance.bits_stored <= instance.bits_allocated:
        raise ReadError(
            "PIXELS-BITS",
            f"{where}: BitsAllocated must be 8, 16 or 32, and BitsStored at most that; correct the header",
        )
    if instance.has_lookup:
        raise ReadError(
            "RESCALE-LUT", f"{where}: values go through a table (ModalityLUTSequence), not a rescale; convert it first"
        )
    if instance.modality == "CT" and not instance.rescale_types <= _HOUNSFIELD:
        raise ReadError("CT-UNIT", f"{where}: RescaleType says that values are not Hounsfield units (a material map?)")
    for frame in instance.frames:
        _check_rescale(instance, frame, where)


def _check_rescale(instance: Instance, frame: Frame, where: str) -> None:
    if instance.modality in {"CT", "PT"} and (frame.slope is None or frame.intercept is None):
        raise ReadError(
            "NO-RESCALE",
            f"{where}: RescaleSlope or RescaleIntercept is missing, so values are not "
            f"{'Hounsfield units (HU)' if instance.modality == 'CT' else 'activity or SUV'}",
        )
    numbers = [n for n in (frame.slope, frame.intercept) if n is not None]
    if frame.slope == 0 or any(abs(n) == float("inf") or n != n for n in numbers):
        raise ReadError("RESCALE-SLOPE", f"{where}: RescaleSlope is zero or not a number")
    # it would turn air into the densest tissue
    if instance.modality in {"CT", "PT"} and frame.slope is not None and frame.slope < 0:
        raise ReadError("RESCALE-SLOPE", f"{where}: RescaleSlope is negative")
