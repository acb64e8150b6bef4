"""The measurement groups of a report: one per lesion, and one per kind of lesion that was not found.

Source: DICOM PS3.16 TID 1411 (volumetric ROI), TID 1501 (measurement group), TID 1419 (ROI measurements); concepts from
CID 7469 (sizes, intensities) and CID 7464 (mean, maximum ...).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from medpanoptic.classes import ClassInfo, Code
from medpanoptic.identity import Identity, uid_from
from medpanoptic.io import dicom_common as common
from medpanoptic.measure import Intensity, Measures
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.volume import Source

if TYPE_CHECKING:
    from highdicom.sr import (
        AlgorithmIdentification,
        Measurement,
        MeasurementsAndQualitativeEvaluations,
        TrackingIdentifier,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
MM = Code("mm", "UCUM", "mm")
MM3 = Code("mm3", "UCUM", "cubic millimeter")
PERCENT = Code("%", "UCUM", "Percent")
NO_UNITS = Code("1", "UCUM", "no units")
VOLUME = Code("118565006", "SCT", "Volume")
LONG_AXIS = Code("103339001", "SCT", "Long axis")
SHORT_AXIS = Code("103340004", "SCT", "Short axis")
# how a diameter was measured, as Measurement Method (370129005 SCT) of TID 300: CID 7230, Automation of Measurement
AUTOMATED = Code("8359006", "SCT", "Automated")
MANUAL = Code("87982008", "SCT", "Manual")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
LESION_COUNT = Code("246206008", "SCT", "Number of lesions")
PRESENCE = Code("121052", "DCM", "Presence of property")
ABSENT = Code("121054", "DCM", "Absent")
MR_INTENSITY = Code("110852", "DCM", "MR signal intensity")
# (modality, unit) of a channel -> what its values are, and their unit
QUANTITIES = {
    ("CT", "HU"): (
        Code("112031", "DCM", "Attenuation Coefficient"),
        Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
    ),
    ("PT", "SUV"): (
        Code("126401", "DCM", "SUVbw"),
        Code("g/ml{SUVbw}", "UCUM", "Standardized Uptake Value body weight"),
    ),
    ("PT", "BQML"): (
        Code("110821", "DCM", "Nuclear Medicine Tomographic Activity"),
        Code("Bq/ml", "UCUM", "Becquerels/milliliter"),
    ),
    ("MR", ""): (MR_INTENSITY, NO_UNITS),
}
DERIVATIONS = {
    "mean": Code("373098007", "SCT", "Mean"),
    "std": Code("386136009", "SCT", "Standard Deviation"),
    "min": Code("255605001", "SCT", "Minimum"),
    "max": Code("56851009", "SCT", "Maximum"),
    "peak": Code("126031", "DCM", "Peak Value Within ROI"),
}


class Context(NamedTuple):
    """What every group of one report shares."""

    result: PanopticResult
    identity: Identity
    source: Source


def lesion_group(
    context: Context, segment: Segment, number: int, measures: Measures
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    """Return the group of one lesion; ``number`` is its segment number in the SEG of the same result."""
    import highdicom.sr as sr

    result = context.result
    info = result.classes[segment.class_id]
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(*common.tracking(result, segment, context.identity)),
        referenced_segment=sr.ReferencedSegment(
            SEGMENTATION,
            context.identity.uid("dicom-seg instance"),
            number,
            source_series=sr.SourceSeriesForSegmentation(context.source.series_uid),
        ),
        algorithm_id=None if segment.origin == "added" else _algorithm(result),
        measurements=list(_measurements(context, segment, measures)),
        **_finding(info),
    )


def absence_group(context: Context, info: ClassInfo) -> MeasurementsAndQualitativeEvaluations:
    """Return the group that says that a class was looked for and not found: none counted, and absent."""
    import highdicom.sr as sr

    uid = uid_from("tracking none", context.identity.uid("dicom-sr series"), str(info.id))
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(f"{info.name[:50]} (none found)", uid),
        algorithm_id=_algorithm(context.result),
        measurements=[_number(LESION_COUNT, 0, NO_UNITS)],
        qualitative_evaluations=[sr.QualitativeEvaluation(common.concept(PRESENCE), common.concept(ABSENT))],
        **_finding(info),
    )


def _finding(info: ClassInfo) -> dict[str, Any]:
    import highdicom.sr as sr

    return {
        "finding_category": common.concept(info.category),
        "finding_type": common.concept(info.type),
        "finding_sites": [sr.FindingSite(common.concept(info.region))] if info.region else None,
    }


def _tracking(identifier: str, uid: str) -> TrackingIdentifier:
    import highdicom.sr as sr

    return sr.TrackingIdentifier(uid=uid, identifier=identifier)


def _algorithm(result: PanopticResult) -> AlgorithmIdentification:
    """Return the model as TID 4019 has it, from the same facts as in the SEG."""
    import highdicom.sr as sr

    (made,) = common.algorithm_identification(result)
    weights = result.provenance.weights_sha256
    return sr.AlgorithmIdentification(
        name=made.AlgorithmName,
        version=made.AlgorithmVersion,
        parameters=[f"weights_sha256={weights}"] if weights else None,
    )


# ---- measurements


def _measurements(context: Context, segment: Segment, measures: Measures) -> Iterator[Measurement]:
    if measures.volume_mm3 is not None:
        yield _number(VOLUME, measures.volume_mm3, MM3)
    # without their lines: TID 1411 has no place for coordinates, and a second group would count a lesion twice
    for name, axis in ((LONG_AXIS, measures.long_axis), (SHORT_AXIS, measures.short_axis)):
        yield _number(name, axis.length_mm, MM, method=common.concept(MANUAL if axis.drawn else AUTOMATED))
    kinds = [(i.modality, i.unit) for i in measures.intensities]
    for values in measures.intensities:
        several = kinds.count((values.modality, values.unit)) > 1
        yield from _intensities(values, context.identity.tracking_uid(segment) if several else "")
    if segment.origin == "predicted":
        yield _number(CERTAINTY, 100 * segment.score, PERCENT)


def _intensities(values: Intensity, tracking_uid: str) -> Iterator[Measurement]:
    """Yield the grey values of one channel; ``tracking_uid`` marks them by its name, where two are of one kind."""
    if (values.modality, values.unit) not in QUANTITIES:
        return
    quantity, unit = QUANTITIES[values.modality, values.unit]
    marks = {}
    if tracking_uid:
        marks["tracking_identifier"] = _tracking(values.channel, uid_from("channel", tracking_uid, values.channel))
    for name, derivation in DERIVATIONS.items():
        value = getattr(values, name)
        if value is not None:
            yield _number(quantity, value, unit, derivation=common.concept(derivation), **marks)


def _number(name: Code, value: float, unit: Code, **more: Any) -> Measurement:
    """Return a measurement to 6 digits: beyond them machines differ, and the bytes should not."""
    import highdicom.sr as sr

    return sr.Measurement(common.concept(name), float(f"{value:.6g}"), common.concept(unit), **more)
