"""npe2 reader: DICOM files and folders, NIfTI and other volumes, our result folders.

Plain pictures (PNG, TIFF, JPEG) stay with napari's own reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from medpanoptic.errors import MedpanopticError
from napari_medpanoptic.layers import LayerData, result_layers, volume_layers

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
    return layers


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
    from medpanoptic.io import read_result, read_study, read_volume

    folder = path.parent if path.name == RESULT_FILE else path
    if (folder / RESULT_FILE).is_file():
        return result_layers(read_result(folder), name=folder.name)
    if path.is_dir():
        return volume_layers(read_study(path), name=path.name, path=path)
    return volume_layers(read_volume(path), name=path.name.split(".")[0])


def _dress_viewer() -> None:
    import napari

    from napari_medpanoptic.view import arrange

    viewer = napari.current_viewer()
    if viewer is not None:
        arrange(viewer)
