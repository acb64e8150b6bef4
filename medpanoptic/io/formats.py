"""The one table of formats: who writes and reads each, and what each can hold.

The rows name functions and import nothing, so that ``--help`` and reading one format do not wait for the others.
A new format is one file beside this one, one row here and one page in docs/formats/.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from medpanoptic.measure import DrawnAxes
    from medpanoptic.result import PanopticResult
    from medpanoptic.volume import Volume

# what a result can hold, in the words that ``losses`` and docs/formats/index.md use
HOLDABLE: Mapping[str, str] = {
    "map": "which pixel belongs to which segment",
    "ids": "segment ids",
    "classes": "class names, and which are things",
    "codes": "coded category and type of classes",
    "colors": "class colours",
    "unused": "classes without a segment",
    "scores": "scores",
    "origin": "origin of segments (edited, added)",
    "verdicts": "verdicts of the review",
    "rejected": "rejected things",
    "tracking": "tracking UIDs",
    "stuff": "stuff segments",
    "under": "stuff under the things",
    "dropped": "dropped candidates",
    "affine": "position and orientation",
    "spacing": "pixel size",
    "provenance": "model, version and weights hash",
    "parameters": "parameters of the run",
}
EVERYTHING = frozenset(HOLDABLE)


class Format(NamedTuple):
    """One row of ``FORMATS``.

    writer, reader : "module:function" in medpanoptic.io. A writer takes (result, folder, volume or None) and returns
        the files it made in the folder; a reader takes (path, volume or None) and returns a result. "" where there is
        none.
    ndims : 2, 3 or both. files : the names it may write, the one to read it from first.
    holds : keys of ``HOLDABLE``. sop_classes : UIDs of the DICOM objects that its reader takes.
    axes : its writer takes ``axes=``, the diameters that a reader drew.
    """

    description: str
    writer: str
    ndims: tuple[int, ...]
    files: tuple[str, ...]
    holds: frozenset[str]
    reader: str = ""
    sop_classes: tuple[str, ...] = ()
    axes: bool = False

    def write(
        self,
        result: PanopticResult,
        folder: Path,
        volume: Volume | None = None,
        axes: Mapping[int, DrawnAxes] | None = None,
    ) -> list[Path]:
        """Write the files of this format into an existing folder and return them; ``axes`` as in ``write_result``."""
        drawn = {"axes": axes} if self.axes and axes else {}
        written: list[Path] = _load(self.writer)(result, folder, volume, **drawn)
        return written

    def read(self, path: Path, volume: Volume | None = None) -> PanopticResult:
        """Read a file or folder of this format; ``reader`` must not be ""."""
        result: PanopticResult = _load(self.reader)(path, volume)
        return result


_MAPS = ("panoptic.nii.gz", "panoptic.tif", "stuff.nii.gz", "stuff.tif")
_CSV = EVERYTHING - {"map", "codes", "colors", "unused", "under", "dropped", "affine", "spacing"}
_SEG = EVERYTHING - {"rejected", "unused", "under", "dropped", "parameters"}
_SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_GEOJSON = frozenset({"map", "ids", "classes", "codes", "colors", "scores", "origin", "verdicts", "tracking", "stuff"})
FORMATS: Mapping[str, Format] = {
    "json": Format(
        "table of classes, segments and provenance (always written)",
        "result_files:write_table",
        (2, 3),
        ("segments.json",),
        EVERYTHING - {"map", "under"},
        reader="result_files:read_folder",
    ),
    "nifti": Format(
        "int32 id map: NIfTI for volumes, TIFF for 2D (always written)",
        "result_files:write_maps",
        (2, 3),
        (*_MAPS, "dropped.bin"),
        frozenset({"map", "ids", "rejected", "stuff", "under", "affine", "spacing"}),
    ),
    "csv": Format(
        "one row per segment",
        "segments_csv:write_csv",
        (2, 3),
        ("segments.csv",),
        _CSV - {"provenance", "parameters"},
        axes=True,
    ),
    "png": Format(
        "picture with segments drawn over the image",
        "overlay:write_overlay",
        (2, 3),
        ("overlay.png",),
        frozenset({"colors", "stuff"}),
    ),
    "dicom-seg": Format(
        "DICOM Segmentation, BINARY, that points at the source slices",
        "dicom_seg:write_dicom_seg",
        (3,),
        ("seg.dcm",),
        _SEG,
        reader="dicom_seg_read:read_dicom_seg",
        sop_classes=_SEG_CLASSES,
    ),
    "dicom-seg-deflated": Format(
        "the same DICOM Segmentation, deflated",
        "dicom_seg:write_dicom_seg_deflated",
        (3,),
        ("seg_deflated.dcm",),
        _SEG,
    ),
    "dicom-seg-labelmap": Format(
        "DICOM Segmentation, LABELMAP, in RLE: small, for software of 2025 and later",
        "dicom_seg:write_dicom_labelmap",
        (3,),
        ("seg_labelmap.dcm",),
        _SEG,
    ),
    "dicom-seg-labelmap-jpegls": Format(
        "the same LABELMAP in JPEG-LS: half the size, for software that reads it",
        "dicom_seg:write_dicom_labelmap_jpegls",
        (3,),
        ("seg_labelmap_jpegls.dcm",),
        _SEG,
    ),
    "dicom-sr": Format(
        "DICOM structured report (TID 1500): size, axes and grey values of each thing",
        "dicom_sr:write_dicom_sr",
        (3,),
        ("sr.dcm",),
        frozenset({"codes", "scores", "tracking", "provenance"}),
        axes=True,
    ),
    "dicom-sc": Format(
        "DICOM secondary captures: an overview and a key image of each thing",
        "dicom_sc:write_dicom_sc",
        (3,),
        ("captures",),
        frozenset({"colors", "provenance"}),
        axes=True,
    ),
    "dicom-ann": Format(
        "DICOM bulk annotations: a polygon for each cell of a DICOM slide",
        "dicom_ann:write_dicom_ann",
        (2,),
        ("ann.dcm",),
        frozenset({"classes", "codes", "colors", "scores", "affine", "spacing", "provenance"}),
    ),
    "rtstruct": Format(
        "DICOM RT Structure Set: contours of each segment on the source slices",
        "rtstruct:write_rtstruct",
        (3,),
        ("rtstruct.dcm",),
        EVERYTHING - {"verdicts", "rejected", "unused", "under", "dropped", "parameters"},
        reader="rtstruct_read:read_rtstruct",
        sop_classes=("1.2.840.10008.5.1.4.1.1.481.3",),
    ),
    "coco": Format(
        "COCO panoptic JSON and PNG, one PNG per slice for volumes",
        "coco:write_coco",
        (2, 3),
        ("coco_panoptic.json", "coco_panoptic"),
        frozenset({"map", "ids", "classes", "codes", "colors", "unused", "scores", "stuff"}),
        reader="coco_read:read_coco",
    ),
    "geojson": Format(
        "GeoJSON annotations for QuPath, shapes can be edited",
        "geojson:write_annotations",
        (2,),
        ("annotations.geojson",),
        _GEOJSON,
        reader="geojson_read:read_geojson",
    ),
    "geojson-detections": Format(
        "GeoJSON detections for QuPath, for many thousand cells",
        "geojson:write_detections",
        (2,),
        ("detections.geojson",),
        _GEOJSON,
    ),
    "ome-zarr": Format(
        "OME-Zarr 0.4 labels, with the image if it is given",
        "ome_zarr:write_ome_zarr",
        (2, 3),
        ("panoptic.ome.zarr",),
        EVERYTHING - {"dropped", "parameters"},
    ),
}


def _load(name: str):  # type: ignore[no-untyped-def]
    module, _, function = name.partition(":")
    return getattr(import_module(f"medpanoptic.io.{module}"), function)
