"""Version, devices, vector instructions and threads of the installed torch, read without importing it.

`import torch` takes most of a second and 150 MB, which commands without a model should not spend. Each function returns
what torch itself would return, or None where only torch knows; callers then import torch and ask it.
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
# CPU features, as /proc/cpuinfo names them, that each level of torch's kernels needs; the highest level first
# (aten/src/ATen/native/DispatchStub.cpp).
_LEVELS = (("AVX512", {"avx512vl", "avx512bw", "avx512dq", "fma"}), ("AVX2", {"avx2", "fma"}))
# Features with which an x86 or Arm CPU multiplies bfloat16 in hardware.
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "svebf16", "bf16"}
# Variables that say how threads wait, not how many there are.
_WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"}


@dataclass(frozen=True)
class TorchBuild:
    """Facts about the installed torch that its files state."""

    version: str
    cuda: str | None
    """The version of CUDA it was built for; None if it was built without CUDA."""
    others: bool
    """Whether it was built for accelerators of other makers (ROCm, XPU)."""


@functools.cache
def torch_build() -> TorchBuild | None:
    """The installed torch; None if its files are not where they are expected."""
    with suppress(Exception):
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.origin is None:
            return None
        # `version.py` assigns a few strings and imports only `typing`.
        values = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
        others = any(values.get(name) for name in ("hip", "rocm", "xpu"))
        return TorchBuild(str(values["__version__"]), values.get("cuda"), others)
    return None


def only_cpu() -> bool:
    """Whether torch can only use the CPU here; False also if that is not certain."""
    build = torch_build()
    if build is None or build.others or sys.platform != "linux":
        return False
    return build.cuda is None or not _has_cuda_driver()


def _has_cuda_driver() -> bool:
    """Whether `libcuda.so.1` can be loaded; without it torch finds no CUDA device."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def cpu_level(cpu_info: Path = _CPU_INFO) -> str | None:
    """The result of `torch.backends.cpu.get_cpu_capability`: the vector instructions that torch's kernels use."""
    if not _is_linux_on_x86() or "ATEN_CPU_CAPABILITY" in os.environ:
        return None
    features = _cpu_features(cpu_info) or frozenset()
    return next((level for level, needed in _LEVELS if needed <= features), None)


def default_threads(cpu_folder: Path = _CPU_FOLDER) -> int | None:
    """The result of `torch.get_num_threads` in a new process; None if it cannot be predicted.

    That is the number of CPU cores that the process may use, or OMP_NUM_THREADS if lower. Returns None for cores with
    several threads or of several kinds: there the number depends on the libraries that torch was built with.
    """
    settings = {name for name in os.environ if name.startswith(("OMP_", "GOMP_", "KMP_", "MKL_"))}
    if settings - {"OMP_NUM_THREADS"} - _WAITING or not _is_linux_on_x86() or Path("/sys/devices/cpu_atom").exists():
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
    """The features of the first CPU by their names in Linux; None if Linux does not list them."""
    with suppress(OSError):
        for line in cpu_info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
    return None


def _is_linux_on_x86() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64"
