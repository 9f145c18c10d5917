"""Facts about torch read without importing it equal what torch reports."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from llmcli import torch_build
from llmcli.torch_build import TorchBuild, cpu_level, default_threads, multiplies_bfloat16, only_cpu
from llmcli.torch_build import torch_build as installed

ALL = "avx2 fma avx512f avx512vl avx512bw avx512dq"


@pytest.fixture
def linux_on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_build, "_is_linux_on_x86", lambda: True)
    for name in [name for name in os.environ if name.startswith(("OMP_", "GOMP_", "KMP_", "MKL_", "ATEN_"))]:
        monkeypatch.delenv(name)


def processor(folder: Path, features: str, name: str = "flags") -> Path:
    """A /proc/cpuinfo file with these CPU features."""
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\n{name}\t\t: {features}\nbugs\t\t: none\n\nprocessor\t: 1\n")
    return path


def test_the_build_equals_what_torch_reports() -> None:
    assert installed() == TorchBuild(str(torch.__version__), torch.version.cuda, bool(torch.version.hip))


def test_the_vector_level_equals_what_torch_reports() -> None:
    assert cpu_level() in (None, torch.backends.cpu.get_cpu_capability())


@pytest.mark.parametrize(
    ("features", "level"),
    [
        (f"fpu {ALL} amx_bf16", "AVX512"),
        (ALL.replace("avx512dq", ""), "AVX2"),
        ("avx avx2 fma", "AVX2"),
        ("avx avx2", None),
        ("", None),
    ],
)
def test_vector_levels_follow_from_cpu_features(
    features: str, level: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linux_on_x86: None
) -> None:
    listed = processor(tmp_path, features)
    assert cpu_level(listed) == level
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert cpu_level(listed) is None


@pytest.mark.parametrize(
    ("features", "name", "expected"),
    [
        (f"{ALL} avx512_bf16", "flags", True),
        (f"{ALL} amx_bf16", "flags", True),
        (ALL, "flags", False),
        ("fp asimd bf16 svebf16", "Features", True),
        ("fp asimd asimddp", "Features", False),
        (ALL, "something else", None),
    ],
)
def test_bfloat16_support_follows_from_cpu_features(
    features: str, name: str, expected: bool | None, tmp_path: Path
) -> None:
    assert multiplies_bfloat16(processor(tmp_path, features, name)) is expected


def cores(folder: Path, monkeypatch: pytest.MonkeyPatch, siblings: dict[int, str], allowed: set[int]) -> None:
    for cpu, listed in siblings.items():
        (folder / f"cpu{cpu}/topology").mkdir(parents=True)
        (folder / f"cpu{cpu}/topology/thread_siblings_list").write_text(f"{listed}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)


@pytest.mark.parametrize(
    ("siblings", "allowed", "expected"),
    [
        ({0: "0", 1: "1", 2: "2", 3: "3"}, {0, 1, 2, 3}, 4),
        ({0: "0", 1: "1", 2: "2", 3: "3"}, {3}, 1),
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, {0, 1, 2, 3}, None),
        ({0: "0-1", 1: "0-1"}, {0}, None),
        ({0: "0"}, {0, 1}, None),
    ],
)
def test_default_threads_follow_from_cores(
    siblings: dict[int, str],
    allowed: set[int],
    expected: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    linux_on_x86: None,
) -> None:
    cores(tmp_path, monkeypatch, siblings, allowed)
    assert default_threads(tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("OMP_NUM_THREADS", "1", 1),
        ("OMP_NUM_THREADS", "2", 2),
        ("OMP_NUM_THREADS", "8", None),
        ("OMP_NUM_THREADS", "2,1", None),
        ("OMP_NUM_THREADS", "0", None),
        ("MKL_NUM_THREADS", "1", None),
        ("OMP_THREAD_LIMIT", "1", None),
    ],
)
def test_default_threads_follow_from_settings(
    name: str,
    value: str,
    expected: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    linux_on_x86: None,
) -> None:
    cores(tmp_path, monkeypatch, {0: "0", 1: "1"}, {0, 1})
    monkeypatch.setenv(name, value)
    assert default_threads(tmp_path) == expected


@pytest.mark.parametrize(
    ("build", "driver", "expected"),
    [
        (TorchBuild("2.13.0+cpu", None, False), True, True),
        (TorchBuild("2.13.0+cu130", "13.0", False), False, True),
        (TorchBuild("2.13.0+cu130", "13.0", False), True, False),
        (TorchBuild("2.13.0+rocm7", None, True), False, False),
        (None, False, False),
    ],
)
def test_a_cuda_driver_allows_other_devices(
    build: TorchBuild | None, driver: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_build, "torch_build", lambda: build)
    monkeypatch.setattr(torch_build, "_has_cuda_driver", lambda: driver)
    monkeypatch.setattr(sys, "platform", "linux")
    assert only_cpu() is expected
    monkeypatch.setattr(sys, "platform", "darwin")
    assert only_cpu() is False


def test_only_cpu_agrees_with_torch() -> None:
    assert not (only_cpu() and torch.cuda.is_available())
