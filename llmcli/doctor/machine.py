"""What there is to compute with, and where everything is kept."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import llmcli
from llmcli import paths, torch_build
from llmcli.device import Device, dtype_name, find_device, memory
from llmcli.hub.cache import cache_folder
from llmcli.hub.store import store_folder
from llmcli.kernels.cpu.build import load_library
from llmcli.kernels.select import why_no_kernel


@dataclass(frozen=True)
class Folder:
    """A place where things are kept."""

    purpose: str
    path: str
    bytes: int | None
    """None if it is not there."""


@dataclass(frozen=True)
class MachineReport:
    """What computes, and with what."""

    versions: Mapping[str, str]
    system: str
    torch_build: str
    """For which GPU platform torch was built, and the instructions it uses on this CPU."""
    device: str
    """What `--device auto` takes."""
    device_name: str
    devices: tuple[str, ...]
    """All that could be taken."""
    dtype: str
    """What `--dtype auto` takes for a model that is stored in 16 bits or quantized."""
    implementation: str
    """What generates tokens there."""
    threads: int
    cores: int
    """Processors that this process may use."""
    memory_bytes: int | None
    """Of the device, in all; None where it cannot be told."""
    free_memory_bytes: int | None
    folders: tuple[Folder, ...]
    free_disk_bytes: int | None
    """Where models are stored."""


@dataclass(frozen=True)
class _Torch:
    """What the machine's description takes from torch."""

    version: str
    build: str
    device_name: str
    devices: tuple[str, ...]
    threads: int


def machine(device: str = "auto", dtype: str = "auto") -> MachineReport:
    """Look around, as if a model were to be run with these settings.

    Raises:
        UsageError: there is no such device or dtype.
    """
    chosen = find_device(device)
    torch = _torch_unimported(chosen) or _torch_imported(chosen)
    total, free = memory(chosen)
    # As they were found: the kernel, if it is compiled now, goes into one of them.
    folders = _folders()
    return MachineReport(
        versions={"llmcli": llmcli.__version__, "python": platform.python_version(), "torch": torch.version},
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        torch_build=torch.build,
        device=str(chosen),
        device_name=torch.device_name,
        devices=torch.devices,
        dtype=dtype_name(dtype, chosen, "bfloat16"),
        implementation=implementation(chosen),
        threads=torch.threads,
        cores=_cores(),
        memory_bytes=total,
        free_memory_bytes=free,
        folders=folders,
        free_disk_bytes=_free_disk(store_folder()),
    )


def implementation(device: Device) -> str:
    """What generates tokens on `device`, and why."""
    if reason := why_no_kernel(None, device):
        return f"the readable model ({reason})"
    if device.type == "cuda":
        return "Triton kernels, or the readable model where these do not cover one"
    return f"the C kernel ({load_library().isa}), or the readable model where that does not cover one"


def _torch_unimported(device: Device) -> _Torch | None:
    """What torch would say of itself, without importing it; None if it has to be asked, or has been imported."""
    if "torch" in sys.modules:
        return None
    build, level, threads = torch_build.torch_build(), torch_build.cpu_level(), torch_build.default_threads()
    if build is None or level is None or threads is None or device.type != "cpu" or not torch_build.only_cpu():
        return None
    return _Torch(build.version, _build(build.cuda, level), cpu_name(), ("cpu",), threads)


def _torch_imported(device: Device) -> _Torch:
    import torch

    gpus = tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    mps = ("mps",) if torch.backends.mps.is_available() else ()
    return _Torch(
        version=str(torch.__version__),
        build=_build(torch.version.cuda, torch.backends.cpu.get_cpu_capability()),
        device_name=torch.cuda.get_device_name(str(device)) if device.type == "cuda" else cpu_name(),
        devices=("cpu", *gpus, *mps),
        threads=torch.get_num_threads(),
    )


def _build(cuda: str | None, level: str) -> str:
    return f"{f'CUDA {cuda}' if cuda else 'CPU only'}, {level}"


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def cpu_name() -> str:
    """What the processor calls itself."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _folders() -> tuple[Folder, ...]:
    places = {
        "data and models": paths.data_folder(), "hub cache": cache_folder(), "cache": paths.cache_folder(),
        "configuration": paths.config_folder(),
    }  # fmt: skip
    return tuple(Folder(purpose, str(path), _size(path)) for purpose, path in places.items())


def _size(folder: Path) -> int | None:
    """Bytes of the files in `folder`, links not followed."""
    if not folder.is_dir():
        return None
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(root) / name).lstat().st_size
    return total


def _free_disk(folder: Path) -> int | None:
    """Free bytes where `folder` is, or would be."""
    for place in (folder, *folder.parents):
        if place.exists():
            with suppress(OSError):
                return shutil.disk_usage(place).free
            break
    return None
