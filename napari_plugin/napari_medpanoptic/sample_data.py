"""The shipped samples as layers."""

from __future__ import annotations

from napari_medpanoptic.layers import LayerData, volume_layers
from napari_medpanoptic.reader import read, show_code


def sarcoma_petct() -> list[LayerData]:
    """Open the PET/CT/MR study of a soft-tissue sarcoma."""
    return _open("sarcoma_petct")


def he_colon() -> list[LayerData]:
    """Open the H&E tile."""
    return _open("he_colon")


def nuclei_fluorescence() -> list[LayerData]:
    """Open the fluorescence image."""
    return _open("nuclei_fluorescence")


def _open(name: str) -> list[LayerData]:
    from medpanoptic.io import read_volume
    from medpanoptic.samples import get_sample, sample_path

    path = sample_path(name)
    if path.is_dir():
        return read(str(path))
    with show_code():
        return volume_layers(read_volume(path, pixel_size_um=get_sample(name).pixel_size_um), name=name)
