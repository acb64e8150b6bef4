import hashlib
import inspect
import json
import os
import tarfile
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from medpanoptic import bundle as bundle_module
from medpanoptic.bundle import list_bundles, load_bundle, load_weights, pack_bundle, shipped_folder
from medpanoptic.errors import ModelError
from medpanoptic.networks import build
from medpanoptic.preprocess import INTENSITY_STEPS, SPATIAL_STEPS

SHARED = Path(os.environ.get("MEDPANOPTIC_SHARED", Path(__file__).resolve().parents[1] / ".." / "shared"))
NETWORK = {
    "_target_": "medpanoptic.networks.build.efficientps_centres",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "thing_channels": [1],
    "fpn_channels": 8,
    "head_channels": 8,
}
CODE = ["49755003", "SCT", "Morphologically Abnormal Structure"]


def metadata(**block):
    classes = [
        {"id": 1, "name": "background", "is_thing": False, "color": [0, 0, 90], "category": CODE, "type": CODE},
        {"id": 2, "name": "nucleus", "is_thing": True, "color": [200, 90, 0], "category": CODE, "type": CODE},
    ]
    described = {
        "classes": classes,
        "channels": [{"name": "image", "modality": "", "unit": "", "required": True}],
        "spacing_mm": None,
        "preprocessing": [{"_target_": "NormalizeChannelsd", "rules": [{"window": [0, 255]}]}],
        "window": [64, 64],
        "overlap": 0.25,
        "fusion": {"score_threshold": 0.5},
        "limits": {},
    }
    return {"version": "0.1.0", "monai_version": "1.6.1", "description": "test", "medpanoptic": described | block}


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return build.efficientps_centres(**{k: v for k, v in NETWORK.items() if k != "_target_"}).state_dict()


@pytest.fixture
def folder(tmp_path, weights):
    pack_bundle(tmp_path / "tiny", weights, metadata=metadata(), network_def=NETWORK)
    return tmp_path / "tiny"


def edit(folder, name, change):
    path = folder / "configs" / name
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_what_was_packed_comes_back(folder, weights):
    bundle = load_bundle(folder)
    assert (bundle.name, bundle.version, bundle.spatial_dims, bundle.window) == ("tiny", "0.1.0", 2, (64, 64))
    assert [c.name for c in bundle.classes] == ["background", "nucleus"]
    assert bundle.channels[0].required
    assert bundle.weights_sha256 == hashlib.sha256(bundle.weights_path.read_bytes()).hexdigest()
    network = bundle.load_network()
    assert not network.training
    assert all(torch.equal(weights[k], v) for k, v in network.state_dict().items())


def test_packing_again_gives_the_same_bytes_and_leaves_no_draft(folder, weights):
    before = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    pack_bundle(folder, weights)
    assert before == {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert sorted(before) == ["inference.json", "metadata.json", "model.safetensors"]


def test_a_calibration_does_not_outlive_its_weights(folder, weights):
    edit(folder, "metadata.json", lambda d: d["medpanoptic"].update(calibration=[2.0, -1.0]))
    assert load_bundle(folder).calibration == (2.0, -1.0)
    assert pack_bundle(folder, weights).calibration == (1.0, 0.0)


def test_other_weights_than_the_bundle_names_are_refused(folder):
    path = folder / "models" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match=r"MODEL-HASH.*sha256.*mismatch"):
        load_bundle(folder)
    with pytest.raises(ModelError, match="MODEL-HASH"):
        load_bundle(folder, weights=False).load_network()
    path.unlink()
    with pytest.raises(ModelError, match="no weights at"):
        load_bundle(folder)


def test_weights_of_another_network_are_refused(folder):
    edit(folder, "inference.json", lambda d: d["network_def"].update(fpn_channels=16))
    with pytest.raises(ModelError, match="not those of its network_def"):
        load_bundle(folder).load_network()
    edit(folder, "inference.json", lambda d: d["network_def"].update(depth=3))
    with pytest.raises(ModelError, match="network_def does not fit"):
        load_bundle(folder).build_network()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("inference.json", lambda d: d.update(network_def="$open('x','w')")),
        ("inference.json", lambda d: d.update(run=["$@network_def"])),
        ("inference.json", lambda d: d["network_def"].update(norm="@other")),
        ("inference.json", lambda d: d["network_def"].update(norm="%other.json")),
        ("inference.json", lambda d: d["network_def"].update(_mode_="debug")),
        ("inference.json", lambda d: d["network_def"].update(_target_="monai.networks.nets.UNet")),
        ("inference.json", lambda d: d["network_def"].update(_target_="medpanoptic.networks.build.FCN")),
        ("inference.json", lambda d: d["network_def"].update(_target_=["builtins.exec"])),
        ("inference.json", lambda d: d["network_def"].update(norm={"_target_": "builtins.exec", "0": "1"})),
        ("inference.json", lambda d: d["network_def"].update(norm=[{"_target_": NETWORK["_target_"]}])),
        ("metadata.json", lambda d: d["medpanoptic"]["preprocessing"].append({"_target_": "Lambdad", "func": "x"})),
        ("metadata.json", lambda d: d["medpanoptic"]["preprocessing"].append({"_target_": "Spacingd", "pixdim": "$1"})),
        ("metadata.json", lambda d: d.update(deep=[[{"$x": 1}]])),
    ],
)
def test_a_bundle_is_data_and_never_code(folder, name, change):
    edit(folder, name, change)
    with pytest.raises(ModelError, match=r"BUNDLE-UNSAFE.*not allowed"):
        load_bundle(folder)


def test_python_and_yaml_inside_are_refused(folder):
    (folder / "configs" / "inference.yaml").write_text("a: !!python/object/apply:os.system ['true']")
    with pytest.raises(ModelError, match="YAML is not allowed"):
        load_bundle(folder)
    (folder / "configs" / "inference.yaml").unlink()
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").write_text("")
    with pytest.raises(ModelError, match="Python code"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"window": [64]}, "window"),
        ({"window": [0, 64]}, "window positive"),
        ({"overlap": 1.0}, "overlap"),
        ({"channels": []}, "channels must not be empty"),
        ({"channels": [{"title": "x"}]}, "title"),
        ({"classes": []}, "out_channels 2 but 0 classes"),
        ({"fusion": {"threshold": 1}}, "fusion takes"),
        ({"fusion": {"score_threshold": "high"}}, "fusion takes"),
        ({"limits": {"spacing": [1, 2]}}, "unknown entry 'spacing'"),
        ({"limits": {"spacing_mm": [2, 1]}}, "must be"),
        ({"limits": {"spacing_mm": [[1, 2]] * 3}}, "must be"),
        ({"limits": {"intensity": [[0]]}}, "must be"),
        ({"spacing_mm": [1, 1, 1]}, "spacing_mm"),
        ({"calibration": [0, 1]}, "slope above 0"),
        ({"calibration": [1, "0"]}, "slope above 0"),
        ({"calibration": [1]}, "unpack"),
    ],
)
def test_a_wrong_value_is_named(folder, change, match):
    edit(folder, "metadata.json", lambda d: d["medpanoptic"].update(change))
    with pytest.raises(ModelError, match=rf"BUNDLE-SCHEMA.*{match}"):
        load_bundle(folder)


def test_a_missing_entry_and_a_broken_file_are_named(folder):
    edit(folder, "metadata.json", lambda d: d["medpanoptic"].pop("window"))
    with pytest.raises(ModelError, match="no entry 'window'"):
        load_bundle(folder)
    (folder / "configs" / "metadata.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match=r"invalid JSON: nested too deep|invalid JSON"):
        load_bundle(folder)
    (folder / "configs" / "metadata.json").write_text('{"a":' * 100 + "1" + "}" * 100)
    with pytest.raises(ModelError, match="nested too deep"):
        load_bundle(folder)
    (folder / "configs" / "metadata.json").unlink()
    with pytest.raises(ModelError, match=r"configs/metadata.json cannot be read"):
        load_bundle(folder)


def test_a_shipped_bundle_is_found_by_name(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(bundle_module, "shipped_folder", lambda: tmp_path)
    assert load_bundle("tiny").folder == folder
    assert [b.name for b in list_bundles()] == ["tiny"]
    with pytest.raises(ModelError, match=r"MODEL-NAME.*shipped models: tiny"):
        load_bundle("other")
    (folder / "models" / "model.safetensors").unlink()
    assert list_bundles() == []


def test_the_allow_lists_are_what_exists():
    functions = inspect.getmembers(build, lambda f: inspect.isfunction(f) and f.__module__ == build.__name__)
    assert set(bundle_module.NETWORKS) == {name for name, _ in functions if not name.startswith("_")}
    assert set(bundle_module.PREPROCESSING) == {*SPATIAL_STEPS, *INTENSITY_STEPS}


def shipped():
    return sorted(p for p in shipped_folder().glob("*") if (p / "configs" / "metadata.json").is_file())


@pytest.mark.parametrize("path", shipped(), ids=lambda p: p.name)
def test_monai_builds_the_same_network_from_each_shipped_bundle(path):
    bundle = load_bundle(path, weights=(path / "models" / "model.safetensors").is_file())
    parser = ConfigParser()
    parser.read_config(str(path / "configs" / "inference.json"))
    parser.read_meta(str(path / "configs" / "metadata.json"))
    theirs = parser.get_parsed_content("network_def")
    ours = bundle.build_network()
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}
    if bundle.weights_path.is_file():
        theirs.load_state_dict(dict(load_weights(bundle.weights_path, bundle.weights_sha256)))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    archive = SHARED / "bad_inputs" / "bad_inputs.tar.gz"
    if not archive.is_file():
        pytest.skip(f"no {archive}: the hostile inputs are only in the shared folder")
    target = tmp_path_factory.mktemp("bad")
    with tarfile.open(archive) as tar:
        names = ("s07", "s09", "s11", "s12", "s14", "s15", "s18", "s20")
        members = [m for m in tar if m.name.split("/")[-1].startswith(names) or any(f"/{n}_" in m.name for n in names)]
        tar.extractall(target, members, filter="data")
    return target / "bad_inputs"


def read_hostile(path, kind):
    if kind == "bundle":
        return load_bundle(path)
    beside = path.with_name(path.name + ".sha256")
    named = beside.read_text().split()[0] if beside.is_file() else hashlib.sha256(path.read_bytes()).hexdigest()
    return load_weights(path, named)


def test_hostile_bundles_and_weights_are_refused_and_run_nothing(hostile, monkeypatch):
    monkeypatch.chdir(hostile)
    manifest = json.loads((SHARED / "bad_inputs" / "manifest.json").read_text())
    cases = [c for c in manifest["cases"] if c["kind"] in {"bundle", "weights"}]
    assert len(cases) >= 8
    for case in cases:
        with pytest.raises(ModelError) as caught:
            read_hostile(hostile / case["path"], case["kind"])
        text = str(caught.value).lower()
        assert all(any(word.lower() in text for word in group) for group in case["error"]["mention"]), (
            case["name"],
            text,
        )
    assert not list(hostile.rglob("MEDPANOPTIC_CANARY"))
