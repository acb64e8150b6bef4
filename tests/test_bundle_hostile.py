"""Bundles and weights made to harm: refused by name, nothing run, no memory filled."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest
import torch
from safetensors.torch import save
from test_bundle import NETWORK, edit, metadata

from medpanoptic.bundle import load_bundle, load_weights, pack_bundle
from medpanoptic.errors import ModelError
from medpanoptic.networks import build


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return build.efficientps_centres(**{k: v for k, v in NETWORK.items() if k != "_target_"}).state_dict()


@pytest.fixture
def folder(tmp_path, weights):
    pack_bundle(tmp_path / "tiny", weights, metadata=metadata(), network_def=NETWORK)
    return tmp_path / "tiny"


@pytest.mark.parametrize(
    "content",
    [
        {"trainer": {"_target_": "builtins.exec", "0": "1"}},
        {"steps": [{"_target_": "os.system", "command": "true"}]},
        {"_requires_": ["$import os"]},
        {"augment": "$__import__('os').system('true')"},
        {"augment": "@a", "a": "@augment"},
        {"include": "%../../secret.json"},
    ],
)
@pytest.mark.parametrize("name", ["train.json", "other.json"])
def test_every_config_is_held_to_be_data(folder, name, content):
    (folder / "configs" / name).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"BUNDLE-UNSAFE.*not allowed"):
        load_bundle(folder)


def test_links_out_of_the_bundle_are_refused(folder, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    try:
        (folder / "configs" / "extra.json").symlink_to(tmp_path / "secret.json")
    except OSError:
        pytest.skip("this system does not allow symbolic links")
    with pytest.raises(ModelError, match=r"BUNDLE-UNSAFE.*link"):
        load_bundle(folder)


@pytest.mark.parametrize("suffix", [".PY", ".so", ".pickle", ".pyd"])
def test_anything_that_could_be_run_is_refused(folder, suffix):
    (folder / "docs").mkdir()
    (folder / "docs" / f"a{suffix}").write_text("")
    with pytest.raises(ModelError, match="Python code"):
        load_bundle(folder)


def test_yaml_below_configs_is_refused(folder):
    (folder / "configs" / "deep").mkdir()
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    (folder / "configs" / "deep" / "a.YML").write_text(bomb)
    with pytest.raises(ModelError, match="YAML is not allowed"):
        load_bundle(folder)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "1" * 5000])
def test_numbers_that_are_none(folder, text):
    path = folder / "configs" / "metadata.json"
    path.write_text(path.read_text().replace('"window": [\n      64,', f'"window": [\n      {text},'))
    with pytest.raises(ModelError, match="BUNDLE-SCHEMA"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "change",
    [{"fpn_channels": 10**9}, {"head_channels": 1e30}, {"thing_channels": [1] * 10_000}],
)
def test_networks_without_end_are_refused(folder, change):
    edit(folder, "inference.json", lambda d: d["network_def"].update(change))
    with pytest.raises(ModelError, match="BUNDLE-SCHEMA"):
        load_bundle(folder).load_network()


def test_a_network_larger_than_its_weights_is_never_allocated(folder):
    edit(folder, "inference.json", lambda d: d["network_def"].update(fpn_channels=10_000, head_channels=10_000))
    with pytest.raises(ModelError, match=r"MODEL-WEIGHTS.*has shape"):
        load_bundle(folder).load_network()


@pytest.mark.parametrize("kind", ["nan", "integers", "extra", "less"])
def test_weights_that_do_not_fit(folder, weights, kind):
    spoiled = {name: value.clone() for name, value in weights.items()}
    name = next(n for n, v in spoiled.items() if v.is_floating_point() and v.ndim > 1)
    if kind == "nan":
        spoiled[name].view(-1)[0] = float("nan")
    elif kind == "integers":
        spoiled[name] = spoiled[name].to(torch.int8)
    elif kind == "extra":
        spoiled["more.weight"] = torch.zeros(3)
    else:
        del spoiled[name]
    pack_bundle(folder, spoiled)
    with pytest.raises(ModelError, match=r"MODEL-WEIGHTS.*not those of its network_def"):
        load_bundle(folder).load_network()


def _safetensors(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "raw",
    [
        _safetensors(
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            bytes(12),
        ),
        _safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**42]}}, bytes(8)),
        _safetensors({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, bytes(8)),
        _safetensors({"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
        _safetensors({}, b"x" * 100),
        struct.pack("<Q", 2**62) + b"{}",
        save({"a": torch.zeros(3)})[:-1],
        b"",
    ],
)
def test_damaged_safetensors_are_refused_by_name(tmp_path, raw):
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    with pytest.raises(ModelError, match="MODEL-WEIGHTS"):
        load_weights(path, hashlib.sha256(raw).hexdigest())


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.bin", "model.ckpt", "model.ts"])
def test_foreign_weights_are_not_opened(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ModelError, match="only safetensors"):
        load_weights(path, "0" * 64)
