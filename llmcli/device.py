"""Which device and number format a model runs in, and how much memory the process has used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from llmcli.errors import UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device `name` stands for: "auto", "cpu", "cuda", "cuda:1", "mps"; `UsageError` if it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"There is no device called {name!r}; use auto, cpu, cuda, cuda:N or mps.") from None
    available: dict[str, Callable[[], bool]] = {
        "cpu": lambda: True,
        "cuda": lambda: torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available,
    }
    if device.type not in available:
        raise UsageError(f"Device {name!r} is not supported; use auto, cpu, cuda, cuda:N or mps.")
    if not available[device.type]():
        raise UsageError(f"Device {name!r} is not available here: this PyTorch is {torch.__version__}.")
    return device


def choose_dtype(name: str, device: torch.device, stored: torch.dtype) -> torch.dtype:
    """The type weights and activations get: `name`, or for "auto" what the device is fast and safe in.

    `stored` is the checkpoint's own float type; float32 weights are only kept so where nothing smaller is fast.
    """
    if name != "auto":
        if name not in DTYPES:
            raise UsageError(f"There is no dtype called {name!r}; use auto, {', '.join(DTYPES)}.")
        return DTYPES[name]
    if device.type == "cuda":
        if stored == torch.float16 or not torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.float16
        return torch.bfloat16
    if device.type == "mps":
        return torch.float16 if stored == torch.float16 else torch.bfloat16
    return torch.bfloat16 if _cpu_is_fast_in_bfloat16() else torch.float32


def _cpu_is_fast_in_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; elsewhere it is slower than float32 (prefill by far)."""
    read = getattr(torch.cpu, "get_capabilities", dict)  # not in every supported torch
    capabilities: dict[str, object] = read()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16", "arm_bf16"))


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory used so far: by torch on a GPU, by the whole process (resident set) on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with one thread inside the block.

    It is best where others compute beside it, and where little is to be done: torch's threads wait busily for each
    other, and now and then for a tenth of a second.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
