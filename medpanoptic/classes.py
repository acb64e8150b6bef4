"""Classes: what is a thing, what is stuff, how it is drawn and coded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medpanoptic.errors import ResultError


@dataclass(frozen=True)
class Code:
    """A coded concept: value, scheme designator (``SCT`` = SNOMED CT) and meaning. Source: DICOM PS3.3 8.8."""

    value: str
    scheme: str
    meaning: str

    @classmethod
    def from_json(cls, data: Sequence[str]) -> Code:
        """Read ``[value, scheme, meaning]``."""
        return cls(*data)

    def to_json(self) -> list[str]:
        """Return ``[value, scheme, meaning]``."""
        return [self.value, self.scheme, self.meaning]


@dataclass(frozen=True)
class ClassInfo:
    """One class. ``id`` >= 1 (0 is void); ``color`` is RGB 0-255; codes are DICOM segment category and type.

    region : DICOM anatomic region, such as Liver for a liver lesion; None where the class is not bound to one.
    """

    id: int
    name: str
    is_thing: bool
    color: tuple[int, int, int]
    category: Code
    type: Code
    region: Code | None = None

    def __post_init__(self) -> None:
        if self.id < 1:
            raise ResultError("CLASS-ID", f"class {self.name!r} has id {self.id}; ids start at 1, 0 is void")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ClassInfo:
        """Read one entry of ``classes`` in segments.json or a bundle."""
        r, g, b = data["color"]
        return cls(
            int(data["id"]),
            str(data["name"]),
            bool(data["is_thing"]),
            (int(r), int(g), int(b)),
            Code.from_json(data["category"]),
            Code.from_json(data["type"]),
            Code.from_json(data["region"]) if data.get("region") else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plain form used in segments.json; ``region`` is there only where the class has one."""
        plain: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "is_thing": self.is_thing,
            "color": list(self.color),
            "category": self.category.to_json(),
            "type": self.type.to_json(),
        }
        if self.region is not None:
            plain["region"] = self.region.to_json()
        return plain


@dataclass(frozen=True)
class ClassTable:
    """The classes of a model or result, in network channel order: channel k is ``classes[k]``."""

    classes: tuple[ClassInfo, ...]

    def __post_init__(self) -> None:
        ids = [c.id for c in self.classes]
        names = [c.name for c in self.classes]
        if len(set(ids)) != len(ids) or len(set(names)) != len(names):
            raise ResultError(
                "CLASS-ID", f"class ids and names must be unique, got {list(zip(ids, names, strict=True))}"
            )

    def __iter__(self) -> Iterator[ClassInfo]:
        return iter(self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, class_id: int) -> ClassInfo:
        for info in self.classes:
            if info.id == class_id:
                return info
        raise ResultError("CLASS-ID", f"no class with id {class_id}; known ids are {[c.id for c in self.classes]}")

    def named(self, name: str) -> ClassInfo:
        """Return the class called ``name``. Raises ResultError (CLASS-NAME)."""
        for info in self.classes:
            if info.name == name:
                return info
        raise ResultError("CLASS-NAME", f"no class named {name!r}; known are {[c.name for c in self.classes]}")

    @property
    def things(self) -> tuple[ClassInfo, ...]:
        """The countable classes."""
        return tuple(c for c in self.classes if c.is_thing)

    @property
    def stuff(self) -> tuple[ClassInfo, ...]:
        """The uncountable classes."""
        return tuple(c for c in self.classes if not c.is_thing)

    @classmethod
    def from_json(cls, data: Sequence[Mapping[str, Any]]) -> ClassTable:
        """Read the ``classes`` list of segments.json or of a bundle's metadata."""
        return cls(tuple(ClassInfo.from_json(entry) for entry in data))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the plain form used in segments.json."""
        return [c.to_json() for c in self.classes]
