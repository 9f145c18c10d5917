"""Description of the machine: versions, devices, memory, and folders with their sizes."""

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
    """A folder that the program uses."""

    purpose: str
    path: str
    bytes: int | None
    """Bytes of its files; None if it does not exist."""


@dataclass(frozen=True)
class MachineReport:
    """What `llm doctor` reports about the machine."""

    versions: Mapping[str, str]
    system: str
    torch_build: str
    """The GPU platform that torch was built for, and the vector instructions it uses on this CPU."""
    device: str
    """The device that `--device auto` chooses."""
    device_name: str
    devices: tuple[str, ...]
    """All available devices."""
    dtype: str
    """The dtype that `--dtype auto` chooses for a model stored in 16 bits or quantized."""
    implementation: str
    """The implementation that generates tokens on the device."""
    threads: int
    cores: int
    """CPU cores that this process may use."""
    memory_bytes: int | None
    """Total memory of the device; None if unknown."""
    free_memory_bytes: int | None
    folders: tuple[Folder, ...]
    free_disk_bytes: int | None
    """Free bytes on the disk of the model store; None if unknown."""


@dataclass(frozen=True)
class _Torch:
    """The facts about torch in the report."""

    version: str
    build: str
    device_name: str
    devices: tuple[str, ...]
    threads: int


def machine(device: str = "auto", dtype: str = "auto") -> MachineReport:
    """Describe the machine as a model with these settings would find it.

    Raises:
        UsageError: there is no such device or dtype.
    """
    chosen = find_device(device)
    torch = _torch_unimported(chosen) or _torch_imported(chosen)
    total, free = memory(chosen)
    # Before the kernel is compiled: that writes into one of these folders.
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
    """The implementation that generates tokens on `device`, with the reason."""
    if reason := why_no_kernel(None, device):
        return f"the readable model ({reason})"
    if device.type == "cuda":
        return "Triton kernels, or the readable model where these do not cover one"
    return f"the C kernel ({load_library().isa}), or the readable model where that does not cover one"


def _torch_unimported(device: Device) -> _Torch | None:
    """Facts about torch read without importing it; None if torch must be asked, or is imported already."""
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
    """The model name of the CPU."""
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
    """Bytes of the files in `folder`, links not followed; None if it is not a folder."""
    if not folder.is_dir():
        return None
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(root) / name).lstat().st_size
    return total


def _free_disk(folder: Path) -> int | None:
    """Free bytes on the disk where `folder` is or would be created; None if unknown."""
    for place in (folder, *folder.parents):
        if place.exists():
            with suppress(OSError):
                return shutil.disk_usage(place).free
            break
    return None
