"""Follow-up on a real CT with its tumour: the prior is the same patient turned, moved and scanned on another grid."""

import highdicom as hd
import numpy as np
import pydicom
import pytest
from builders import axial_affine, write_series
from scipy import ndimage
from tiny_case import CLASSES, Clock

from medpanoptic.geometry import to_index, to_world, voxel_size
from medpanoptic.io import read_result, read_volume, write_result
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.review import ReviewSession, carry_over, latest_result, open_prior, sign
from medpanoptic.samples import sample_path

PRIOR_SPACING = (3.0, 1.5, 1.6)


def rigid(degrees, shift):
    """(4, 4) a turn about z and a nod about x, around no point in particular, then a shift in mm."""
    a, b = np.radians(degrees)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    nod = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn @ nod, shift
    return matrix


def resampled(array, affine, grid, shape, to_current, order, outside):
    """``array`` on ``affine`` as it lies on another grid, whose mm ``to_current`` takes to the mm of ``affine``."""
    corners = to_world(np.vstack([np.zeros(3), np.eye(3)]), grid) @ to_current[:3, :3].T + to_current[:3, 3]
    ends = to_index(corners, affine)
    matrix = (ends[1:] - ends[0]).T
    return ndimage.affine_transform(array, matrix, ends[0], shape, order=order, mode="constant", cval=outside)


def case(folder, ids, affine):
    result = PanopticResult(ids.astype(np.int32), (Segment(1, 3, 0.9),), CLASSES, affine)
    write_result(result, folder, formats=["csv"])
    return folder


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """The current CT and case, the prior CT and case (its tumour thinner by 2 mm), prior mm -> current mm."""
    folder = tmp_path_factory.mktemp("follow-up")
    current = read_volume(sample_path("sarcoma_petct") / "CT")
    (drawing,) = (sample_path("sarcoma_petct") / "RTSTRUCT").iterdir()
    tumour = read_result(drawing, image=current).ids > 0
    middle = to_world([(np.array(current.shape) - 1) / 2], current.affine)[0]
    about = np.eye(4)
    about[:3, 3] = middle
    true = about @ rigid((7, -4), (8, -6, 9)) @ np.linalg.inv(about)
    grid = axial_affine(PRIOR_SPACING)
    extent = (np.array(current.shape) - 1) * current.spacing
    shape = tuple(np.round(extent / PRIOR_SPACING).astype(int).tolist())
    # the scanner has its own origin: the table was moved by decimetres since
    grid[:3, 3] = middle - extent[::-1] / 2 + (150, -80, 300)
    table = np.eye(4)
    table[:3, 3] = (-150, 80, -300)
    true = true @ table
    hu = resampled(current.array[0], current.affine, grid, shape, true, 1, -1000.0)
    hu += np.random.default_rng(0).normal(0, 10, shape)
    thinner = ndimage.distance_transform_edt(tumour, current.spacing) > 2
    was = resampled(thinner.astype(np.uint8), current.affine, grid, shape, true, 0, 0)
    series = write_series(folder / "prior CT", hu.round().astype(np.int16), grid, series="prior", frame_uid="2.25.77")
    return (
        current,
        case(folder / "now", tumour, current.affine),
        read_volume(series),
        case(folder / "prior", was, grid),
        true,
    )


def test_the_tumour_of_the_prior_is_found_again_and_keeps_its_tracking_uid_in_seg_and_report(studies):
    current, current_case, prior_ct, prior_case, true = studies
    first = ReviewSession.open(prior_case, prior_ct, reader="A. Reader", clock=Clock())
    first.accept(1)
    sign(first, formats=["dicom-seg", "dicom-sr"])
    session = ReviewSession.open(current_case, current, reader="A. Reader", clock=Clock())
    prior = open_prior(session, prior_case, prior_ct, days=90)

    assert prior.registration.method == "rigid"
    inside = to_world(np.argwhere(prior.result.ids > 0)[::50], prior.result.affine)
    wrong = prior.registration.to_current(inside) - (inside @ true[:3, :3].T + true[:3, 3])
    assert np.linalg.norm(wrong, axis=1).max() < min(current.spacing)  # less than a voxel, all over the tumour

    (link,) = prior.follow_up.links
    assert (link.relation, link.prior_ids, link.current_ids, link.confirmed) == ("same", (1,), (1,), False)
    sizes = prior.result.sizes[1] * voxel_size(prior.result.affine, 3), session.measures(1).volume_mm3
    assert link.volume_change == pytest.approx(sizes[1] / sizes[0] - 1)
    assert link.doubling_days == pytest.approx(90 * np.log(2) / np.log(sizes[1] / sizes[0]))

    (uid,) = (s.tracking_uid for s in latest_result(prior_case).things)
    assert session.row(1).segment.tracking_uid != uid
    assert len(carry_over(session, prior.follow_up.confirm(1, 1))) == 1
    session.accept(1)
    folder = sign(session, formats=["dicom-seg", "dicom-sr"])
    assert [s.TrackingUID for s in pydicom.dcmread(folder / "seg.dcm").SegmentSequence if "TrackingUID" in s] == [uid]
    groups = hd.sr.srread(folder / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    assert [str(g.tracking_uid) for g in groups] == [uid]
