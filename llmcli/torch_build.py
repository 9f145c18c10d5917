"""The installed torch, and what it would compute with here, told without importing it.

`import torch` takes most of a second and 150 MB, which a command that loads no model need not spend. Every function
here gives what torch itself would say, or None where only torch can tell; callers then import it and ask.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
import runpy
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_CPU_INFO, _CPU_FOLDER = Path("/proc/cpuinfo"), Path("/sys/devices/system/cpu")
# What the names of processor features in /proc/cpuinfo must include for a level of torch's kernels, greatest first
# (aten/src/ATen/native/DispatchStub.cpp).
_LEVELS = (("AVX512", {"avx512vl", "avx512bw", "avx512dq", "fma"}), ("AVX2", {"avx2", "fma"}))
# Features with which a processor multiplies bfloat16 in hardware, as x86 and Arm processors have them.
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "svebf16", "bf16"}


@dataclass(frozen=True)
class TorchBuild:
    """What the files of torch say of it."""

    version: str
    cuda: str | None
    """The version of CUDA it was built for; None: it was not."""
    others: bool
    """It was built for accelerators of other makers."""


@functools.cache
def torch_build() -> TorchBuild | None:
    """The installed torch; None if its files are not where they are expected."""
    with suppress(Exception):
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.origin is None:
            return None
        # The file assigns a few strings and imports nothing but `typing`.
        values = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
        others = any(values.get(name) for name in ("hip", "rocm", "xpu"))
        return TorchBuild(str(values["__version__"]), values.get("cuda"), others)
    return None


def only_cpu() -> bool:
    """Torch has no other device than the CPU here, for certain; False: it may have one."""
    build = torch_build()
    if build is None or build.others or sys.platform != "linux":
        return False
    return build.cuda is None or not _has_cuda_driver()


def _has_cuda_driver() -> bool:
    """The library through which CUDA reaches a device can be loaded; without it torch finds no device."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def cpu_level(cpu_info: Path = _CPU_INFO) -> str | None:
    """What `torch.backends.cpu.get_cpu_capability` says: the vector instructions that torch's kernels use."""
    if not _is_linux_on_x86() or "ATEN_CPU_CAPABILITY" in os.environ:
        return None
    features = _cpu_features(cpu_info) or frozenset()
    return next((level for level, needed in _LEVELS if needed <= features), None)


def default_threads(cpu_folder: Path = _CPU_FOLDER) -> int | None:
    """What `torch.get_num_threads` says in a new process.

    It is the number of processor cores that the process may use, or less if OMP_NUM_THREADS says so. Where cores run
    several threads or are of several kinds it depends on the libraries torch was built with, so nothing is said.
    """
    settings = {name for name in os.environ if name.startswith(("OMP_", "GOMP_", "KMP_", "MKL_"))}
    if settings - {"OMP_NUM_THREADS"} or not _is_linux_on_x86() or Path("/sys/devices/cpu_atom").exists():
        return None
    allowed = os.sched_getaffinity(0)
    try:
        siblings = [(cpu_folder / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip() for cpu in allowed]
    except OSError:
        return None
    wanted = os.environ.get("OMP_NUM_THREADS", str(len(allowed)))
    if siblings != [str(cpu) for cpu in allowed] or not (wanted.isascii() and wanted.isdigit()):
        return None
    return int(wanted) if 1 <= int(wanted) <= len(allowed) else None


def multiplies_bfloat16(cpu_info: Path = _CPU_INFO) -> bool | None:
    """Whether the CPU multiplies bfloat16 in hardware."""
    features = _cpu_features(cpu_info)
    return None if features is None else bool(features & _BFLOAT16)


@functools.cache
def _cpu_features(cpu_info: Path) -> frozenset[str] | None:
    """The names that Linux gives to the features of the first processor; None where it does not list them."""
    with suppress(OSError):
        for line in cpu_info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
    return None


def _is_linux_on_x86() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64"
