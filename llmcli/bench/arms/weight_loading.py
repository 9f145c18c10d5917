"""Measure the speed of loading weights from the page cache to a device: by this program, and by safetensors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.load_weights import load_weights
from llmcli.checkpoint.tensors.tensor_info import TensorInfo

_TRIES = 2


def loading_speeds(checkpoint: Checkpoint, device: torch.device) -> tuple[float, float]:
    """Loading speed in bytes per second, of this program and of `safe_open`, in the stored type.

    The best of several alternating tries; the first also brings the files into the page cache.

    Raises:
        OutOfMemoryError: the weights do not fit on the device.
    """
    files = safetensors_files(checkpoint)
    total = sum(stored.nbytes for stored in checkpoint.tensors.values())
    ours, theirs = [], []
    for _ in range(_TRIES):
        ours.append(_seconds(lambda: load_weights(checkpoint, device, checkpoint.stored_dtype()), device))
        theirs.append(_seconds(lambda: by_safe_open(files, device), device))
    return total / min(ours), total / min(theirs)


def safetensors_files(checkpoint: Checkpoint) -> list[Path]:
    """The files with a checkpoint's tensors, if all are safetensors files with plain numbers; else empty."""
    tensors = [one for one in checkpoint.tensors.values() if isinstance(one, TensorInfo)]
    if checkpoint.format != "safetensors" or len(tensors) < len(checkpoint.tensors):
        return []
    return sorted({one.path for one in tensors})


def by_safe_open(files: Sequence[Path], device: torch.device) -> dict[str, torch.Tensor]:
    """Load all tensors of `files` to `device` with `safe_open`."""
    found: dict[str, torch.Tensor] = {}
    for path in files:
        reader: Any
        with safe_open(path, framework="pt", device=str(device)) as reader:
            found |= {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118 (it is no mapping)
    return found


def _seconds(load: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    # Kept until the clock is read, because freeing memory takes time too.
    loaded = load()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    seconds = time.perf_counter() - started
    del loaded
    return seconds
