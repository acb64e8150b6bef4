"""Reading: one image or series, a study of several, and a report of what a folder holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medpanoptic.io.archive import is_archive, read_unpacked
from medpanoptic.io.dicom import SeriesInfo, SeriesReport, find_series
from medpanoptic.io.dicom_header import SkippedFile
from medpanoptic.io.files import is_dicom, read_any, read_file
from medpanoptic.io.study import read_folder, read_mapping, read_single
from medpanoptic.volume import ChannelSpec, Volume

__all__ = ["SeriesInfo", "SeriesReport", "SkippedFile", "find_series", "read_study", "read_volume"]


def read_volume(
    path: str | Path, *, series: str | None = None, pixel_size_um: float | Sequence[float] | None = None
) -> Volume:
    """Read one image: a DICOM folder or file, NIfTI, MHA, MHD, NRRD, PNG, JPEG or TIFF, or one of these in an archive.

    path : a folder is read as DICOM, with its subfolders; a .zip, .tar or .tar.gz is unpacked into a private
    temporary folder, which lives as long as the volume's ``source``.
    series : handle (see ``find_series``) or SeriesInstanceUID, needed where a folder holds several.
    pixel_size_um : pixel size of a 2D image, one number or one per axis (row, column), in place of the file's.
    Returns a Volume: array (C, slice, row, column) or (C, row, column), affine index -> LPS mm. CT in HU and PET in SUV
    are float32; other values are kept as stored. ``notes`` tell what was skipped or repaired.
    A PET in Bq/ml without the attributes that SUV needs is read in Bq/ml (unit BQML) and noted; ``read_study`` refuses
    it where a model asks for SUV.
    Raises ReadError, GeometryError, SelectionError; docs/conventions.md lists every code.
    """
    return read_any(Path(path), series, pixel_size_um)


def read_study(
    source: str | Path | Mapping[str, str | Path],
    channels: Sequence[ChannelSpec] | None = None,
    *,
    series: str | Mapping[str, str] | Sequence[str] | None = None,
    reference: str | None = None,
    pixel_size_um: float | Sequence[float] | None = None,
) -> Volume:
    """Read several series or files as the channels of one volume, on the grid of one of them.

    source : a DICOM folder (with subfolders) or an archive of one, a mapping channel name -> path, or one file.
    channels : what a model takes, in its order. From a folder each channel takes the one series of its modality.
        A missing optional channel is zeros with ``Channel.present`` False.
    series : handles or UIDs that choose among several series: one, some, or channel name -> handle.
    reference : the channel whose grid the others are resampled to (linear, outside is air); default the first
        required one. Channels on the same grid already are not touched. DICOM series must share their
        FrameOfReferenceUID; other files are taken to lie in the same world space.
    Without ``channels``: the one series of a folder, or those that ``series`` names.
    An image file whose number of channels is not that of ``channels`` (gray for RGB) is returned as it is, with its
    own channel names, for preprocessing to fit.
    Raises SelectionError: SERIES-AMBIGUOUS, NO-SERIES, CHANNEL-UNKNOWN. GeometryError: MIX-FRAME, GEO-OVERLAP,
    GEO-GRID. ReadError: SUV-MISSING, SUV-UNIT where a channel asks for SUV; and all that ``read_volume`` raises.
    """
    if isinstance(source, Mapping):
        paths = {name: Path(path) for name, path in source.items()}
        return read_mapping(paths, channels, series, reference, pixel_size_um)

    def read_place(place: Path) -> Volume:
        if is_dicom(place):
            return read_folder(place, channels, series, reference)
        return read_single(read_file(place, pixel_size_um), channels, place.name)

    place = Path(source)
    return read_unpacked(place, read_place) if is_archive(place) else read_place(place)
