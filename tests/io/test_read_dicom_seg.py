"""Our DICOM SEG back into results: whole, on the image's grid. Those of others: test_read_foreign_seg.py."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from dicom_results import (
    CLASSES,
    GRIDS,
    SHAPE,
    nothing,
    result_on,
    tilted,
    volume_of,
    world_points,
    write_enhanced,
    write_series,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medpanoptic.classes import ClassTable, Code
from medpanoptic.errors import MedpanopticError
from medpanoptic.identity import identify
from medpanoptic.io import FORMATS, read_result, write_result
from medpanoptic.io.dicom_seg_read import read_dicom_seg
from medpanoptic.result import Provenance

KINDS = [name for name in FORMATS if name.startswith("dicom-seg")]
AXIAL = GRIDS["axial"]


def written(result, folder, kind="dicom-seg"):
    return write_result(result, folder, formats=(kind,))[kind][0]


# ---- ours


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("writer", [write_series, write_enhanced])
def test_ours_comes_back_whole(tmp_path, grid, writer):
    affine = GRIDS[grid]
    liver = Code("10200004", "SCT", "Liver")
    classes = ClassTable((replace(CLASSES[1], region=liver, color=(1, 2, 3)), CLASSES[2]))
    made = Provenance("sarcoma", "1.0.0", "ab" * 32, "0.1.0", "2026-01-02T03:04:05+00:00")
    result = result_on(affine, writer(tmp_path / "in", affine), classes=classes, provenance=made)
    identity = identify(result, result.source)
    wanted = tuple(
        replace(s, tracking_uid=identity.tracking_uid(s) if s.class_id == 1 else "") for s in result.segments
    )
    for kind in KINDS:
        back = read_result(written(result, tmp_path / kind, kind), image=volume_of(result))
        assert np.array_equal(back.ids, result.ids)
        assert back.affine.tolist() == result.affine.tolist()
        assert back.segments == wanted
        assert back.classes == classes
        assert back.provenance == made
        assert back.source == result.source
        assert back.stuff is None


@pytest.mark.parametrize("grid", GRIDS)
def test_without_the_image_it_lies_where_it_is(tmp_path, grid):
    affine = GRIDS[grid]
    result = result_on(affine, write_series(tmp_path / "in", affine))
    for kind in KINDS:
        back = read_result(written(result, tmp_path / kind, kind))
        for i in (2, 5, 40, 41):
            assert world_points(back.ids == i, back.affine) == world_points(result.ids == i, affine)
        assert back.source.series_uid == "1.2.3.4"


def test_nothing_found_comes_back_as_nothing_with_its_classes(tmp_path):
    result = result_on(AXIAL, write_series(tmp_path / "in", AXIAL), **nothing())
    back = read_result(written(result, tmp_path / "out"), image=volume_of(result))
    assert (back.segments, back.ids.any(), back.ids.shape) == ((), False, SHAPE)
    assert list(back.classes) == [CLASSES[1]]


def test_a_folder_with_one_segmentation_is_a_result(tmp_path):
    result = result_on(AXIAL, write_series(tmp_path / "in", AXIAL))
    path = written(result, tmp_path / "out", "dicom-seg-labelmap")
    (tmp_path / "alone").mkdir()
    path.rename(tmp_path / "alone" / "any name")
    assert len(read_result(tmp_path / "alone").segments) == 4


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=arrays(np.int32, (3, 5, 7), elements=st.sampled_from([0, 0, 2, 5, 40, 41])), kind=st.sampled_from(KINDS))
def test_any_map_comes_back(tmp_path_factory, ids, kind):
    folder = tmp_path_factory.mktemp("seg")
    source = write_series(folder / "in", GRIDS["oblique"], ids.shape)
    present = set(np.unique(ids).tolist())
    segments = tuple(s for s in result_on(AXIAL, source).segments if s.id in present)
    result = result_on(GRIDS["oblique"], source, ids=ids, segments=segments)
    assert np.array_equal(read_result(written(result, folder / "out", kind), image=volume_of(result)).ids, ids)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Return the image, and the bytes of each kind."""
    folder = tmp_path_factory.mktemp("sound")
    result = result_on(AXIAL, write_series(folder / "in", AXIAL))
    return volume_of(result), [written(result, folder / kind, kind).read_bytes() for kind in KINDS]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_is_an_error_of_ours_or_a_result(sound, tmp_path_factory, data):
    image, files = sound
    raw = bytearray(data.draw(st.sampled_from(files)))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(132, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.dcm"
    path.write_bytes(bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw) // 2, len(raw) - 20]))]))
    with suppress(MedpanopticError):
        read_dicom_seg(path, image)


# ---- the image's grid


def turned(image, axes, flips):
    """Return the image with its axes in another order and some of them reversed; voxels keep their places."""
    affine = image.affine.copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (image.shape[axis] - 1)
        affine[:3, axis] *= -1
    array = np.flip(image.array[0], flips) if flips else image.array[0]
    affine[:3, :3] = affine[:3, list(axes)]
    return replace(image, array=np.ascontiguousarray(array.transpose(axes))[None], affine=affine)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(), (0,), (0, 2), (1,)])
@pytest.mark.parametrize("grid", ["oblique", "tilted"])
def test_an_image_in_another_orientation_gets_the_same_voxels(tmp_path, axes, flips, grid):
    affine = GRIDS[grid]
    result = result_on(affine, write_series(tmp_path / "in", affine))
    image = turned(volume_of(result), axes, flips)
    back = read_result(written(result, tmp_path / "out"), image=image)
    assert back.ids.shape == image.shape
    for i in (2, 5, 40, 41):
        assert world_points(back.ids == i, image.affine) == world_points(result.ids == i, affine)


def shifted(affine, by):
    moved = affine.copy()
    moved[:3, 3] += moved[:3, :3] @ by
    return moved


@pytest.mark.parametrize(
    "change",
    [
        lambda image: replace(image, affine=image.affine @ np.diag([1, 2, 1, 1])),
        lambda image: replace(image, affine=image.affine @ np.diag([1.5, 1, 1, 1])),
        lambda image: replace(image, affine=shifted(image.affine, [0, 0.5, 0])),
        lambda image: replace(image, affine=shifted(image.affine, [0.5, 0, 0])),
        lambda image: replace(image, affine=shifted(image.affine, [0, 0, 3])),
        lambda image: replace(image, affine=tilted(image.affine, 0.9)),
        lambda image: replace(image, array=image.array[:, 1:]),
        lambda image: replace(image, array=image.array[..., :-1, :]),
        lambda image: replace(image, array=image.array[:, 0]),
    ],
)
def test_an_image_of_another_grid_is_refused(tmp_path, change):
    result = result_on(AXIAL, write_series(tmp_path / "in", AXIAL))
    with pytest.raises(MedpanopticError) as caught:
        read_result(written(result, tmp_path / "out"), image=change(volume_of(result)))
    assert caught.value.code == "SEG-GRID"


def test_an_image_of_another_frame_of_reference_is_refused(tmp_path):
    result = result_on(AXIAL, write_series(tmp_path / "in", AXIAL))
    image = volume_of(result)
    image = replace(image, source=replace(image.source, frame_of_reference_uid="1.9"))
    with pytest.raises(MedpanopticError, match="MIX-FRAME"):
        read_result(written(result, tmp_path / "out"), image=image)
