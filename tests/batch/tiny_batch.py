"""A tiny model, studies made by code, and looks from outside at the processes of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from builders import axial_affine, write_series
from pydicom.dataset import Dataset

from medpanoptic.bundle import pack_bundle
from medpanoptic.classes import ClassInfo, ClassTable, Code

CODE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
CLASSES = ClassTable(
    (
        ClassInfo(4, "tissue", False, (90, 90, 200), CODE, CODE),
        ClassInfo(7, "lesion", True, (220, 60, 40), CODE, CODE),
    )
)


def pack_tiny(folder: Path, window: int = 16, channels: int = 8) -> Path:
    """Pack a 3D network of random weights for CT; it finds things in noise."""
    import torch

    from medpanoptic.networks import build

    torch.manual_seed(0)
    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "thing_channels": [1]}
    arguments["fpn_channels"] = channels
    network = build.efficientps_centres(**arguments)
    described = {
        "classes": CLASSES.to_json(),
        "channels": [{"name": "ct", "modality": "CT"}],
        "preprocessing": [{"_target_": "NormalizeChannelsd", "rules": [{"window": [0, 1000]}]}],
        "window": [window] * 3,
        "overlap": 0.25,
        "fusion": {"method": "log_odds"},
    }
    pack_bundle(
        folder,
        network.state_dict(),
        metadata={"version": "0.0.1", "medpanoptic": described},
        network_def={"_target_": "medpanoptic.networks.build.efficientps_centres", **arguments},
    )
    return folder


def write_study(folder: Path, number: int, shape: tuple[int, ...] = (4, 16, 16), **tags: Any) -> Path:
    """Write one CT series with a StudyInstanceUID of its own and pixels of its own."""
    pixels = np.random.default_rng(number).integers(0, 1000, shape).astype(np.int16)

    def edit(index: int, dataset: Dataset) -> None:
        dataset.StudyInstanceUID = study_uid(number)
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)

    return write_series(folder, pixels, axial_affine(), edit=edit, series=str(number))


def study_uid(number: int) -> str:
    return f"1.2.826.0.1.{number}"


def workers_of(output: Path, handle: str = "") -> Iterator[psutil.Process]:
    """Yield the processes that work on a study now: its input lies in a folder called HANDLE.PID."""
    for path in (output / ".work").glob(f"{handle or '*'}.*"):
        try:
            yield psutil.Process(int(path.name.rpartition(".")[2]))
        except psutil.NoSuchProcess:
            continue


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Return the first true value of a condition; fail if there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.002)
    raise TimeoutError
