"""Deterministic identifiers: the same inputs name the same objects, other pixels never share a UID."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import asdict

from numpy.typing import NDArray

from medpanoptic.result import PanopticResult

# a fixed random UUID: the namespace of every UID made here
_NAMESPACE = uuid.UUID("6f2b9b0e-6f0c-4a43-9d1b-3c6a6b3b6c51")


def uid_from(*parts: str) -> str:
    """Return a DICOM UID "2.25.<integer>" that depends on ``parts`` alone (order and borders count).

    Source: DICOM PS3.5 B.2 (UUID-derived UID), here from a name-based UUID of version 5.
    """
    name = "".join(f"{len(part)}:{part}" for part in parts)
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


def array_digest(array: NDArray) -> str:
    """Return the SHA-256 (hex) of dtype, shape and values, whatever the memory layout."""
    digest = hashlib.sha256(f"{array.dtype.newbyteorder('<').str}{array.shape}".encode())
    for block in array if array.ndim > 1 else [array]:
        digest.update(block.astype(block.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def result_digest(result: PanopticResult) -> str:
    """Return the SHA-256 (hex) of what a result says: map, table, geometry and model; ``created`` does not count."""
    provenance = {**asdict(result.provenance), "created": ""}
    provenance["parameters"] = dict(result.provenance.parameters)
    table = [asdict(s) for s in result.segments]
    text = json.dumps(
        [table, result.classes.to_json(), provenance, result.affine.tolist()], sort_keys=True, default=str
    )
    return hashlib.sha256(f"{array_digest(result.ids)}{text}".encode()).hexdigest()
