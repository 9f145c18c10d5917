"""Free memory under the system's limits, and errors when memory runs out."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmcli.device import _control_group_left, is_out_of_memory, memory, memory_for
from llmcli.errors import OutOfMemoryError

GIB = 1 << 30


def group(folder: Path, limit: str, used: int, stat: str, *, names: tuple[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip((*names, "memory.stat"), (limit, str(used), stat), strict=True):
        (folder / name).write_text(f"{text}\n")


def belongs_to(root: Path, line: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"7:cpu:/elsewhere\n{line}\n")


def test_control_group_limits_reduce_free_memory(tmp_path: Path) -> None:
    belongs_to(tmp_path, "0::/outer/inner")
    names = ("memory.max", "memory.current")
    top = tmp_path / "sys/fs/cgroup"
    assert _control_group_left(tmp_path) is None
    group(top / "outer/inner", "max", 3 * GIB, "active_file 0", names=names)
    assert _control_group_left(tmp_path) is None
    # Cached files count as free; the outer group has the lower limit.
    stat = f"anon {GIB}\nactive_file {GIB // 4}\ninactive_file {GIB // 2}"
    group(top / "outer", str(4 * GIB), 3 * GIB, stat, names=names)
    assert _control_group_left(tmp_path) == GIB + GIB * 3 // 4
    group(top / "outer/inner", str(2 * GIB), 3 * GIB, "active_file 0", names=names)
    assert _control_group_left(tmp_path) == 0


def test_control_groups_version_1_are_read(tmp_path: Path) -> None:
    belongs_to(tmp_path, "4:memory,hugetlb:/mine")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    # In a container the group's path may be missing; its limit is then that of the top folder.
    group(tmp_path / "sys/fs/cgroup/memory", str(2 * GIB), GIB, f"total_inactive_file {GIB // 2}", names=names)
    assert _control_group_left(tmp_path) == GIB + GIB // 2


def test_missing_control_group_files_mean_no_limit(tmp_path: Path) -> None:
    assert _control_group_left(tmp_path) is None


def test_memory_of_this_machine() -> None:
    total, free = memory(torch.device("cpu"))
    assert total is not None
    assert total > GIB // 4
    assert free is None or free > 0


@pytest.mark.skipif(sys.platform != "linux", reason="addresses are limited on Linux only")
def test_an_address_space_limit_reduces_free_memory() -> None:
    code = (
        "import resource, torch\n"
        "from llmcli.device import memory\n"
        "from pathlib import Path\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28),) * 2)\n"
        "print(memory(torch.device('cpu'))[1])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert 1 << 27 < int(result.stdout) <= 1 << 28


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOENT, "No such file"), False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_errors_are_recognized(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
    with pytest.raises(OutOfMemoryError if expected else type(error)) as caught, memory_for(lambda: "x", "Buy some."):
        raise error
    if expected:
        assert str(caught.value) == "There is not enough memory for x. Buy some."


def test_torch_reports_out_of_memory_as_expected() -> None:
    with pytest.raises(OutOfMemoryError), memory_for(lambda: "a great tensor", ""):
        torch.empty(1 << 60, dtype=torch.uint8)
