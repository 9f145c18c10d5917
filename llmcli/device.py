"""Choice of device and dtype, memory that a device has free, and errors when memory runs out."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llmcli.errors import OutOfMemoryError, UsageError
from llmcli.torch_build import multiplies_bfloat16, only_cpu

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")

# Parts of out-of-memory messages of torch, its libraries and the C++ library that come without an error type.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "ALLOC_FAILED")


class Device(Protocol):
    """The one field that is read of a device where nothing is computed: a `torch.device`, or the CPU without torch."""

    @property
    def type(self) -> str:
        """ "cpu", "cuda" or "mps"."""


@dataclass(frozen=True)
class CpuDevice:
    """The CPU, as a value that needs no import of torch."""

    type: str = "cpu"

    def __str__(self) -> str:
        return self.type


def find_device(name: str) -> Device:
    """Like `choose_device`, but skips the import of torch if the answer can only be "cpu"."""
    return CpuDevice() if name in ("auto", "cpu") and only_cpu() else choose_device(name)


def choose_device(name: str) -> torch.device:
    """The device called `name`: "auto", "cpu", "cuda", "cuda:1", "mps"; `UsageError` if it is not available."""
    import torch

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


def gpu_count(name: str) -> int:
    """How many GPUs processes can take by turns if --device is `name`; 0 if it names one, or another device."""
    if name not in ("auto", "cuda") or only_cpu():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_dtype(name: str, device: torch.device, stored: torch.dtype) -> torch.dtype:
    """The dtype of weights and activations: `name`, or for "auto" one in which the device is fast and safe.

    `stored` is the checkpoint's float type; "auto" gives float32 only where no smaller type is fast.
    """
    import torch

    chosen: torch.dtype = getattr(torch, dtype_name(name, device, str(stored).removeprefix("torch.")))
    return chosen


def dtype_name(name: str, device: Device, stored: str) -> str:
    """The name of the dtype that `choose_dtype` returns; for the CPU without importing torch."""
    if name != "auto":
        if name not in DTYPES:
            raise UsageError(f"There is no dtype called {name!r}; use auto, {', '.join(DTYPES)}.")
        return name
    if device.type == "cuda":
        import torch

        # Ask about this device: with several GPUs the current one may be another.
        with torch.cuda.device(device):
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if fast and stored != "float16" else "float16"
    if device.type == "mps":
        return "float16" if stored == "float16" else "bfloat16"
    return "bfloat16" if _cpu_is_fast_in_bfloat16() else "float32"


def _cpu_is_fast_in_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; elsewhere it is slower than float32 (prefill by far)."""
    known = multiplies_bfloat16()
    if known is not None:
        return known
    import torch

    read = getattr(torch.cpu, "get_capabilities", dict)  # not in every supported torch
    capabilities: dict[str, object] = read()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16", "arm_bf16"))


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory so far, in bytes: allocated by torch on a GPU, resident set of the process on a CPU; 0 if unknown."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory(device: Device) -> tuple[int | None, int | None]:
    """Total memory of a device, and the part that this process can allocate now, in bytes; None where unknown.

    Main memory is limited by control groups and `ulimit -v`. Cached files and free swap count as available.
    """
    if device.type == "cuda":
        import torch

        name = str(device)
        free, total = torch.cuda.mem_get_info(name)
        # Memory that torch keeps for later tensors is free too.
        kept = torch.cuda.memory_reserved(name) - torch.cuda.memory_allocated(name)
        return total, free + kept
    found: dict[str, int] = {}
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name in ("MemTotal", "MemAvailable", "SwapFree"):
                found[name] = int(value.split()[0]) * 1024
    if not found:
        with suppress(OSError, ValueError, AttributeError):
            found["MemTotal"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if "MemAvailable" in found:
        free = found["MemAvailable"] + found.get("SwapFree", 0)
        return found.get("MemTotal"), min([free, *_limits_left()])
    return found.get("MemTotal"), None


def _limits_left() -> list[int]:
    """Bytes left under each limit on this process's memory."""
    return [left for left in (_control_group_left(Path("/")), _address_space_left()) if left is not None]


def _control_group_left(root: Path) -> int | None:
    """Bytes left under the memory limits of this process's control groups; None if none of them has a limit.

    Reads both versions of Linux's control groups. The limit of a group holds for all groups inside it too.
    """
    left: list[int] = []
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                top, limit, used, cached = root / "sys/fs/cgroup", "memory.max", "memory.current", ""
            elif "memory" in controllers.split(","):
                top, limit, used = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
                cached = "total_"
            else:
                continue
            names = Path(path.lstrip("/"))
            for group in (names, *names.parents):
                # A group without a limit has the word "max" in its file, or no such file.
                with suppress(OSError, ValueError):
                    most, taken = (int((top / group / name).read_text(encoding="ascii")) for name in (limit, used))
                    left.append(max(0, most - taken + _file_cache(top / group, cached)))
    return min(left, default=None)


def _file_cache(group: Path, prefix: str) -> int:
    """Bytes of cached files that count for a group and that the kernel frees when memory is needed."""
    lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    numbers = dict(line.split() for line in lines)
    return sum(int(numbers.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))


def _address_space_left() -> int | None:
    """Bytes left under the process's limit on address space (`ulimit -v`); None without a limit."""
    if sys.platform != "linux":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return max(0, limit - pages * resource.getpagesize())
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` reports that memory ran out, in main memory or on a GPU."""
    # An error of torch is possible only if torch has been imported.
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


@contextmanager
def memory_for(what: Callable[[], str], advice: str) -> Iterator[None]:
    """Turn a failed allocation in the block into an `OutOfMemoryError` that names `what()` and gives `advice`."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"There is not enough memory for {what()}. {advice}") from None


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread inside the block.

    Use it where several threads compute side by side, and for small computations: torch's threads wait for each other
    in busy loops, sometimes for a tenth of a second.
    """
    import torch

    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
