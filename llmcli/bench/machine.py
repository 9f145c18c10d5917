"""Where a benchmark ran: processor, memory, versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import torch

from llmcli import __version__
from llmcli.bench.memory import lines_of
from llmcli.bench.results import Machine
from llmcli.device import memory
from llmcli.inspection.machine import cpu_name

_PACKAGES = {"torch": "torch", "llama.cpp": "llama-cpp-python", "transformers": "transformers"}


def this_machine(device: torch.device) -> Machine:
    """What is known of the machine; the GPU only if it is the device."""
    logical = os.cpu_count() or 1
    return Machine(
        cpu=cpu_name(),
        physical_cores=_physical_cores() or logical,
        logical_cores=logical,
        memory_bytes=memory(torch.device("cpu"))[0] or 0,
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        system=f"{platform.system()} {platform.machine()}",
    )


def versions(arms: list[str]) -> dict[str, str]:
    """Of this program, Python, torch and the peers among `arms`."""
    found = {"llmcli": __version__, "python": platform.python_version()}
    for name in ("torch", *arms):
        if name in _PACKAGES:
            try:
                found[name] = metadata.version(_PACKAGES[name])
            except metadata.PackageNotFoundError:
                continue
    return found


def _physical_cores() -> int:
    """Cores, counting those that two threads share once; 0 if the system does not tell."""
    cores: set[tuple[str, str]] = set()
    package = ""
    for line in lines_of("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() == "physical id":
            package = value.strip()
        elif key.strip() == "core id":
            cores.add((package, value.strip()))
    return len(cores)
