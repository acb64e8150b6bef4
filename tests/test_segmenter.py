import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from medpanoptic import Segmenter, Volume, read_result, segment_file
from medpanoptic.bundle import Bundle, pack_bundle
from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.errors import ModelError, ReadError
from medpanoptic.geometry import spatial_affine
from medpanoptic.networks import build
from medpanoptic.networks.outputs import Instances
from medpanoptic.volume import Channel, ChannelSpec

CODE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
CLASSES = ClassTable(
    (
        ClassInfo(4, "tissue", False, (90, 90, 200), CODE, CODE),
        ClassInfo(7, "lesion", True, (220, 60, 40), CODE, CODE),
    )
)


class BrightThings(torch.nn.Module):
    """A pixelwise network: above 0.5 is lesion, each connected bright piece an instance with its mean as score."""

    def __init__(self, dims=2, most=None):
        super().__init__()
        self.divisor, self.dims, self.most, self.windows = 8, dims, most, []
        self.instance_head = SimpleNamespace(is_dense=True, instances=self.instances)

    def forward(self, x):
        self.windows.append(tuple(x.shape[2:]))
        if self.most and max(x.shape[2:]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits = 20 * (x[:, :1] - 0.5)
        return SimpleNamespace(semantic_logits=torch.cat((-logits, logits), 1), raw=x[:, :1], features=[x], spread=None)

    def instances(self, raw, features, semantic_logits):
        return [self.decode(m[0]) for m in raw]

    def decode(self, image):
        labels, _ = ndimage.label(image.numpy() > 0.5)
        boxes, scores, masks = [], [], []
        for i, where in enumerate(ndimage.find_objects(labels), start=1):
            inside = torch.from_numpy(labels[where] == i)
            boxes.append([s.start for s in where] + [s.stop for s in where])
            scores.append(float(image[where][inside].mean()))
            masks.append(torch.where(inside, 5.0, -12.0))
        if not boxes:
            return Instances.empty(self.dims)
        return Instances(
            torch.tensor(boxes), torch.ones(len(boxes), dtype=torch.int64), torch.tensor(scores), tuple(masks)
        )


def bundle(dims=2, **changes):
    plain = Bundle(
        folder=Path("nowhere"),
        name="bright",
        version="1.2.3",
        description="",
        classes=CLASSES,
        channels=(ChannelSpec("image"),),
        spacing_mm=None,
        preprocessing=({"_target_": "NormalizeChannelsd", "rules": [{"window": [0, 100]}]},),
        window=(64,) * dims,
        overlap=0.25,
        network_def={"_target_": "x", "spatial_dims": dims, "in_channels": 1},
        weights_sha256="ab" * 32,
    )
    return replace(plain, **changes)


def picture():
    """10 x 12 at 0.5 mm: a large lesion of 3 x 4 at (2, 2), a small fainter one of 2 x 1 at (7, 9)."""
    array = np.zeros((1, 10, 12), np.uint8)
    array[0, 2:5, 2:6], array[0, 7:9, 9] = 100, 80
    return array, spatial_affine((0.5, 0.5))


def test_an_array_becomes_a_panoptic_result():
    array, affine = picture()
    result = Segmenter(bundle(), BrightThings())((array, affine))
    expected = np.full((10, 12), 3)
    expected[2:5, 2:6], expected[7:9, 9] = 1, 2
    np.testing.assert_array_equal(result.ids, expected)
    assert [(s.id, s.class_id, round(s.score, 2)) for s in result.segments] == [(1, 7, 1.0), (2, 7, 0.8), (3, 4, 1.0)]
    assert (result.stuff == 4).all()
    np.testing.assert_array_equal(result.affine, affine)
    assert len({s.tracking_uid for s in result.segments}) == 3
    assert all(s.tracking_uid.startswith("2.25.") for s in result.segments)
    provenance = result.provenance
    assert (provenance.bundle, provenance.bundle_version, provenance.weights_sha256) == ("bright", "1.2.3", "ab" * 32)
    assert provenance.parameters["warnings"] == []
    assert "fallback" not in provenance.parameters


def test_calibration_changes_what_scores_say_and_not_the_map():
    raw = Segmenter(bundle(fusion={"score_threshold": 0.5}), BrightThings(), "cpu")(picture())
    calibrated = Segmenter(bundle(fusion={"score_threshold": 0.5}, calibration=(2.0, 0.5)), BrightThings(), "cpu")(
        picture()
    )
    np.testing.assert_array_equal(raw.ids, calibrated.ids)
    for before, after in zip(raw.things, calibrated.things, strict=True):
        score = min(before.score, 1 - 1e-9)
        odds = 2.0 * np.log(score / (1 - score)) + 0.5
        assert after.score == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-5)
    # the threshold is held against the score that the user sees
    lowest = min(s.score for s in calibrated.things)
    strict = Segmenter(bundle(calibration=(2.0, 0.5)), BrightThings(), "cpu")(picture(), score=lowest + 1e-4)
    assert len(strict.things) < len(calibrated.things)


def test_every_kind_of_input_gives_the_same_map(tmp_path):
    array, affine = picture()
    segmenter = Segmenter(bundle(), BrightThings())
    Image.fromarray(array[0]).save(tmp_path / "cells.png")
    expected = segmenter((array, affine)).ids
    inputs = (array, array[0], (array[0], None), Volume.from_array(array, affine), tmp_path / "cells.png")
    for given in (*inputs, str(tmp_path / "cells.png"), {"image": tmp_path / "cells.png"}):
        np.testing.assert_array_equal(segmenter(given).ids, expected)


def test_the_same_input_gives_the_same_bytes_and_other_weights_other_uids():
    array, affine = picture()
    before = array.copy()
    first, second = (Segmenter(bundle(), BrightThings())((array, affine)) for _ in range(2))
    assert first.ids.tobytes() == second.ids.tobytes()
    assert first.segments == second.segments
    assert first.provenance == second.provenance
    np.testing.assert_array_equal(array, before)
    other = Segmenter(bundle(weights_sha256="cd" * 32), BrightThings())((array, affine))
    assert not {s.tracking_uid for s in first.segments} & {s.tracking_uid for s in other.segments}


def test_small_things_are_measured_in_mm2():
    array, affine = picture()
    fusion = {"min_thing_mm": 0.75, "min_stuff_mm": 100}  # the small lesion has 0.5 mm2, all tissue 27
    result = Segmenter(bundle(fusion=fusion), BrightThings())((array, affine))
    assert [s.class_id for s in result.segments] == [7]
    assert [(d.class_id, d.reason, d.box) for d in result.dropped] == [(7, "area", ((7, 9), (9, 10)))]
    assert result.ids[0, 0] == 0
    # without a pixel size nothing is too small
    assert len(Segmenter(bundle(fusion=fusion), BrightThings())(array).segments) == 3
    known = bundle(fusion=fusion, spacing_mm=(0.5, 0.5))
    assert len(Segmenter(known, BrightThings())(array).segments) == 1


def study(spacing=(3.0, 1.5, 1.5), flip=True):
    """A box of 6 mm x 12 mm x 15 mm on a grid whose first axis runs towards the feet."""
    array = np.zeros((1, 12, 30, 40), np.float32)
    array[0, 4:6, 10:18, 22:32] = 90
    affine = spatial_affine(spacing, (-100, 30, 500))
    if flip:
        affine[:, 0] *= -1
        affine[:3, [1, 2]] = affine[:3, [2, 1]]  # rows along x, columns along y
    return Volume(array, affine, (Channel("ct", "CT", "HU"),))


RESAMPLED = (
    {"_target_": "Orientationd", "axcodes": "SPL"},
    {"_target_": "Spacingd", "pixdim": [2.0, 2.0, 2.0]},
    {"_target_": "NormalizeChannelsd", "rules": [{"window": [0, 100]}]},
)


def test_a_volume_comes_back_on_its_own_grid():
    volume = study()
    model = bundle(3, preprocessing=RESAMPLED, channels=(ChannelSpec("ct", "CT", "HU"),))
    result = Segmenter(model, BrightThings(3))(volume)
    assert result.ids.shape == volume.shape
    assert result.ids.dtype == np.int32
    np.testing.assert_array_equal(result.affine, volume.affine)
    truth = volume.array[0] > 50
    found = result.ids == 1
    assert result.classes[result.segments[0].class_id].name == "lesion"
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8
    assert ((result.ids == 2) == ~found).all()
    assert (result.stuff == 4).all()


def test_dropped_things_are_placed_on_the_native_grid():
    volume = study()
    model = bundle(3, preprocessing=RESAMPLED, channels=(ChannelSpec("ct"),), fusion={"score_threshold": 0.99})
    result = Segmenter(model, BrightThings(3))(volume)
    (dropped,) = result.dropped
    assert (dropped.class_id, dropped.reason) == (7, "score")
    for (start, stop), (first, last) in zip(dropped.box, ((4, 6), (10, 18), (22, 32)), strict=True):
        assert abs(start - first) <= 1
        assert abs(stop - last) <= 1
    pasted = np.zeros(volume.shape, bool)
    pasted[tuple(slice(a, b) for a, b in dropped.box)] = dropped.mask
    truth = volume.array[0] > 50
    assert 2 * (pasted & truth).sum() / (pasted.sum() + truth.sum()) > 0.8


def test_a_thing_too_small_for_the_native_grid_is_dropped_and_ids_have_no_gap():
    coarse = Volume(np.zeros((1, 8, 8, 8), np.float32), spatial_affine((8.0, 8.0, 8.0)), (Channel("ct"),))

    class Speck(BrightThings):
        def forward(self, x):
            x = x.clone()
            x[..., 6, 6, 6] = 1.0  # one voxel of 2 mm between the centres of the coarse ones
            x[..., 16:24, 16:24, 16:24] = 0.9
            return super().forward(x)

    steps = ({"_target_": "Spacingd", "pixdim": [2.0, 2.0, 2.0]},)
    result = Segmenter(bundle(3, preprocessing=steps), Speck(3))(coarse)
    assert [s.id for s in result.segments] == [1, 2]
    assert [(d.reason, d.class_id) for d in result.dropped] == [("area", 7)]
    assert result.dropped[0].mask.shape == tuple(b - a for a, b in result.dropped[0].box)


def two_channels(**changes):
    specs = (ChannelSpec("ct", "CT", "HU"), ChannelSpec("mr", "MR", "", required=False))
    definition = {"_target_": "x", "spatial_dims": 2, "in_channels": 2}
    return bundle(channels=specs, network_def=definition, **changes)


def test_an_optional_channel_may_be_missing_and_a_required_one_may_not():
    array, affine = picture()
    segmenter = Segmenter(two_channels(), BrightThings())
    alone = Volume(array, affine, (Channel("ct", "CT", "HU"),))
    with pytest.warns(UserWarning, match=r"\[CHANNEL-MISSING\] channel mr"):
        result = segmenter(alone)
    assert [w["code"] for w in result.provenance.parameters["warnings"]] == ["CHANNEL-MISSING"]
    assert result.provenance.parameters["channels"] == ["ct"]
    with pytest.raises(ModelError, match=r"INPUT-CHANNELS.*needs channel ct; the input has mr"):
        segmenter(Volume(array, affine, (Channel("mr", "MR"),)))
    # order follows the bundle, not the input
    both = Volume(np.concatenate((array * 0, array)), affine, (Channel("mr", "MR"), Channel("ct", "CT", "HU")))
    np.testing.assert_array_equal(segmenter(both).ids, result.ids)


def test_a_known_wrong_unit_is_refused_and_an_unknown_one_is_not():
    array, affine = picture()
    segmenter = Segmenter(two_channels(), BrightThings())
    with pytest.raises(ModelError, match=r"INPUT-UNIT.*ct is in BQML.*takes HU"):
        segmenter(Volume(array, affine, (Channel("ct", "CT", "BQML"),)))
    with pytest.warns(UserWarning, match="CHANNEL-MISSING"):
        assert len(segmenter(Volume(array, affine, (Channel("ct", "", ""),))).things) == 2


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"spacing_mm": [0.1, 0.3]}, "LIMIT-SPACING"),
        ({"spacing_mm": [[0.4, 0.6], [0.1, 0.3]]}, "LIMIT-SPACING"),
        ({"field_of_view_mm": [10, 100]}, "LIMIT-FIELD-OF-VIEW"),
        ({"intensity": [[0, 50]]}, "LIMIT-INTENSITY"),
        ({"intensity": [50, 255]}, "LIMIT-INTENSITY"),
        ({"spacing_mm": [0.5, 0.5], "field_of_view_mm": [5, 6], "intensity": [[0, 255]]}, None),
    ],
)
def test_an_input_outside_what_was_trained_on_warns(limits, code):
    array, affine = picture()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        result = Segmenter(bundle(limits=limits), BrightThings())((array, affine))
    texts = [str(w.message) for w in caught if str(w.message).startswith("[")]
    assert [w["code"] for w in result.provenance.parameters["warnings"]] == ([code] if code else [])
    assert [t.split("]")[0][1:] for t in texts] == ([code] if code else [])


def test_an_unknown_pixel_size_warns_and_resamples_nothing():
    array, _ = picture()
    model = bundle(preprocessing=({"_target_": "Spacingd", "pixdim": [0.5, 0.5]}, *bundle().preprocessing))
    with pytest.warns(UserWarning, match="UNCALIBRATED"):
        result = Segmenter(model, BrightThings())(array)
    assert len(result.things) == 2
    assert result.provenance.parameters["calibrated"] is False


def test_inputs_that_cannot_be_right_are_refused():
    array, affine = picture()
    segmenter = Segmenter(bundle(), BrightThings())
    with pytest.raises(ModelError, match=r"INPUT-DIMS.*takes 2D images, the input is 3D"):
        segmenter(study())
    with pytest.raises(ReadError, match="INPUT-NAN"):
        segmenter((np.full((1, 4, 4), np.nan), affine))
    with pytest.raises(ModelError, match=r"INPUT-CHANNELS.*1 channels, the image has 3"):
        segmenter((np.repeat(array, 3, 0), affine))
    tiny = bundle(preprocessing=({"_target_": "Spacingd", "pixdim": [0.01, 0.01]},))
    with pytest.raises(ModelError, match=r"INPUT-SIZE.*check the pixel size"):
        Segmenter(tiny, BrightThings())((np.zeros((1, 200, 200), np.uint8), affine))


def test_short_memory_falls_back_to_half_windows_and_says_so():
    array = np.zeros((1, 100, 100), np.uint8)
    array[0, 20:90, 20:90] = 100
    network = BrightThings(most=32)
    with pytest.warns(UserWarning, match="OUT-OF-MEMORY"):
        result = Segmenter(bundle(), network, "cpu")(array)
    assert network.windows[0] == (64, 64)
    assert network.windows[-1] == (32, 32)
    assert result.provenance.parameters["fallback"] == "windows half as wide"
    np.testing.assert_array_equal(result.ids == 1, array[0] > 0)
    with pytest.raises(ModelError, match="OUT-OF-MEMORY"):
        Segmenter(bundle(), BrightThings(most=8), "cpu")(array)


def test_other_errors_of_a_network_are_not_hidden():
    class Broken(BrightThings):
        def forward(self, x):
            raise RuntimeError("wrong shape")

    with pytest.raises(RuntimeError, match="wrong shape"):
        Segmenter(bundle(), Broken())(picture()[0])
    assert not torch.are_deterministic_algorithms_enabled()


def test_progress_ends_at_one_and_cancels():
    array = np.zeros((1, 100, 100), np.uint8)
    seen = []
    Segmenter(bundle(), BrightThings())(array, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) > 3

    def cancel(part):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Segmenter(bundle(), BrightThings())(array, progress=cancel)


def test_nothing_found_is_a_result():
    result = Segmenter(bundle(), BrightThings())(np.zeros((1, 9, 9), np.uint8))
    assert result.things == ()
    assert [s.class_id for s in result.segments] == [4]


def test_a_file_is_segmented_and_written(tmp_path):
    Image.fromarray(picture()[0][0]).save(tmp_path / "cells.png")
    segmenter = Segmenter(bundle(), BrightThings())
    result = segment_file(tmp_path / "cells.png", segmenter, tmp_path / "out", formats=["csv"], pixel_size_um=500)
    written = read_result(tmp_path / "out")
    np.testing.assert_array_equal(written.ids, result.ids)
    assert written.provenance.parameters["warnings"] == []
    assert written.provenance.parameters["calibrated"] is True


def test_an_unknown_device_is_named():
    with pytest.raises(ModelError, match=r"DEVICE.*'tpu"):
        Segmenter(bundle(), BrightThings(), "tpu9")


@pytest.mark.parametrize(("builder", "dims"), [("efficientps", 2), ("fcn_mask_rcnn", 2), ("efficientps_centres", 3)])
def test_a_packed_bundle_with_a_real_network_runs_the_same_twice(tmp_path, builder, dims):
    torch.manual_seed(0)
    arguments = {"spatial_dims": dims, "in_channels": 1, "out_channels": 2, "thing_channels": [1], "fpn_channels": 8}
    if builder != "efficientps_centres":
        arguments |= {"anchor_sizes": [8, 16, 32, 64], "max_detections": 10}
    network = getattr(build, builder)(**arguments)
    described = {
        "classes": CLASSES.to_json(),
        "channels": [{"name": "image"}],
        "preprocessing": [{"_target_": "NormalizeChannelsd", "rules": [{"window": [0, 255]}]}],
        "window": [32] * dims,
        "overlap": 0.25,
        "fusion": {"method": "kirillov" if builder == "fcn_mask_rcnn" else "log_odds"},
    }
    metadata = {"version": "0.0.1", "medpanoptic": described}
    definition = {"_target_": f"medpanoptic.networks.build.{builder}", **arguments}
    pack_bundle(tmp_path / "tiny", network.state_dict(), metadata=metadata, network_def=definition)
    image = np.random.default_rng(0).integers(0, 255, (1, *((40, 24) if dims == 2 else (20, 18, 12)))).astype(np.uint8)
    results = [Segmenter.load(tmp_path / "tiny", "cpu")(image) for _ in range(2)]
    assert results[0].ids.tobytes() == results[1].ids.tobytes()
    assert results[0].segments == results[1].segments
    assert results[0].provenance.parameters["fusion"]["method"] == described["fusion"]["method"]
    assert not torch.are_deterministic_algorithms_enabled()
