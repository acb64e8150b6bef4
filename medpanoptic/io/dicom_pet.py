"""PET activity to standardised uptake value by body weight.

SUV = activity [Bq/ml] * body weight [g] / injected dose [Bq], the dose decayed to the time that the activity is
corrected to. Source: DICOM PS3.3 C.8.9.1 (Units, Decay Correction), C.8.9.2 (radiopharmaceutical);
QIBA FDG-PET/CT profile, SUV computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset

from medpanoptic.errors import ReadError

# No clinical tracer is given below 0.1 MBq: a smaller number was written in MBq or is damaged.
_LEAST_DOSE_BQ = 1e5
_LONGEST_UPTAKE = timedelta(hours=24)


@dataclass(frozen=True)
class PetTags:
    """What SUV needs, None or "" where the file does not say. ``start`` and ``acquired`` are the scan's own times.

    weight_kg, dose_bq, half_life_s : None if absent, garbled or not positive.
    injected_at : date and time; injected_clock : time of day only (the date is then that of the scan).
    """

    units: str = ""
    suv_type: str = ""
    decay_correction: str = ""
    corrections: tuple[str, ...] = ()
    weight_kg: float | None = None
    dose_bq: float | None = None
    half_life_s: float | None = None
    injected_at: datetime | None = None
    injected_clock: str = ""
    start: datetime | None = None
    acquired: datetime | None = None
    corrected_to: datetime | None = None


def read_pet_tags(dataset: Dataset) -> PetTags:
    """Collect the attributes from a PET or Enhanced PET header."""
    drug = next(iter(dataset.get("RadiopharmaceuticalInformationSequence") or []), Dataset())
    return PetTags(
        units=_units(dataset),
        suv_type=_word(dataset, "SUVType"),
        decay_correction=_decay_correction(dataset),
        corrections=_corrections(dataset),
        weight_kg=_positive(dataset, "PatientWeight"),
        dose_bq=_positive(drug, "RadionuclideTotalDose"),
        half_life_s=_positive(drug, "RadionuclideHalfLife"),
        injected_at=_moment(drug.get("RadiopharmaceuticalStartDateTime")),
        injected_clock=str(drug.get("RadiopharmaceuticalStartTime") or ""),
        start=_date_and_time(dataset, "SeriesDate", "SeriesTime"),
        acquired=_moment(dataset.get("AcquisitionDateTime"))
        or _date_and_time(dataset, "AcquisitionDate", "AcquisitionTime"),
        corrected_to=_moment(dataset.get("DecayCorrectionDateTime")),
    )


def suv_factor(tags: Sequence[PetTags], name: str) -> float:
    """Return the factor from rescaled pixel values to SUV by body weight; 1.0 for GML.

    tags : of every file of the series: the first decay correction time is the earliest of them.
    name : of the series, for messages. Messages name attributes and never hold their values.
    Raises ReadError: SUV-UNIT (neither BQML nor GML by body weight), SUV-MISSING (an attribute is absent or not
    usable), SUV-TIME (the scan starts before the injection or more than a day after it).
    """
    if any(_identity(t) != _identity(tags[0]) for t in tags):
        raise ReadError(
            "SUV-UNIT",
            f"{name}: Units, dose, injection, weight or corrections differ between the slices of one PET series",
        )
    first = tags[0]
    if first.units == "GML":
        if first.suv_type not in {"", "BW"}:
            raise ReadError("SUV-UNIT", f"{name}: SUVType is not by body weight (BW); models take SUV by body weight")
        return 1.0
    if first.units != "BQML":
        raise ReadError(
            "SUV-UNIT",
            f"{name}: PET Units must be BQML or GML (it is {'another' if first.units else 'absent'})",
        )
    _require(first, name)
    return 1000.0 * float(first.weight_kg or 0) / _decayed_dose(tags, name)


def _identity(tags: PetTags) -> tuple[Any, ...]:
    """Return what all slices of a scan have in common."""
    drug = tags.dose_bq, tags.half_life_s, tags.injected_at, tags.injected_clock
    corrected = {"ATTN", "DECY"} <= set(tags.corrections)
    return tags.units, tags.suv_type, tags.weight_kg, tags.decay_correction, corrected, drug


def _require(tags: PetTags, name: str) -> None:
    needed = {
        "PatientWeight": tags.weight_kg,
        "RadionuclideTotalDose": tags.dose_bq,
        "RadionuclideHalfLife": tags.half_life_s,
        "DecayCorrection": tags.decay_correction,
        "CorrectedImage with ATTN and DECY": {"ATTN", "DECY"} <= set(tags.corrections),
    }
    missing = [attribute for attribute, value in needed.items() if not value]
    if tags.decay_correction == "NONE":
        missing.append("DecayCorrection other than NONE")
    if tags.dose_bq is not None and tags.dose_bq < _LEAST_DOSE_BQ:
        missing.append("RadionuclideTotalDose in Bq (it is below 0.1 MBq)")
    if missing:
        raise ReadError("SUV-MISSING", f"{name}: SUV cannot be computed, missing or unusable: {', '.join(missing)}")


def _decayed_dose(tags: Sequence[PetTags], name: str) -> float:
    """Return the injected dose in Bq, decayed to the moment that the pixel values are corrected to."""
    first = tags[0]
    dose, half_life = float(first.dose_bq or 0), float(first.half_life_s or 1)
    if first.decay_correction == "ADMIN":
        return dose
    scan = _reference_time(tags)
    if scan is None:
        raise ReadError("SUV-MISSING", f"{name}: SUV cannot be computed, missing: SeriesTime and AcquisitionTime")
    injection = _injection_time(first, scan)
    if injection is None:
        raise ReadError("SUV-MISSING", f"{name}: SUV cannot be computed, missing: RadiopharmaceuticalStartTime")
    uptake = scan - injection
    if not timedelta(0) <= uptake <= _LONGEST_UPTAKE:
        raise ReadError("SUV-TIME", f"{name}: the scan does not start within a day after the injection")
    return dose * 2.0 ** (-uptake.total_seconds() / half_life)


def _reference_time(tags: Sequence[PetTags]) -> datetime | None:
    """Return the scan start that DecayCorrection START refers to.

    SeriesTime is the start of the scan unless a later processing step has written its own time there; it then lies
    after the first acquisition, which is taken instead (QIBA).
    """
    if tags[0].corrected_to is not None:
        return tags[0].corrected_to
    acquired = min((t.acquired for t in tags if t.acquired is not None), default=None)
    start = tags[0].start
    if start is None or acquired is None:
        return start or acquired
    return min(start, acquired)


def _injection_time(tags: PetTags, scan: datetime) -> datetime | None:
    if tags.injected_at is not None:
        return tags.injected_at
    clock = _clock(tags.injected_clock)
    if clock is None:
        return None
    injection = datetime.combine(scan.date(), datetime.min.time()) + clock
    # a time of day later than the scan is that of the day before: the scan ran past midnight
    return injection if injection <= scan else injection - timedelta(days=1)


def _units(dataset: Dataset) -> str:
    """Units of PET; Enhanced PET has them as RescaleType in the functional groups."""
    units = _word(dataset, "Units")
    groups = [
        *(dataset.get("SharedFunctionalGroupsSequence") or []),
        *(dataset.get("PerFrameFunctionalGroupsSequence") or []),
    ]
    for group in [] if units else groups:
        for item in group.get("PixelValueTransformationSequence") or []:
            units = units or _word(item, "RescaleType")
    return units


def _decay_correction(dataset: Dataset) -> str:
    if "DecayCorrection" in dataset:
        return _word(dataset, "DecayCorrection")
    return {"YES": "START", "NO": "NONE"}.get(_word(dataset, "DecayCorrected"), "")


def _corrections(dataset: Dataset) -> tuple[str, ...]:
    value = dataset.get("CorrectedImage") or []
    words = [str(v).upper() for v in ([value] if isinstance(value, str) else value)]
    enhanced = {"ATTN": "AttenuationCorrected", "DECY": "DecayCorrected"}
    return (*words, *(code for code, keyword in enhanced.items() if _word(dataset, keyword) == "YES"))


def _word(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip().upper()


def _positive(dataset: Dataset, keyword: str) -> float | None:
    try:
        value = float(dataset.get(keyword))
    except (TypeError, ValueError):
        return None
    return value if 0 < value < float("inf") else None


def _date_and_time(dataset: Dataset, date: str, time: str) -> datetime | None:
    """Join DA and TM; without a date any one day stands in, as only differences count."""
    return _moment(f"{dataset.get(date) or '19000101'}{dataset.get(time)}") if dataset.get(time) else None


def _moment(value: Any) -> datetime | None:
    """Read a DT value, or DA + TM. The time zone is left out: all times of one scan are local to it."""
    text = str(value or "").strip()
    date, clock = text[:8], _clock(text[8:].split("+")[0].split("-")[0])
    try:
        return None if clock is None else datetime.strptime(date, "%Y%m%d") + clock
    except ValueError:
        return None


def _clock(text: str) -> timedelta | None:
    """Read a TM value, HH[MM[SS[.ffffff]]]."""
    whole = text.strip().replace(":", "")
    if len(whole) < 2 or not whole.replace(".", "", 1).isdigit():
        return None
    return timedelta(hours=int(whole[:2]), minutes=int(whole[2:4] or 0), seconds=float(whole[4:] or 0))
