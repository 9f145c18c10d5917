"""The machine that a benchmark runs on: processor, memory, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import torch

import llmcli
from llmcli import __version__
from llmcli.bench.hardware.memory import lines_of
from llmcli.bench.results import MachineInfo
from llmcli.device import memory
from llmcli.doctor.machine import cpu_name

_PACKAGES = {
    "torch": "torch",
    "triton": "triton",
    "llama.cpp": "llama-cpp-python",
    "transformers": "transformers",
    "transformers-compiled": "transformers",
}


def this_machine(device: torch.device) -> MachineInfo:
    """Facts about the machine; the GPU only if it is the device."""
    logical = os.cpu_count() or 1
    return MachineInfo(
        cpu=cpu_name(),
        physical_cores=_physical_cores() or logical,
        logical_cores=logical,
        memory_bytes=memory(torch.device("cpu"))[0] or 0,
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        system=f"{platform.system()} {platform.machine()}",
    )


def versions(arms: list[str], device: torch.device) -> dict[str, str]:
    """Versions of this program, Python, torch and the peers in `arms`; on a GPU also of Triton and CUDA."""
    found = {"llmcli": __version__, "python": platform.python_version()}
    on_gpu = ["triton"] if device.type == "cuda" else []
    for name in ("torch", *on_gpu, *arms):
        if name in _PACKAGES:
            with suppress(metadata.PackageNotFoundError):
                found[_PACKAGES[name] if name.startswith("transformers") else name] = metadata.version(_PACKAGES[name])
    if device.type == "cuda" and torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    return found


def commit() -> str | None:
    """The commit of the repository that this program runs from, with "-dirty" if tracked files were changed."""
    root = Path(llmcli.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "--untracked-files=no").strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}-dirty" if changed else head


def _git(folder: Path, *arguments: str) -> str:
    command = ("git", "-C", str(folder), *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


def _physical_cores() -> int:
    """Number of physical cores; 0 if the system does not report them."""
    cores: set[tuple[str, str]] = set()
    package = ""
    for line in lines_of("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() == "physical id":
            package = value.strip()
        elif key.strip() == "core id":
            cores.add((package, value.strip()))
    return len(cores)
