"""npe2 reader: DICOM files and folders, NIfTI and other volumes, our result folders.

Plain pictures (PNG, TIFF, JPEG) stay with napari's own reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from medpanoptic.errors import GeometryError, MedpanopticError
from napari_medpanoptic.layers import KEY, LayerData, result_layers, volume_layers
from napari_medpanoptic.windows import stored_windows

if TYPE_CHECKING:
    from medpanoptic.io.read import SeriesInfo
    from medpanoptic.volume import Volume

RESULT_FILE = "segments.json"
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".dcm", ".mha", ".mhd", ".nrrd")
# a folder that shows no DICOM in its first files is not ours; a limit keeps dropping a home folder quick
_FILES_LOOKED_AT = 200


def get_reader(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """Return ``read`` if the path is something we open, else None. Looks at names and the first bytes only."""
    if not isinstance(path, str):
        return get_reader(path[0]) if len(path) == 1 else None
    return read if is_ours(Path(path)) else None


def is_ours(path: Path) -> bool:
    """Tell whether a path is a result folder, a volume file, or a folder with DICOM files at any depth."""
    if path.is_dir():
        return (path / RESULT_FILE).is_file() or holds_dicom(path)
    name = path.name.lower()
    return name == RESULT_FILE or name.endswith(VOLUME_SUFFIXES)


def holds_dicom(folder: Path) -> bool:
    """Tell whether one of the first files below a folder starts like a DICOM file. Source: DICOM PS3.10 7.1."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return any(_is_dicom(p) for p in islice(files, _FILES_LOOKED_AT))


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False  # unreadable here is unreadable for the real reader too, which then says why


def read(path: str | Sequence[str]) -> list[LayerData]:
    """Read what ``get_reader`` accepted, and dress the open viewer (scale bar, orientation letters).

    Raises the errors of ``medpanoptic.io``, with the code in the text that napari shows.
    """
    with show_code():
        layers = read_path(Path(path if isinstance(path, str) else path[0]))
    _dress_viewer()
    _show_notes(layers)
    _review_soon(layers)
    return layers


def _review_soon(layers: list[LayerData]) -> None:
    """Begin a review once napari shows a case that a person opened or dropped on the window."""
    import napari

    viewer, case = napari.current_viewer(), layers[0][1]["metadata"][KEY].get("case")
    if viewer is None or case is None:
        return
    if getattr(viewer.window, "_qt_viewer", None) is None:
        return
    from napari_medpanoptic.soon import Soon

    def begin() -> None:
        from napari_medpanoptic.start import start_review

        # a person may have taken the layers away again
        if any(layer.metadata.get(KEY, {}).get("case") == case for layer in viewer.layers):
            start_review(viewer, case)

    def count(event: object = None) -> None:
        # napari lets the event loop run between two layers: all must be in before the review takes their place
        if sum(layer.metadata.get(KEY, {}).get("case") == case for layer in viewer.layers) >= len(layers):
            viewer.layers.events.inserted.disconnect(count)
            Soon(viewer, begin)

    viewer.layers.events.inserted.connect(count, position="last")


@contextmanager
def show_code() -> Iterator[None]:
    """Put the code of a MedpanopticError into its ``message``, the only part that napari's notification shows."""
    try:
        yield
    except MedpanopticError as error:
        error.message = str(error)
        raise


def read_path(path: Path) -> list[LayerData]:
    """Return the layers of a result folder or segments.json (Labels), or of a volume or study (images)."""
    from medpanoptic.cases import case_name
    from medpanoptic.io import read_result, read_volume

    folder = path.parent if path.name == RESULT_FILE else path
    if (folder / RESULT_FILE).is_file():
        layers = result_layers(read_result(folder), name=folder.name)
        for _, look, _ in layers:
            look["metadata"][KEY]["case"] = folder
        return layers
    if path.is_dir():
        return study_layers(path)
    return _images(read_volume(path), case_name(path))


def _images(volume: Volume, name: str, path: Path | None = None) -> list[LayerData]:
    """Return image layers with the windows that the DICOM files of the reference series ask for."""
    source = volume.source
    windows = stored_windows(source.paths[0]) if source.sop_uids and source.paths else {}
    return volume_layers(volume, name, path, windows)


def study_layers(folder: Path) -> list[LayerData]:
    """Return the image layers of a DICOM folder.

    One series of each modality in one frame of reference is a study: one volume on the grid of its CT, or of its
    first series. Anything else is shown series by series, each on its own grid, the first one visible.
    Series with broken geometry are left out and said; if none is sound, the error of the first is raised.
    """
    from medpanoptic.io import find_series, read_study

    found = find_series(folder).series
    sound = [s for s in found if s.code == "OK"]
    if len(found) < 2 or not sound:
        return _images(read_study(folder, series=found[0].handle if found else None), folder.name, folder)
    for series in found:
        if series.code != "OK":
            _warn(f"left out {series.modality} series {series.handle}: [{series.code}] {series.reason}")
    modalities = [s.modality for s in sound]
    if len(set(modalities)) == len(sound):
        reference = "CT" if "CT" in modalities else modalities[0]
        try:
            volume = read_study(folder, series=[s.handle for s in sound], reference=reference)
        except GeometryError as error:
            _warn(f"series are shown apart, not as one study: {error}")
        else:
            return _images(volume, folder.name, folder)
    return _apart(folder, sound)


def _apart(folder: Path, series: Sequence[SeriesInfo]) -> list[LayerData]:
    from medpanoptic.io import read_volume

    layers: list[LayerData] = []
    for info in series:
        name = f"{folder.name} {info.modality} {info.handle}"
        for layer in _images(read_volume(folder, series=info.handle), name, folder):
            # the Segment widget offers these to choose from
            layer[1]["metadata"][KEY].update(series=info.handle, modality=info.modality)
            layers.append(layer)
    for _, attributes, _ in layers[1:]:
        attributes["visible"] = False
    return layers


def _warn(text: str) -> None:
    from napari.utils.notifications import show_warning

    show_warning(text)


def _dress_viewer() -> None:
    import napari

    from napari_medpanoptic.view import arrange

    viewer = napari.current_viewer()
    if viewer is not None:
        arrange(viewer)


def _show_notes(layers: list[LayerData]) -> None:
    """Say what the reader did that a person should know: files skipped, series resampled, no pixel size."""
    from napari.utils.notifications import show_info

    volumes = {id(v): v for _, look, _ in layers if (v := look["metadata"][KEY].get("volume")) is not None}
    notes = [note for volume in volumes.values() for note in volume.notes]
    if notes:
        show_info("\n".join(notes))
