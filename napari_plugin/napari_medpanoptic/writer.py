"""npe2 writer: our layers, edited or not, to an OUT/CASE folder."""

from __future__ import annotations

from pathlib import Path

from medpanoptic.result import PanopticResult
from medpanoptic.volume import Volume
from napari_medpanoptic.edited import result_from_layers, volume_from_layers
from napari_medpanoptic.layers import LayerData
from napari_medpanoptic.reader import show_code


def write(path: str, layers: list[LayerData]) -> list[str]:
    """Write the result that the layers show as a result folder.

    path : a folder, CASE.segments.json (folder CASE beside it), or segments.json (its own folder).
    layers : one case's things layer, its stuff layer if wanted, and the images (used for the overlay picture and
        for DICOM SEG).
    Returns the written files. Raises WriteError with the codes of ``result_from_layers`` and of ``write_result``.
    """
    from medpanoptic.io import write_result

    with show_code():
        result = result_from_layers(layers)
        volume = volume_from_layers(layers, result)
        written = write_result(result, case_folder(path), formats=_formats(result, volume), volume=volume)
    return [str(file) for files in written.values() for file in files]


def case_folder(path: str) -> Path:
    """Return the folder that a name given in the save dialog means."""
    target = Path(path)
    if target.name.lower() == "segments.json":
        return target.parent
    if target.name.lower().endswith(".segments.json"):
        return target.with_name(target.name[: -len(".segments.json")])
    return target


def _formats(result: PanopticResult, volume: Volume | None) -> tuple[str, ...]:
    # a SEG must name the slices it lies on, so it needs a DICOM source
    from_dicom = bool(result.source.sop_uids or (volume is not None and volume.source.sop_uids))
    return ("nifti", "csv", "png", *(("dicom-seg",) if from_dicom and result.ndim == 3 else ()))
