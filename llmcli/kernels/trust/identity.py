"""The identity of a kernel on this machine: source, compiler, processor or GPU, driver and torch."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli import torch_build
from llmcli.kernels.cpu import build

if TYPE_CHECKING:
    import torch

_KERNELS = Path(__file__).parents[1]
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Kernel:
    """A kernel on this machine."""

    name: str
    """Shown to users."""
    kind: str
    """cpu or cuda."""
    key: str
    """Hash of everything that may change the kernel's results."""

    @property
    def verdict_file(self) -> Path:
        """The file with its verdict."""
        return build.cache_folder() / f"{self.kind}-{self.key}.checked.json"


def cpu_kernel() -> Kernel:
    """The C kernel, compiled now if there is no cached library.

    Raises:
        NoKernelError: it cannot be compiled or loaded.
    """
    return _cpu_kernel(build.load_library().key)


@functools.cache
def _cpu_kernel(library: str) -> Kernel:
    """The kernel of a compiled library; the key `library` covers C sources, compiler and processor."""
    return Kernel("the C kernel", "cpu", _digest([library, *_python("cpu")]))


@functools.cache
def cuda_kernel(device: torch.device) -> Kernel:
    """The Triton kernels on a GPU or, interpreted for tests, on a CPU."""
    import sysconfig

    import torch

    parts = [*_python("cuda", "triton"), _triton()]
    if device.type == "cuda":
        driver = ""
        with suppress(OSError):
            driver = _DRIVER.read_text(errors="replace")
        capability = torch.cuda.get_device_capability(device)
        parts += [torch.cuda.get_device_name(device), str(capability), str(torch.version.cuda), driver]
        # Triton needs a C compiler and Python's headers; they may be installed after a failed check.
        compilers = (os.environ.get("CC", ""), shutil.which("gcc"), shutil.which("clang"))
        headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
        parts += [*map(str, compilers), str(headers.exists())]
    return Kernel("the Triton kernels", "cuda", _digest(parts))


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join([*parts, *_python("trust"), _torch()]).encode()).hexdigest()[:32]


def _python(*folders: str) -> list[str]:
    """Name, size and time of the Python files; reading all of them would take longer than the rest of a check."""
    found = []
    for folder in folders:
        for path in sorted((_KERNELS / folder).glob("*.py")):
            status = path.stat()
            found.append(f"{folder}/{path.name} {status.st_size} {status.st_mtime_ns}")
    return found


def _torch() -> str:
    """Torch's version, the same whether torch has been imported or not."""
    made = torch_build.torch_build()
    if made is not None:
        return made.version
    return str(getattr(sys.modules.get("torch"), "__version__", ""))


def _triton() -> str:
    """Path, size and time of the installed Triton, without importing it."""
    with suppress(OSError, ValueError, ImportError):
        spec = find_spec("triton")
        if spec is not None and spec.origin is not None:
            status = Path(spec.origin).stat()
            return f"{spec.origin} {status.st_size} {status.st_mtime_ns}"
    return ""
