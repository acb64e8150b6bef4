"""GeoJSON back into a result, after somebody edited it in QuPath or drew it there. Source: RFC 7946, see ``geojson``.

What was changed is found out, as QuPath does not say it: each of our features carries the checksum of its pixels.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from medpanoptic.classes import ClassInfo, ClassTable
from medpanoptic.errors import ReadError
from medpanoptic.io.foreign import REGION_CATEGORY, REGION_TYPE, any_color
from medpanoptic.io.geojson import pixel_checksum
from medpanoptic.io.outline import fill
from medpanoptic.result import Origin, PanopticResult, Provenance, Segment, Verdict, count_ids
from medpanoptic.volume import Volume

_UNCLASSIFIED = "region"
# what QuPath calls objects that a program made
_MADE = ("detection", "cell", "tile")


@dataclass(frozen=True)
class _Shape:
    """One object; ``mask`` (row, column) lies at ``first``. The id of its row is 0 where it brings none."""

    segment: Segment
    first: NDArray[np.int64]
    mask: NDArray[np.bool_]

    @property
    def place(self) -> tuple[slice, ...]:
        """Where the mask lies in the image."""
        return tuple(slice(int(a), int(a) + n) for a, n in zip(self.first, self.mask.shape, strict=True))


def read_geojson(path: Path, image: Volume | None = None) -> PanopticResult:
    """Read GeoJSON of QuPath as a result on the grid of ``image``, which must be given: outlines have no grid.

    A pixel belongs to an object where its centre lies inside, by the even-odd rule over all its rings. Where things
    overlap the smaller one has the pixels, and a thing has them before stuff. Ids, classes, scores, origins, verdicts
    and tracking UIDs that ``write_annotations`` wrote come back, as far as QuPath kept its metadata (0.5 and later);
    an object whose pixels or class were changed is "edited", one that was drawn is "added". Its class is then the name
    of its classification, or "region", and it is a thing. Points and lines are left out.
    Whatever is decided stands in ``provenance.parameters["notes"]``.
    Raises ReadError: GEOJSON-IMAGE (no 2D image), RESULT-FORMAT (garbled).
    """
    if image is None or image.ndim != 2:
        raise ReadError(
            "GEOJSON-IMAGE",
            f"{path.name}: outlines have no grid of their own; give the 2D image they were drawn on (image=, --image)",
        )
    classes = _Classes()
    notes: Counter[str] = Counter()
    shapes: list[_Shape] = []
    features = _load(path)
    for work in (lambda f: classes.learn(f), lambda f: shapes.extend(_shapes(f, image, classes, notes))):
        for number, feature in enumerate(features, start=1):
            try:
                work(feature)
            except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
                kind = type(error).__name__
                raise ReadError(
                    "RESULT-FORMAT", f"{path.name}: object {number} is not as QuPath writes it ({kind})"
                ) from None
    ids, segments = _paint(_with_own_ids(shapes), classes, image.shape, notes)
    parameters: dict[str, Any] = {"calibrated": image.calibrated}
    if notes:
        parameters["notes"] = [f"{count} {text}" for text, count in sorted(notes.items())]
    return PanopticResult(
        ids, segments, classes.used(segments), image.affine, image.source, Provenance(parameters=parameters)
    )


def _load(path: Path) -> list[Any]:
    """Return the features: QuPath exports a collection, a bare list, or a single one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ReadError("RESULT-FORMAT", f"{path.name} is not JSON; was it cut short?") from None
    features = data.get("features", [data]) if isinstance(data, dict) else data
    if not isinstance(features, list):
        raise ReadError("RESULT-FORMAT", f"{path.name} is not GeoJSON: it holds no list of features")
    return features


# ---- the table


class _Classes:
    """The classes by name: those our metadata tell, and a new one for each other classification."""

    def __init__(self) -> None:
        self._known: dict[str, ClassInfo] = {}

    def learn(self, feature: Mapping[str, Any]) -> None:
        """Take the class that a feature was written with, whatever it is classified as now."""
        told = _metadata(feature).get("class")
        if told is not None:
            info = ClassInfo.from_json(json.loads(told))
            self._known.setdefault(info.name, replace(info, id=self._free(info.id)))

    def of(self, feature: Mapping[str, Any]) -> ClassInfo:
        """Return the class that a feature is in now."""
        told = feature["properties"].get("classification") or {}
        name = str(told.get("name") or ": ".join(told.get("names") or ()) or _UNCLASSIFIED)
        if name not in self._known:
            number = self._free(1 + max((c.id for c in self._known.values()), default=0))
            r, g, b = (int(v) for v in told.get("color") or any_color(number))
            self._known[name] = ClassInfo(number, name, True, (r, g, b), REGION_CATEGORY, REGION_TYPE)
        return self._known[name]

    def used(self, segments: Sequence[Segment]) -> ClassTable:
        """Return the table of the classes that have a segment."""
        ids = {s.class_id for s in segments}
        return ClassTable(tuple(sorted((c for c in self._known.values() if c.id in ids), key=lambda c: c.id)))

    def is_thing(self, class_id: int) -> bool:
        """Tell whether a class is countable."""
        return next(c.is_thing for c in self._known.values() if c.id == class_id)

    def _free(self, wanted: int) -> int:
        taken = {c.id for c in self._known.values()}
        return wanted if wanted not in taken else 1 + max(taken)


def _metadata(feature: Mapping[str, Any]) -> Mapping[str, str]:
    return feature["properties"].get("metadata") or {}


def _row(feature: Mapping[str, Any], info: ClassInfo, checksum: str) -> Segment:
    """Return the row of a feature that has ``checksum`` now; its id is 0 if we did not write it."""
    properties, told = feature["properties"], _metadata(feature)
    if "pixels" not in told:
        origin: Origin = "predicted" if properties.get("objectType") in _MADE else "added"
        return Segment(0, info.id, 1.0, origin)
    origin, verdict, score = told["origin"], told["verdict"], float(properties["measurements"]["Score"])  # type: ignore[assignment]
    number = int(told["id"])
    if origin not in get_args(Origin) or verdict not in get_args(Verdict) or not 0 <= score <= 1:
        raise ValueError
    if not 0 < number < 2**31:
        raise ValueError
    is_same = told["pixels"] == checksum and ClassInfo.from_json(json.loads(told["class"])).name == info.name
    if origin == "predicted" and not is_same:
        origin = "edited"
    return Segment(number, info.id, score, origin, verdict, told.get("tracking_uid", ""))  # type: ignore[arg-type]


def _with_own_ids(shapes: Sequence[_Shape]) -> list[_Shape]:
    """Give an id to each new object, and to each copy of one, which loses its tracking UID: it is another thing now."""
    taken = {shape.segment.id for shape in shapes}
    following = max(taken, default=0) + 1
    seen: set[int] = set()
    numbered = []
    for shape in shapes:
        row = shape.segment
        if row.id == 0:
            row, following = replace(row, id=following), following + 1
        elif row.id in seen:
            row, following = replace(row, id=following, tracking_uid="", origin="added"), following + 1
        seen.add(row.id)
        numbered.append(replace(shape, segment=row))
    return numbered


# ---- the map


def _shapes(feature: Mapping[str, Any], image: Volume, classes: _Classes, notes: Counter[str]) -> Iterator[_Shape]:
    """Yield the object of a feature, or nothing, with a note, if it has no pixel in the image."""
    geometry = feature["geometry"] or {}
    kind = geometry.get("type")
    if kind not in ("Polygon", "MultiPolygon"):
        notes["object(s) that enclose nothing (points, lines) are left out"] += 1
        return
    polygons = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
    # (x, y) from the corner of the first pixel of the finest level -> (row, column) from its centre
    rings = [np.array(ring, float)[:, 1::-1] / image.source.downsample - 0.5 for p in polygons for ring in p]
    if not rings or not all(np.isfinite(ring).all() for ring in rings):
        raise ValueError
    corners = np.concatenate(rings)
    low = np.floor(corners.min(axis=0)).clip(0, image.shape).astype(np.int64)
    high = (np.floor(corners.max(axis=0)) + 1).clip(0, image.shape).astype(np.int64)
    mask = fill([ring - low for ring in rings], tuple(int(n) for n in high - low)) > 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        notes["object(s) without a pixel in the image are left out"] += 1
        return
    first = low + np.array([rows[0], columns[0]])
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    yield _Shape(_row(feature, classes.of(feature), pixel_checksum(mask, first)), first, mask)


def _paint(
    shapes: Sequence[_Shape], classes: _Classes, size: tuple[int, ...], notes: Counter[str]
) -> tuple[NDArray[np.int32], tuple[Segment, ...]]:
    """Paint stuff, then things, the smallest last; return the map and the rows that have pixels in it."""
    ids = np.zeros(size, np.int32)
    stuff: dict[int, int] = {}
    table: dict[int, Segment] = {}
    thing_pixels = np.zeros(size, bool)
    order = sorted(shapes, key=lambda s: (classes.is_thing(s.segment.class_id), -int(s.mask.sum())))
    for shape in order:
        row, is_thing = shape.segment, classes.is_thing(shape.segment.class_id)
        number = row.id if is_thing else stuff.setdefault(row.class_id, row.id)
        if number != row.id:
            notes["more segment(s) of a stuff class: one in all"] += 1
        if is_thing:
            covered = int((thing_pixels[shape.place] & shape.mask).sum())
            notes["pixel(s) in several things: the smaller thing has them"] += covered
            thing_pixels[shape.place] |= shape.mask
        ids[shape.place][shape.mask] = number
        table.setdefault(number, row)
    notes += Counter()  # without zeros
    present = set(count_ids(ids))
    hidden = len(table.keys() - present)
    if hidden:
        notes["object(s) that others cover are left out"] += hidden
    return ids, tuple(table[i] for i in sorted(table) if i in present)
