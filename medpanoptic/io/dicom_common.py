"""What every DICOM object that is written has in common: who made it, with which model, when, and its codes.

Shared by SEG, SR, secondary capture, RTSTRUCT and annotations. Source: DICOM PS3.3 C.7.5.1 (equipment), C.12.1
(contributing equipment), 10.16 (algorithm identification).
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from medpanoptic.classes import Code
from medpanoptic.identity import Identity
from medpanoptic.result import Origin, PanopticResult, Segment

if TYPE_CHECKING:
    from highdicom import AlgorithmIdentificationSequence, ContributingEquipment
    from highdicom.sr import CodedConcept
    from pydicom import Dataset

NAME = "medpanoptic"
NOTE = "research use only"
# DICOM PS3.3 C.8.20.4, Segment Algorithm Type
ALGORITHM_TYPE: dict[Origin, str] = {"predicted": "AUTOMATIC", "edited": "SEMIAUTOMATIC", "added": "MANUAL"}
# stands in where a source has no date at all: Content Date must not be empty, and today would change the bytes
_NO_DATE = datetime.datetime(1900, 1, 1)
_TEXT = 64  # the longest LO value


def concept(code: Code) -> CodedConcept:
    """Return a class's code as highdicom has it; the meaning is cut to the 64 characters that DICOM allows."""
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning[:_TEXT])


def equipment(result: PanopticResult) -> dict[str, str]:
    """Return the equipment arguments of a highdicom object: this program, its version, the weights as serial number."""
    made = result.provenance
    return {
        "manufacturer": NAME,
        "manufacturer_model_name": f"{NAME} {made.bundle}".strip()[:_TEXT],
        "software_versions": made.medpanoptic_version or "unknown",
        "device_serial_number": made.weights_sha256 or "none",
    }


def contributing_equipment(result: PanopticResult) -> list[ContributingEquipment]:
    """Return the model as equipment that contributed: name, version, SHA-256 of its weights, and when, if that is kept.

    Empty for a result that no model made.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    made = result.provenance
    if not made.bundle:
        return []
    return [
        hd.ContributingEquipment(
            manufacturer=NAME,
            purpose_of_reference=codes.DCM.ProcessingEquipment,
            manufacturer_model_name=made.bundle[:_TEXT],
            software_versions=[made.bundle_version or "unknown", f"{NAME} {made.medpanoptic_version}".strip()],
            device_serial_number=made.weights_sha256 or None,
            contribution_datetime=datetime.datetime.fromisoformat(made.created) if made.created else None,
            contribution_description="Model; the serial number is the SHA-256 of its weights",
        )
    ]


def algorithm_identification(result: PanopticResult) -> AlgorithmIdentificationSequence:
    """Return name, version and source of the model, with the SHA-256 of its weights as a parameter."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    made = result.provenance
    return hd.AlgorithmIdentificationSequence(
        name=f"{NAME} {made.bundle}".strip()[:_TEXT],
        family=codes.DCM.ArtificialIntelligence,
        version=(made.bundle_version or made.medpanoptic_version or "unknown")[:_TEXT],
        source=NAME,
        parameters={"weights_sha256": made.weights_sha256} if made.weights_sha256 else None,
    )


def segment_label(result: PanopticResult, segment: Segment) -> str:
    """Return what a viewer shows: the class name, and for a thing its id; at most 64 characters."""
    info = result.classes[segment.class_id]
    return f"{info.name[:50]} {segment.id}" if info.is_thing else info.name[:_TEXT]


def tracking(result: PanopticResult, segment: Segment, identity: Identity) -> tuple[str, str]:
    """Return (tracking id, tracking UID) of a thing, equal in every object that speaks of it."""
    return segment_label(result, segment), identity.tracking_uid(segment)


def series_description(result: PanopticResult) -> str:
    """Return the text that a worklist shows, at most 64 characters."""
    return f"{NAME} {result.provenance.bundle}".strip()[: _TEXT - len(NOTE) - 3] + f" ({NOTE})"


def moment(result: PanopticResult, header: Dataset) -> datetime.datetime:
    """Return when a result was made: its own time if it has one, else that of its source, so that bytes repeat."""
    from pydicom.valuerep import DA, TM

    if result.provenance.created:
        return datetime.datetime.fromisoformat(result.provenance.created)
    for what in ("Content", "Series", "Acquisition", "Study"):
        try:
            day, time = DA(header.get(f"{what}Date") or ""), TM(header.get(f"{what}Time") or "")
        except (ValueError, TypeError):
            continue
        if day:
            return datetime.datetime.combine(day, time or datetime.time())
    return _NO_DATE


def repeat_times(dataset: Dataset, made: datetime.datetime) -> None:
    """Replace the clock times that highdicom puts in by ``made``, so that a re-run makes the same bytes."""
    dataset.InstanceCreationDate = made.strftime("%Y%m%d")
    dataset.InstanceCreationTime = made.strftime("%H%M%S.%f")
    for item in dataset.get("ContributingEquipmentSequence", ()):
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = made.strftime("%Y%m%d%H%M%S")


def content_times(made: datetime.datetime) -> dict[str, Any]:
    """Return the content date and time as arguments of a highdicom object."""
    return {"content_date": made.date(), "content_time": made.time()}
