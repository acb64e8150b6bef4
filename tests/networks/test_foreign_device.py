"""Training and segmenting on a device that is not the CPU: nothing is mixed, little is copied, results are equal.

``foreign_device.py`` says what this device is. It shows where tensors lie and what is copied; it runs no CUDA kernel.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("foreign_device.py")
# once per image, each a few numbers or what the image's result is made of; none of them per window or per instance
PER_IMAGE = {
    "networks/centre_head.py:_decode",
    "networks/centre_head.py:_centres",
    "networks/grouping.py:own_orphans",
    "networks/grouping.py:group",
    "networks/grouping.py:_cut_out",
    "networks/outputs.py:to",
    "segmenter/segmenter.py:compact",
    "segmenter/segmenter.py:predict",
    "crops.py:overlap_reasons",
    "crops.py:host_masks",
    "crops.py:first_of_masks",
    "fusion.py:fuse",
    "fusion.py:_check_numbers",
    "fusion.py:_compete",
    "fusion.py:_survivors",
    "fusion.py:_fill_stuff",
    "fusion.py:_sum_of_probability",
    "refusion.py:fuse_prediction",
}


@pytest.fixture(scope="module")
def report():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_the_device_refuses_tensors_of_the_cpu(report):
    assert report["mixing"] == "raised"


def test_short_memory_goes_to_half_windows_then_to_the_cpu_and_says_so(report):
    whole, half, cpu = report["ladder"]
    assert whole == [None, [], [64, 96]]
    assert half == ["windows half as wide", ["OUT-OF-MEMORY"], [64, 96]]
    assert cpu == ["the CPU", ["OUT-OF-MEMORY"], [64, 96]]


def test_training_gives_the_weights_of_the_cpu(report):
    assert len(report["training"]) == 5
    # on the mean of every tensor; the first step of AdamW moves each weight by the learning rate, 1e-3, and where its
    # gradient is nearly 0 rounding decides on the sign
    assert max(report["training"].values()) < 1e-4, report["training"]


def test_segmenting_gives_the_result_of_the_cpu(report):
    """To within rounding: 1 x 1 convolutions take another way there than on a CPU, and windows go in batches."""
    assert len(report["segmenting"]) == 5
    for name, runs in report["segmenting"].items():
        for run in runs:
            assert run["device"] == "foreign", name
            assert run["things"] == run["expected"] > 0, name
            assert run["other pixels"] < 1e-3, name
            assert run["other scores"] < 1e-3, name


@pytest.mark.parametrize("name", ["dense 2D", "dense 2D, flips", "dense 3D"])
def test_a_dense_head_copies_nothing_to_the_cpu_window_by_window(report, name):
    for run in report["segmenting"][name]:
        assert run["in the loop"] == 0
        assert set(run["copies"]) <= PER_IMAGE
        assert max(run["copies"].values()) <= 6


def test_what_is_copied_does_not_grow_with_windows_or_instances(report):
    large, small = report["segmenting"]["dense 2D"]
    assert large["windows"] > small["windows"]
    assert large["things"] > small["things"]
    assert sum(large["copies"].values()) <= sum(small["copies"].values()) + 2
