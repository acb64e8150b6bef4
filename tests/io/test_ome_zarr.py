"""OME-Zarr 0.4 labels, read by hand (metadata by the rules of the specification, chunks by zlib) and by zarr."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from results import image_of, make

from medpanoptic.geometry import spatial_affine
from medpanoptic.io import write_result
from medpanoptic.io.ome_zarr import write_ome_zarr
from medpanoptic.result import PanopticResult, Provenance, Segment
from medpanoptic.volume import Source, Volume


def attributes(folder: Path) -> dict:
    return json.loads((folder / ".zattrs").read_text(encoding="utf-8"))


def array_of(folder: Path) -> np.ndarray:
    """Read a Zarr version 2 array: header, then one zlib stream per chunk, missing ones are the fill value."""
    header = json.loads((folder / ".zarray").read_text(encoding="utf-8"))
    assert (header["zarr_format"], header["order"], header["compressor"]["id"]) == (2, "C", "zlib")
    array = np.full(header["shape"], header["fill_value"], header["dtype"])
    for path in folder.rglob("*"):
        if not path.is_file() or path.name.startswith("."):
            continue
        place = [int(part) for part in path.relative_to(folder).parts]
        chunk = np.frombuffer(zlib.decompress(path.read_bytes()), header["dtype"]).reshape(header["chunks"])
        where = tuple(slice(i * n, (i + 1) * n) for i, n in zip(place, header["chunks"], strict=True))
        room = array[where].shape
        array[where] = chunk[tuple(slice(n) for n in room)]
    return array


def check_multiscales(folder: Path, shape: tuple[int, ...]) -> dict:
    """Check what the specification asks of every multiscale image. Source: NGFF 0.4, section 3.4"""
    (image,) = attributes(folder)["multiscales"]
    names = [axis["name"] for axis in image["axes"]]
    assert image["version"] == "0.4"
    assert names == [n for n in "tczyx" if n in names]
    assert 2 <= sum(axis["type"] == "space" for axis in image["axes"]) <= 3
    before = None
    for k, dataset in enumerate(image["datasets"]):
        level = array_of(folder / dataset["path"])
        (transform,) = dataset["coordinateTransformations"]
        assert transform["type"] == "scale"
        assert len(transform["scale"]) == level.ndim == len(names)
        if before is None:
            assert level.shape == shape
        else:
            assert np.array_equal(level, before[..., ::2, ::2])
            first = image["datasets"][k - 1]["coordinateTransformations"][0]["scale"]
            assert transform["scale"][-2:] == [2 * v for v in first[-2:]]
        before = level
    return image


@pytest.mark.parametrize("ndim", [2, 3])
def test_labels_and_image(tmp_path, ndim):
    result = make(ndim)
    image = image_of(result)
    (root,) = write_result(result, tmp_path / "case", formats=("ome-zarr",), volume=image)["ome-zarr"]
    check_multiscales(root, image.array.shape)
    assert np.array_equal(array_of(root / "0"), image.array)
    assert attributes(root / "labels") == {"labels": ["panoptic", "stuff"]}
    for name, array in (("panoptic", result.ids), ("stuff", result.stuff)):
        folder = root / "labels" / name
        found = check_multiscales(folder, result.ids.shape)
        assert np.array_equal(array_of(folder / "0"), array)
        assert [a["unit"] for a in found["axes"]] == ["millimeter" if ndim == 3 else "micrometer"] * ndim
        assert attributes(folder)["image-label"]["source"] == {"image": "../../"}
    scale = found["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert scale == pytest.approx([500, 250] if ndim == 2 else np.linalg.norm(result.affine[:3, :3], axis=0))


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_zarr_library_reads_the_same(tmp_path, ndim):
    zarr = pytest.importorskip("zarr")
    result = make(ndim)
    image = image_of(result)
    (root,) = write_result(result, tmp_path / "case", formats=("ome-zarr",), volume=image)["ome-zarr"]
    group = zarr.open_group(root, mode="r")
    assert np.array_equal(group["0"][:], image.array)
    assert group["0"].dtype == image.array.dtype
    assert dict(group["labels"].attrs) == {"labels": ["panoptic", "stuff"]}
    for name, array in (("panoptic", result.ids), ("stuff", result.stuff)):
        label = group[f"labels/{name}"]
        (multiscales,) = label.attrs["multiscales"]
        assert np.array_equal(label[multiscales["datasets"][0]["path"]][:], array)


def test_every_label_has_a_colour_and_properties(tmp_path):
    result = make(3)
    write_ome_zarr(result, tmp_path)
    folder = tmp_path / "panoptic.ome.zarr" / "labels" / "panoptic"
    label = attributes(folder)["image-label"]
    assert label["version"] == "0.4"
    assert "source" not in label  # no image was given
    assert [c["label-value"] for c in label["colors"]] == [3, 9, 300]
    assert label["colors"][1]["rgba"] == [90, 160, 90, 255]
    assert label["properties"][0] == {
        "label-value": 3,
        "class": "lesion",
        "is_thing": True,
        "score": pytest.approx(0.3),
        "origin": "edited",
        "verdict": "accepted",
        "tracking_uid": "2.25.1",
    }
    assert attributes(folder)["medpanoptic"]["affine_lps"] == result.affine.tolist()


def test_large_maps_have_coarser_levels_in_which_ids_stay_ids(tmp_path):
    ids = np.zeros((1100, 2100), np.int32)
    ids[3:700, 5:2000] = 70000
    result = PanopticResult(ids, (Segment(70000, 1),), make().classes, spatial_affine((5e-4, 5e-4)))
    write_ome_zarr(result, tmp_path)
    found = check_multiscales(tmp_path / "panoptic.ome.zarr" / "labels" / "panoptic", ids.shape)
    assert len(found["datasets"]) == 3


def test_without_a_pixel_size_there_is_no_unit(tmp_path):
    write_ome_zarr(make(provenance=Provenance(parameters={"calibrated": False})), tmp_path)
    found = check_multiscales(tmp_path / "panoptic.ome.zarr" / "labels" / "panoptic", (8, 10))
    assert [axis.get("unit") for axis in found["axes"]] == [None, None]
    assert found["datasets"][0]["coordinateTransformations"][0]["scale"] == [1, 1]


def test_an_empty_result_and_a_constant_image(tmp_path):
    result = make(ids=np.zeros((8, 10), np.int32), segments=(), stuff=None, dropped=())
    write_ome_zarr(result, tmp_path, Volume.from_array(np.zeros((1, 8, 10), np.uint8)))
    root = tmp_path / "panoptic.ome.zarr"
    assert not array_of(root / "labels" / "panoptic" / "0").any()
    window = attributes(root)["omero"]["channels"][0]["window"]
    assert window["end"] > window["start"]


def test_it_is_replaced_whole_and_holds_nothing_of_the_source(tmp_path):
    result = make(3)
    write_result(result, tmp_path / "case", formats=("ome-zarr",), volume=image_of(result))
    write_result(make(2, source=Source()), tmp_path / "case", formats=("csv",))
    assert not (tmp_path / "case" / "panoptic.ome.zarr").exists()
    (root,) = write_result(result, tmp_path / "case", formats=("ome-zarr",))["ome-zarr"]
    files = [p for p in root.rglob("*") if p.is_file()]
    assert not [p for p in files if b"1.2.840" in p.read_bytes()]
    (again,) = write_result(result, tmp_path / "again", formats=("ome-zarr",))["ome-zarr"]
    assert all(p.read_bytes() == (again / p.relative_to(root)).read_bytes() for p in files)
