"""DICOM structured report (TID 1500) of the lesions, beside their SEG. Source: DICOM PS3.16 TID 1500, PS3.3 A.35.2."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpanoptic.classes import Code
from medpanoptic.errors import WriteError
from medpanoptic.identity import identify, uid_from
from medpanoptic.io import dicom_common as common
from medpanoptic.io.dicom_seg import numbered
from medpanoptic.io.dicom_source import dicom_source, odd_patients, put_patient, read_headers, without_values
from medpanoptic.io.dicom_sr_groups import SEGMENTATION, Context, absence_group, lesion_group
from medpanoptic.measure import DrawnAxes, measure
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.volume import Volume

if TYPE_CHECKING:
    from highdicom.sr import EnhancedSR, MeasurementReport, ObservationContext
    from pydicom import Dataset

_TITLE = Code("126000", "DCM", "Imaging Measurement Report")
# CID 100, Quantitative Diagnostic Imaging Procedures, by modality of the source series
_PROCEDURES = {
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
    "PT": Code("44136-0", "LN", "PET unspecified body region"),
}
_ANY_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")


@dataclass(frozen=True)
class Reader:
    """The person who read the case. ``name`` as DICOM has it: Family^Given; organization is needed to verify."""

    name: str
    organization: str = ""


def write_dicom_sr(
    result: PanopticResult,
    folder: Path,
    volume: Volume | None = None,
    *,
    reader: Reader | None = None,
    complete: bool = True,
    verified: bool = False,
    axes: Mapping[int, DrawnAxes] | None = None,
) -> list[Path]:
    """Write sr.dcm: size, axes, grey values and certainty of every lesion, each pointing at its segment in seg.dcm.

    volume : the image, for grey values. reader : a person, named as observer beside this program. complete : the
    report holds all there is to say (Completion Flag). verified : ``reader`` answers for it; the report is final.
    axes : id -> the axes that a reader drew, in place of those found; their method is Manual, not Automated (CID 7230).
    Things whose verdict is "rejected" are left out. A class of things of which none is left has an entry that says so.
    The SEG need not be written in the same call: its UIDs follow from the result. A result without classes of things
    has its stuff reported.
    Raises WriteError: FORMAT-NEEDS-DICOM, DICOM-SOURCE, SR-READER (verified without reader and organization).
    """
    if verified and not (reader and reader.name and reader.organization):
        raise WriteError("SR-READER", "a verified report needs the name and the organization of its reader")
    source = dicom_source(result, volume, "dicom-sr")
    headers = read_headers(source)
    path = folder / "sr.dcm"
    with without_values("DICOM SR"):
        context = Context(result, identify(result, source), source)
        report = make_report(context, headers, volume, reader, axes)
        document = _document(context, headers, report, (reader if verified else None, complete))
        document.save_as(path)
    return [path]


def make_report(
    context: Context,
    headers: Sequence[Dataset],
    volume: Volume | None,
    reader: Reader | None,
    axes: Mapping[int, DrawnAxes] | None = None,
) -> MeasurementReport:
    """Return the content tree, TID 1500. ``headers`` are those of the source series."""
    import highdicom.sr as sr

    result = context.result
    number_of = {s.id: n for n, s in enumerate(numbered(result), 1)}
    reported = {s.id: s for s in _reported(result)}
    groups: list[Any] = [
        lesion_group(context, reported[m.segment_id], number_of[m.segment_id], m)
        for m in measure(result, volume, list(reported.values()), axes)
    ]
    found = {s.class_id for s in reported.values()}
    groups += [absence_group(context, c) for c in _looked_for(result) if c.id not in found]
    return sr.MeasurementReport(
        title=common.concept(_TITLE),
        observation_context=_observers(result, reader),
        procedure_reported=common.concept(_PROCEDURES.get(headers[0].get("Modality", ""), _ANY_PROCEDURE)),
        imaging_measurements=groups,
    )


def _looked_for(result: PanopticResult) -> tuple[Any, ...]:
    return result.classes.things or tuple(result.classes)


def _reported(result: PanopticResult) -> list[Segment]:
    kinds = {c.id for c in _looked_for(result)}
    return [s for s in numbered(result) if s.class_id in kinds and s.verdict != "rejected"]


def _observers(result: PanopticResult, reader: Reader | None) -> ObservationContext:
    """Return this program, with version and weights, and the person if there is one."""
    import highdicom.sr as sr
    from pydicom.sr.codedict import codes

    made = common.equipment(result)
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uid_from("device", *made.values()),
        name=f"{common.NAME} {made['software_versions']}",
        manufacturer_name=made["manufacturer"],
        model_name=made["manufacturer_model_name"],
        serial_number=made["device_serial_number"],
    )
    person = None
    if reader is not None:
        attributes = sr.PersonObserverIdentifyingAttributes(
            _person_name(reader), organization_name=reader.organization or None
        )
        person = sr.ObserverContext(codes.DCM.Person, attributes)
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(codes.DCM.Device, device), observer_person_context=person
    )


def _person_name(reader: Reader) -> str:
    # without a caret a name is all family name; highdicom wants that said
    return reader.name if "^" in reader.name else f"{reader.name}^"


def _document(
    context: Context, headers: Sequence[Dataset], report: MeasurementReport, flags: tuple[Reader | None, bool]
) -> EnhancedSR:
    """Wrap the content tree. ``flags`` : who verified it, or None, and whether it is complete."""
    import highdicom.sr as sr

    verifier, complete = flags
    made = common.moment(context.result, headers[0])
    with odd_patients(headers) as patient:
        document = sr.EnhancedSR(
            evidence=[*headers, _segmentation_stub(context)],
            content=report[0],
            series_instance_uid=context.identity.uid("dicom-sr series"),
            series_number=910,
            sop_instance_uid=_instance_uid(context, report, flags),
            instance_number=1,
            is_complete=complete,
            is_final=verifier is not None,
            is_verified=verifier is not None,
            verifying_observer_name=_person_name(verifier) if verifier else None,
            verifying_organization=verifier.organization if verifier else None,
            series_description=common.series_description(context.result),
            specific_character_set="ISO_IR 192",
            contributing_equipment=common.contributing_equipment(context.result),
            **common.equipment(context.result),
            **common.content_times(made),
        )
    put_patient(document, patient)
    common.repeat_times(document, made)
    for item in document.get("VerifyingObserverSequence", ()):
        item.VerificationDateTime = made.strftime("%Y%m%d%H%M%S")
    return document


def _segmentation_stub(context: Context) -> Dataset:
    """Return what a report must know of the SEG that it points at."""
    from pydicom import Dataset

    stub = Dataset()
    stub.SOPClassUID = SEGMENTATION
    stub.SOPInstanceUID = context.identity.uid("dicom-seg instance")
    stub.SeriesInstanceUID = context.identity.uid("dicom-seg series")
    stub.StudyInstanceUID = context.source.study_uid
    return stub


def _instance_uid(context: Context, report: MeasurementReport, flags: tuple[Reader | None, bool]) -> str:
    """Return a UID that other readers, flags or grey values change: no two reports share one."""
    content = report[0].to_json(suppress_invalid_tags=True)
    digest = hashlib.sha256(f"{content}{flags}".encode()).hexdigest()
    return uid_from(context.identity.uid("dicom-sr instance"), digest)
