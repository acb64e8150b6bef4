"""An image in memory: channels first, one affine, and where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medpanoptic.errors import ReadError
from medpanoptic.geometry import Affine, check_affine, voxel_size, voxel_spacing


@dataclass(frozen=True)
class Source:
    """Where a reference series came from, so that outputs can point back at it.

    sop_uids, paths : one per frame along the slice axis for single-frame DICOM, one in all for a multi-frame
        object; empty UIDs for other formats. These values never go to logs or non-DICOM outputs.
    downsample : pixels of a slide's finest level along one pixel of the level that was read; 1 for all else.
    """

    study_uid: str = ""
    series_uid: str = ""
    frame_of_reference_uid: str = ""
    sop_uids: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    downsample: float = 1.0


@dataclass(frozen=True)
class Channel:
    """One channel. ``modality`` is a DICOM modality (CT, MR, PT, SM) or "" if unknown; ``unit`` HU, SUV, BQML (PET
    without what SUV needs) or "".

    present : False where a study lacks an optional channel and zeros stand in for it.
    """

    name: str
    modality: str = ""
    unit: str = ""
    present: bool = True


@dataclass(frozen=True, eq=False)
class Volume:
    """Image array with geometry.

    array : (C, *S) with S = (slice, row, column) or (row, column); any real dtype; never changed in place.
    affine : (4, 4) float64, array index -> patient LPS mm; for 2D the first two index columns count.
    channels : C entries.
    calibrated : False where the file gave no pixel size and 1 mm per pixel stands in for it.
    notes : what the reader did that a person should know (duplicates removed, study resampled, tilt kept …).
    """

    array: NDArray
    affine: Affine
    channels: tuple[Channel, ...]
    source: Source = field(default_factory=Source)
    calibrated: bool = True
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "affine", check_affine(self.affine))
        if self.array.ndim not in (3, 4):
            raise ReadError(
                "SHAPE", f"a volume is (C, row, column) or (C, slice, row, column), got shape {self.array.shape}"
            )
        if self.array.shape[0] != len(self.channels):
            raise ReadError(
                "SHAPE", f"{self.array.shape[0]} channels in the array but {len(self.channels)} channel names"
            )

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return self.array.ndim - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape S."""
        return self.array.shape[1:]

    @property
    def spacing(self) -> NDArray[np.float64]:
        """mm per step along each spatial axis."""
        return voxel_spacing(self.affine, self.ndim)

    @property
    def voxel_size(self) -> float:
        """mm2 of a pixel or mm3 of a voxel."""
        return voxel_size(self.affine, self.ndim)

    @classmethod
    def from_array(cls, array: NDArray, affine: Affine | None = None, channels: Sequence[str] | None = None) -> Volume:
        """Wrap (C, *S) with an affine (index -> LPS mm, default identity in pixels) and channel names."""
        from medpanoptic.geometry import spatial_affine

        names = channels if channels is not None else [f"channel{i}" for i in range(array.shape[0])]
        matrix = spatial_affine((1.0,) * (array.ndim - 1)) if affine is None else affine
        return cls(array, matrix, tuple(Channel(n) for n in names), calibrated=affine is not None)


@dataclass(frozen=True)
class ChannelSpec:
    """One channel that a model takes: its name, DICOM modality ("" = any), unit, and whether it must be there."""

    name: str
    modality: str = ""
    unit: str = ""
    required: bool = True
