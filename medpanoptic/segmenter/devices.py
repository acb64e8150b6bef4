"""Which device a model runs on, and how torch is held to the same answers every time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from medpanoptic.errors import ModelError


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return the device meant. Raises ModelError (DEVICE) if it does not exist here."""
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError("DEVICE", f"device {str(device)!r} cannot be used here; try cpu or auto") from error
    return chosen


def is_out_of_memory(error: BaseException) -> bool:
    """Tell running out of memory from other errors; the CPU allocator of torch has no class of its own for it."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Make torch choose the same algorithms every time, and leave its settings as they were.

    On a GPU an operation that has no such form warns by its name and runs; on a CPU there is none here.
    """
    # torch.use_deterministic_algorithms does the same and imports torch's compiler: seconds in each new process
    before = torch.get_deterministic_debug_mode()
    settings: Any = torch.utils.deterministic
    benchmark, fill = torch.backends.cudnn.benchmark, settings.fill_uninitialized_memory
    if device.type == "cuda":  # cuBLAS reads it once, at its first use in the process
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    settings.fill_uninitialized_memory = False  # costs a tenth of the time in 3D
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "warn")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.backends.cudnn.benchmark, settings.fill_uninitialized_memory = benchmark, fill


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 is faster than float32 there: on CUDA, and on a CPU with instructions of its own for it."""
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return device.type == "cuda"
