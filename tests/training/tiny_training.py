"""A tiny bundle and tiny data sets in every layout, made by code."""

import csv
import json

import numpy as np
from PIL import Image

from medpanoptic.geometry import spatial_affine
from medpanoptic.io.nifti import write_nifti

CODE = ["108369006", "SCT", "Neoplasm"]


def tiny_bundle(folder, dims, patch, steps=4):
    classes = [
        {"id": 1, "name": "background", "is_thing": False, "color": [0, 0, 0], "category": CODE, "type": CODE},
        {"id": 2, "name": "blob", "is_thing": True, "color": [255, 0, 0], "category": CODE, "type": CODE},
    ]
    block = {
        "classes": classes,
        "channels": [{"name": "image", "modality": "", "unit": "", "required": True}],
        "preprocessing": [{"_target_": "NormalizeChannelsd", "rules": [{"window": [0, 255]}]}],
        "window": patch,
        "overlap": 0.25,
        "fusion": {"score_threshold": 0.3},
    }
    network = {
        "_target_": "medpanoptic.networks.build.efficientps_centres",
        "spatial_dims": dims,
        "in_channels": 1,
        "out_channels": 2,
        "thing_channels": [1],
        "fpn_channels": 8,
        "head_channels": 8,
        "norm": "group",
    }
    train = {
        "seed": 3,
        "steps": steps,
        "batch_size": 2,
        "patch": patch,
        "margin": 1.25,
        "learning_rate": 2e-3,
        "weight_decay": 0.01,
        "warm_up": 2,
        "ema": 0.9,
        "clip_norm": 5.0,
        "amp": False,
        "imagenet": False,
        "validate_every": 2,
        "validate_cases": 1,
        "sampling": {"thing": 0.5, "any": 0.3, "thing_free": 0.2},
        "codes": {"0": "background", "1": "blob"},
        "augmentation": [
            {"_target_": "RandFlipd", "prob": 0.5, "spatial_axis": 0},
            {"_target_": "RandAffined", "prob": 1.0, "rotate_range": 0.2, "spatial_size": patch},
            {"_target_": "RandGaussianNoised", "prob": 0.5, "std": 0.05},
        ],
    }
    parts = {"metadata": {"name": "tiny", "version": "0", "medpanoptic": block}, "inference": {"network_def": network}}
    (folder / "configs").mkdir(parents=True)
    for name, content in (parts | {"train": train}).items():
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content))
    return folder


def blobs(shape, seed=0, count=4):
    """Ids of ``count`` bright boxes on dark ground, and the image (*S) uint8."""
    rng = np.random.default_rng(seed)
    ids = np.zeros(shape, np.int32)
    for number in range(1, count + 1):
        start = [int(rng.integers(0, n - 8)) for n in shape]
        ids[tuple(slice(s, s + 7) for s in start)] = number
    image = np.where(ids > 0, 180, 40) + rng.integers(0, 20, shape)
    return ids, image.astype(np.uint8)


def own_layout(folder, cases=4, shape=(48, 64)):
    """index.csv + images/ + labels/, the last case held out."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    with open(folder / "index.csv", "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["id", "kind", "split"])
        for i in range(cases):
            ids, image = blobs(shape, i)
            Image.fromarray(image).save(folder / "images" / f"c{i}.png")
            Image.fromarray(ids.astype(np.uint16)).save(folder / "labels" / f"c{i}.png")
            writer.writerow([f"c{i}", "fluorescence", "val" if i == cases - 1 else "train"])
    return folder


def nnunet_layout(folder, instances, shape=(16, 20, 24)):
    """nnU-Net v2: two cases, ``blob`` is label 1; with or without instancesTr/."""
    for part in ("imagesTr", "labelsTr", *(["instancesTr"] if instances else [])):
        (folder / part).mkdir(parents=True)
    description = {"channel_names": {"0": "image"}, "labels": {"background": 0, "blob": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description | {"numTraining": 2}))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    affine = spatial_affine((2, 1, 1))
    truth = {}
    for i, name in enumerate("ab"):
        ids = np.zeros(shape, np.int32)
        ids[2:6, 2:8, 2:8], ids[8:14, 10:18, 10:20] = 1, 2
        write_nifti(folder / "imagesTr" / f"{name}_0000.nii.gz", (ids > 0).astype(np.uint8) * (200 - i), affine)
        write_nifti(folder / "labelsTr" / f"{name}.nii.gz", (ids > 0).astype(np.uint8), affine)
        if instances:
            write_nifti(folder / "instancesTr" / f"{name}.nii.gz", ids.astype(np.int16), affine)
        truth[name] = ids
    return truth


def coco_layout(folder, shape=(32, 40)):
    """panoptic_train.json and panoptic_val.json with PNGs in folders of the same names; one crowd region."""
    truth = {}
    categories = [{"id": 7, "name": "background", "isthing": 0}, {"id": 9, "name": "blob", "isthing": 1}]
    for split in ("train", "val"):
        ids, image = blobs(shape, 5)
        numbers = ids.astype(np.int64) * 1000 + 300  # ids that need two colour channels
        (folder / f"panoptic_{split}").mkdir(parents=True)
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / "images" / f"{split}1.png")
        rgb = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1).astype(np.uint8)
        Image.fromarray(rgb).save(folder / f"panoptic_{split}" / f"{split}1.png")
        present = [int(i) for i in np.unique(ids)]
        info = [
            {
                "id": i * 1000 + 300,
                "category_id": 9 if i else 7,
                "iscrowd": int(i == present[-1]),
                "area": 1,
                "bbox": [0, 0, 1, 1],
            }
            for i in present
        ]
        data = {
            "images": [{"id": 1, "file_name": f"{split}1.png"}],
            "annotations": [{"image_id": 1, "file_name": f"{split}1.png", "segments_info": info}],
            "categories": categories,
        }
        (folder / f"panoptic_{split}.json").write_text(json.dumps(data))
        truth[split] = (ids, present[-1])
    return truth
