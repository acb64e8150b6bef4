"""Errors for the person who meets them.

MedpanopticError                 every error of this package; ``code`` is stable across versions
├── ReadError                    a file or series cannot be read
│   ├── GeometryError            positions, orientation or spacing do not describe one volume
│   └── SelectionError           several candidates or none for what was asked
├── ResultError                  a result would be invalid (ids, classes, shape)
├── BatchError                   a batch cannot start or go on: its ledger, workers, disk or peer
├── ModelError                   a bundle or its weights cannot be used
├── DataError                    training or evaluation data is not in the layout it claims
├── ReviewError                  an action of a review is impossible, or its journal or signature is not sound
└── WriteError                   an output cannot be written or the format is unknown

Texts name the file, series or slice, what was found and what to do. They never hold a value of a
DICOM tag: tags carry patient data.
"""

from __future__ import annotations


class MedpanopticError(Exception):
    """Base of all errors here.

    code : short stable string such as ``GEO-GAP``; scripts and logs may rely on it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"[{code}] {message}")
        self.code = code
        self.message = message


class ReadError(MedpanopticError):
    """A file or series cannot be read."""


class GeometryError(ReadError):
    """The slices do not describe one regular volume."""


class SelectionError(ReadError):
    """Several candidates, or none, for what was asked."""


class ResultError(MedpanopticError):
    """A result would be invalid."""


class ModelError(MedpanopticError):
    """A bundle or its weights cannot be used."""


class BatchError(MedpanopticError):
    """A batch cannot start or go on."""


class DataError(MedpanopticError):
    """Training or evaluation data is not in the layout it claims."""


class ReviewError(MedpanopticError):
    """An action of a review is impossible, or its journal or signature is not sound."""


class WriteError(MedpanopticError):
    """An output cannot be written."""
