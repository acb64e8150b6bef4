"""The segments and classes that a DICOM Segmentation describes. Source: DICOM PS3.3 C.8.20.2, C.8.20.4"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.errors import ReadError
from medpanoptic.io.dicom_common import ALGORITHM_TYPE, NAME
from medpanoptic.io.foreign import any_color
from medpanoptic.result import Origin, Provenance, Segment, Verdict

if TYPE_CHECKING:
    from pydicom import Dataset

_ORIGIN: dict[str, Origin] = {kind: origin for origin, kind in ALGORITHM_TYPE.items()}
# Morphologically Abnormal Structure: what is counted even if there is one of it. Source: DICOM PS3.16 CID 7150
_COUNTED = Code("49755003", "SCT", "")
_BACKGROUND = ("125040", "DCM")
_MAX_CLASS_ID = 255  # class maps are uint8
_WORDS = re.compile(r"(id|class|color|score|verdict)=(\S+)")


@dataclass(frozen=True)
class SegmentTable:
    """Segment number -> segment, in number order; the classes; the number that stands for nothing; notes.

    Two numbers have the same segment where both are of one stuff class.
    """

    segments: dict[int, Segment]
    classes: ClassTable
    background: int = 0
    notes: tuple[str, ...] = ()


def is_ours(dataset: Dataset) -> bool:
    """Tell whether this program wrote the object: its free texts are then ours to read, and nobody's words."""
    return str(dataset.get("Manufacturer", "")) == NAME


def read_table(dataset: Dataset, name: str, classes: ClassTable | None) -> SegmentTable:
    """Return the segments and classes of a segmentation.

    classes : known classes; a segment whose type (and region) code agrees with one of them is of that class. Codes of
    the old SNOMED scheme (SRT) agree with those of SCT.
    Other classes are named by the meaning of their type code, never by a label, which may hold anything. Such one is
    stuff where it has one segment without a tracking UID and is no abnormal structure; else its segments are things.
    Raises ReadError: SEG-DAMAGED.
    """
    try:
        items = {int(s.SegmentNumber): s for s in dataset.SegmentSequence}
        kinds = {number: _Kind.of(item, is_ours(dataset)) for number, item in items.items()}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        kind = type(error).__name__
    else:
        background = next((n for n, k in kinds.items() if (k.type.value, k.type.scheme) == _BACKGROUND), 0)
        described = {n: k for n, k in sorted(kinds.items()) if n != background}
        table, class_of = _classes(described, classes, name)
        segments = _segments(described, class_of)
        notes = _merge_stuff(segments, table)
        return SegmentTable(segments, table, background, notes)
    raise ReadError("SEG-DAMAGED", f"{name}: the description of its segments is missing or garbled ({kind})")


def read_provenance(dataset: Dataset, notes: Sequence[str]) -> Provenance:
    """Return model, version, weights hash and time of an object of ours; of others nothing but the notes."""
    parameters = {"notes": list(notes)} if notes else {}
    if not is_ours(dataset):
        return Provenance(parameters=parameters)
    made: dict[str, str] = {"medpanoptic_version": _text(dataset, "SoftwareVersions").replace("unknown", "")}
    for item in dataset.get("ContributingEquipmentSequence") or ():
        if item.get("Manufacturer") != NAME:
            continue
        versions = item.get("SoftwareVersions", "")
        version = versions if isinstance(versions, str) else versions[0]
        made["bundle"] = _text(item, "ManufacturerModelName").replace(NAME, "") or ""
        made["bundle_version"] = str(version).replace("unknown", "")
        made["weights_sha256"] = _text(item, "DeviceSerialNumber")
        made["created"] = _iso(item)
    return Provenance(**made, parameters=parameters)


@dataclass(frozen=True)
class _Kind:
    """What one item of the Segment Sequence says; ``words`` are ours from its description."""

    category: Code
    type: Code
    region: Code | None
    color: tuple[int, int, int] | None
    origin: Origin
    tracking_uid: str
    label: str
    words: dict[str, str]

    @classmethod
    def of(cls, item: Dataset, ours: bool) -> _Kind:
        region = item.get("AnatomicRegionSequence")
        words = dict(_WORDS.findall(_text(item, "SegmentDescription"))) if ours else {}
        return cls(
            _code(item.SegmentedPropertyCategoryCodeSequence[0]),
            _code(item.SegmentedPropertyTypeCodeSequence[0]),
            _code(region[0]) if region else None,
            _hex_rgb(words.get("color", "")) or _rgb(item.get("RecommendedDisplayCIELabValue")),
            _ORIGIN.get(_text(item, "SegmentAlgorithmType"), "predicted"),
            _text(item, "TrackingUID"),
            _text(item, "SegmentLabel") if ours else "",
            words,
        )

    def is_like(self, info: ClassInfo) -> bool:
        return _agree(self.type, info.type) and (
            info.region is None or (self.region is not None and _agree(self.region, info.region))
        )

    @property
    def name(self) -> str:
        """The class name in a label of ours, such as "tumour 12" or "tumour (none found)"; else the type's meaning."""
        if not self.label:
            return self.type.meaning
        own = self.words.get("id", "")
        return self.label.removesuffix(" (none found)").removesuffix(f" {own}" if self.tracking_uid else "")


def _classes(kinds: dict[int, _Kind], known: ClassTable | None, name: str) -> tuple[ClassTable, dict[int, ClassInfo]]:
    """Return the table and the class of each segment number. Raises ReadError (SEG-CLASSES) beyond class id 255."""
    infos = list(known or ())
    class_of: dict[int, ClassInfo] = {}
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, kind in kinds.items():
        alike = [info for info in infos if kind.is_like(info)]
        same = [info for info in alike if str(info.id) == kind.words.get("class")]
        like = next(iter(same or alike), None)
        if like is not None:
            class_of[number] = like
        else:
            groups.setdefault(_group(kind), []).append(number)
    wanted = [kinds[numbers[0]].words.get("class", "") for numbers in groups.values()]
    ids = _free_ids(wanted, {info.id for info in infos})
    taken = Counter(info.name for info in infos)
    for class_id, numbers in zip(ids, groups.values(), strict=True):
        info = _new_class(class_id, [kinds[n] for n in numbers], taken)
        infos.append(info)
        class_of.update(dict.fromkeys(numbers, info))
    if any(info.id > _MAX_CLASS_ID for info in infos):
        raise ReadError("SEG-CLASSES", f"{name}: more than {_MAX_CLASS_ID} classes, which a result does not hold")
    return ClassTable(tuple(sorted(infos, key=lambda i: i.id) if known is None else infos)), class_of


def _group(kind: _Kind) -> tuple[Any, ...]:
    """Return what segments of one class have in common."""
    if "class" in kind.words:
        return ("ours", kind.words["class"])
    codes = (kind.category, kind.type, kind.region)
    return tuple((c.value, c.scheme) if c is not None else None for c in codes)


def _free_ids(wanted: Sequence[str], taken: set[int]) -> list[int]:
    """Return the ids that are asked for where they are free and fit, else the next free ones."""
    asked = [int(w) if w.isdecimal() and 0 < int(w) < 256 else 0 for w in wanted]
    if 0 not in asked and len(set(asked)) == len(asked) and not taken & set(asked):
        return asked
    start = max(taken, default=0) + 1
    return list(range(start, start + len(wanted)))


def _new_class(class_id: int, kinds: Sequence[_Kind], taken: Counter[str]) -> ClassInfo:
    first = kinds[0]
    name = first.name if first.label else _unique(first, taken)
    taken[name] += 1
    tracked = any(k.tracking_uid for k in kinds)
    none_found = first.label.endswith("(none found)")
    # what we wrote says it by the tracking UIDs, which stuff has not
    guess = len(kinds) > 1 or _agree(first.category, _COUNTED)
    is_thing = tracked or none_found or (guess and not first.words)
    color = first.color or any_color(class_id)
    return ClassInfo(class_id, name, is_thing, color, first.category, first.type, first.region)


def _unique(kind: _Kind, taken: Counter[str]) -> str:
    """Return the meaning of the type, with that of the region or a number where other classes have the same."""
    name = kind.name or "unnamed"
    if taken[name] and kind.region is not None:
        name = f"{name}, {kind.region.meaning}"
    number = 2
    while taken[name]:
        name, number = f"{kind.name} {number}", number + 1
    return name


def _segments(kinds: dict[int, _Kind], class_of: dict[int, ClassInfo]) -> dict[int, Segment]:
    made = {}
    for number, kind in kinds.items():
        words = kind.words
        segment = Segment(number, class_of[number].id, 1.0, kind.origin, "unread", kind.tracking_uid)
        if words.get("id", "").isdecimal():
            segment = replace(segment, id=int(words["id"]), score=_score(words.get("score", "")))
            if words.get("verdict") in get_args(Verdict):
                segment = replace(segment, verdict=words["verdict"])  # type: ignore[arg-type]
        made[number] = segment
    ids = [s.id for s in made.values()]
    if len(set(ids)) < len(ids) or not all(0 < i < 2**31 for i in ids):
        # not as we wrote it: an editor may have copied a segment with its description
        made = {number: replace(s, id=number) for number, s in made.items()}
    return made


def _merge_stuff(segments: dict[int, Segment], classes: ClassTable) -> tuple[str, ...]:
    """Give all segments of a stuff class the first one's place, and say so."""
    first: dict[int, Segment] = {}
    notes = set()
    for number, segment in segments.items():
        if classes[segment.class_id].is_thing:
            continue
        segments[number] = first.setdefault(segment.class_id, segment)
        if segments[number] is not segment:
            notes.add(f"segments of the stuff class {classes[segment.class_id].name!r} became one")
    return tuple(sorted(notes))


def _score(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 1.0
    return value if 0 <= value <= 1 else 1.0


def _code(item: Dataset) -> Code:
    """Return the code, with printable characters only: its meaning becomes a class name."""
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue") or ""
    meaning = "".join(c for c in str(item.get("CodeMeaning", "")) if c.isprintable())
    return Code(str(value), str(item.get("CodingSchemeDesignator", "")), meaning)


def _agree(a: Code, b: Code) -> bool:
    """Tell whether two codes name one concept; pydicom knows which SRT code became which SCT code."""
    from pydicom.sr.coding import Code as DicomCode

    return bool(DicomCode(a.value, a.scheme, a.meaning) == DicomCode(b.value, b.scheme, b.meaning))


def _text(item: Dataset, keyword: str) -> str:
    value = item.get(keyword)
    return "" if value is None else str(value)


def _hex_rgb(text: str) -> tuple[int, int, int] | None:
    if not re.fullmatch(r"[0-9a-f]{6}", text):
        return None
    r, g, b = bytes.fromhex(text)
    return r, g, b


def _rgb(lab: Any) -> tuple[int, int, int] | None:
    """Return RGB 0-255 of a Recommended Display CIELab Value. Source: DICOM PS3.3 C.10.7.1.1"""
    import highdicom as hd
    from pydicom.multival import MultiValue

    if not isinstance(lab, MultiValue | list) or len(lab) != 3:
        return None
    try:
        r, g, b = hd.color.CIELabColor.from_dicom_value([int(v) for v in lab]).to_rgb()
    except (ValueError, TypeError):
        return None
    return int(r), int(g), int(b)


def _iso(item: Dataset) -> str:
    from pydicom.valuerep import DT

    try:
        moment = DT(_text(item, "ContributionDateTime"))
    except (ValueError, TypeError):
        return ""
    return moment.isoformat() if moment else ""
