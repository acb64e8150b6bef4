"""Deterministic identifiers: the same inputs name the same objects, other pixels never share a UID."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray

from medpanoptic.result import PanopticResult, Segment
from medpanoptic.volume import Source

# a fixed random UUID: the namespace of every UID made here
_NAMESPACE = uuid.UUID("6f2b9b0e-6f0c-4a43-9d1b-3c6a6b3b6c51")


def uid_from(*parts: str) -> str:
    """Return a DICOM UID "2.25.<integer>" that depends on ``parts`` alone (order and borders count).

    Source: DICOM PS3.5 B.2 (UUID-derived UID), here from a name-based UUID of version 5.
    """
    name = "".join(f"{len(part)}:{part}" for part in parts)
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


@dataclass(frozen=True)
class Identity:
    """The UIDs of everything that is written about one result; make it with ``identify``.

    parts : study, series and instance UIDs of the source, then the result's digest. review_version : 0 or more.
    """

    parts: tuple[str, ...]
    review_version: int = 0

    def uid(self, role: str) -> str:
        """Return the UID of what ``role`` names, such as "dicom-seg instance"; each role has one of its own."""
        return uid_from(role, *self.parts, str(self.review_version))

    def tracking_uid(self, segment: Segment) -> str:
        """Return the tracking UID of a thing, its own or a derived one: equal in SEG, SR and RTSTRUCT."""
        return segment.tracking_uid or uid_from("tracking", *self.parts, str(segment.id))


def identify(result: PanopticResult, source: Source, *, review_version: int | None = None) -> Identity:
    """Return the identity that every output of a result derives its UIDs from.

    source : what the outputs point at (``result.source``, or that of the image given with it).
    review_version : 0 for a model's own result, n for its n-th saved review; default
        ``result.provenance.parameters["review_version"]``, or 0 without one.
    The UIDs depend on the source UIDs, the review version and, by ``result_digest``, on map, table, geometry, model,
    weights, parameters and software version: a re-run with the same outcome makes the same UIDs on every machine, and
    other pixels never share one.
    """
    if review_version is None:
        review_version = int(result.provenance.parameters.get("review_version", 0))
    return Identity((source.study_uid, source.series_uid, *source.sop_uids, result_digest(result)), review_version)


def array_digest(array: NDArray) -> str:
    """Return the SHA-256 (hex) of dtype, shape and values, whatever the memory layout."""
    digest = hashlib.sha256(f"{array.dtype.newbyteorder('<').str}{array.shape}".encode())
    for block in array if array.ndim > 1 else [array]:
        digest.update(block.astype(block.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def result_digest(result: PanopticResult) -> str:
    """Return the SHA-256 (hex) of what a result says: map, table, geometry and model.

    Not of ``created``, the order of the table, or where the pixels came from; equal after ``read_result``.
    """
    provenance: dict[str, Any] = {**asdict(result.provenance), "created": ""}
    provenance["parameters"] = dict(result.provenance.parameters)
    table = [asdict(s) | {"score": float(s.score)} for s in sorted(result.segments, key=lambda s: s.id)]
    affine = (result.affine + 0.0).tolist()  # -0.0 and 0.0 are one place
    text = json.dumps([table, result.classes.to_json(), provenance, affine], sort_keys=True, default=_plain)
    return hashlib.sha256(f"{array_digest(result.ids)}{text}".encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Numpy numbers and arrays as JSON has them, whole (``str`` of a long array leaves out its middle)."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
