"""Compile `csrc/decoder.c` with the system's compiler, once per source, compiler and processor, and load it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from llmcli import paths
from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu import c_structs

Variant: TypeAlias = Literal["native", "avx2", "portable"]
"""The machine's instruction set, or a smaller one, so that all code can be tested on one machine."""

_FLAGS = (
    "-std=gnu11", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra",
    # Allow fused multiply-add; errno and floating-point traps are not used.
    "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
)  # fmt: skip
_VARIANTS: dict[Variant, tuple[str, ...]] = {
    "native": (),
    "avx2": ("-DLLM_AVX2", "-mno-avx512f"),
    "portable": ("-DLLM_PORTABLE",),
}
_SOURCES = Path(__file__).parent / "csrc"
_COMPILERS = ("cc", "gcc", "clang")
_SECONDS = 120


@dataclass(frozen=True)
class Library:
    """The compiled C kernel."""

    handle: ctypes.CDLL
    isa: str
    """The instruction set it uses, shown to users."""
    key: str
    """Hash of source, compiler, flags and processor."""


@functools.cache
def load_library(variant: Variant = "native", extra: tuple[str, ...] = ()) -> Library:
    """Load the kernel, compiling it if there is no cached library; `extra` compiler flags are for tests.

    Raises:
        NoKernelError: there is no compiler, or compiling or loading fails.
    """
    compiler = _compiler()
    flags = (*_FLAGS, *_machine_flags(), *_VARIANTS[variant], *extra)
    path = _cached(compiler, flags)
    try:
        handle = ctypes.CDLL(str(path))
        return Library(handle, c_structs.declare(handle), path.stem)
    except (OSError, AttributeError, ValueError) as error:
        raise NoKernelError(f"the compiled kernel could not be loaded: {error}") from None


def sources(folder: Path = _SOURCES) -> list[Path]:
    """The C files, sub-folders included. Only `decoder.c` is compiled; it includes the others."""
    return sorted(folder.rglob("*.[ch]"))


def cache_folder() -> Path:
    """The folder of compiled kernels."""
    return paths.cache_folder() / "kernels"


def _compiler() -> str:
    if sys.platform == "win32":
        raise NoKernelError("not on Windows")
    found = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    if found is None:
        raise NoKernelError("no C compiler found")
    return found


def _machine_flags() -> tuple[str, ...]:
    if platform.machine().lower() in ("arm64", "aarch64"):
        return ("-mcpu=native",)
    return ("-march=native", *(["-DLLM_INTEL"] if "GenuineIntel" in _cpu_info("vendor_id") else []))


def _cached(compiler: str, flags: Sequence[str]) -> Path:
    """The path of the compiled library; compiles it if it is missing or incomplete."""
    path = cache_folder() / f"cpu-{_key(compiler, flags)}.so"
    if _is_whole(path):
        return path
    from filelock import FileLock

    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Processes that start together compile once.
        with FileLock(path.with_suffix(".lock"), timeout=_SECONDS):
            if not _is_whole(path):
                _compile(compiler, flags, path)
    except (OSError, TimeoutError) as error:
        raise NoKernelError(f"the compiled kernel could not be stored: {error}") from None
    return path


def _key(compiler: str, flags: Sequence[str], folder: Path = _SOURCES) -> str:
    """Hash of everything that determines the compiler's output."""
    real = Path(compiler).resolve()
    status = real.stat()
    parts = [str(real), str(status.st_size), str(status.st_mtime_ns), *flags, platform.machine(), _processor()]
    digest = hashlib.sha256("\0".join(parts).encode())
    for source in sources(folder):
        digest.update(source.relative_to(folder).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def _processor() -> str:
    """The processor, on which `-march=native` depends: machines may share a home directory and its cache."""
    return _cpu_info("flags", "Features", "model name", "CPU part") or platform.processor()


def _cpu_info(*fields: str) -> str:
    """The distinct lines of /proc/cpuinfo that begin with `fields`; empty if the system has no such file."""
    return "\n".join(dict.fromkeys(line for line in _cpu_lines() if line.startswith(fields)))


@functools.cache
def _cpu_lines() -> list[str]:
    """Read /proc/cpuinfo once: the system generates it at each read, slowly where there are many cores."""
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    return []


def _compile(compiler: str, flags: Sequence[str], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / "cpu.so"
        command = [compiler, *flags, str(_SOURCES / "decoder.c"), "-o", str(made), "-lm"]
        try:
            run = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise NoKernelError(f"{Path(compiler).name} did not finish within {_SECONDS} s") from None
        if run.returncode != 0 or not made.is_file():
            said = next((line for line in run.stderr.splitlines() if "error" in line), f"exit code {run.returncode}")
            raise NoKernelError(f"{Path(compiler).name} failed: {said.strip()[:200]}")
        content = made.read_bytes()
        # Loaders ignore the appended hash. It detects truncated files, which would crash the process.
        made.write_bytes(content + hashlib.sha256(content).digest())
        made.replace(path)


def _is_whole(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return len(content) > 32 and hashlib.sha256(content[:-32]).digest() == content[-32:]
