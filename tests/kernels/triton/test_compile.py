"""Every kernel compiles for several GPU generations, without a GPU, with the constants of real models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

import llmcli
from tests.support.kernels.triton_device import triton

ALL = {
    "embed", "linear", "attend", "combine", "feed_forward", "add_normed", "route", "experts_in", "experts_out",
    "unpack",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "models", "kernels"),
    [
        (
            90,
            ["llama", "gemma 2", "llama, int8 g128", "llama, int4 g128"],
            ALL - {"route", "experts_in", "experts_out"},
        ),
        (90, ["llama, int4 g32", "gpt-oss, int4 g32", "gpt-2, int8 g32", "llama, int8 by row"], ALL - {"add_normed"}),
        (80, ["gemma 2", "gpt-oss, int4 g128"], ALL),
    ],
)
def test_every_kernel_compiles(arch: int, models: list[str], kernels: set[str]) -> None:
    assert triton.__version__
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        # Triton's cache of kernels compiled from the same source, by the same version, with the same options.
        "TRITON_CACHE_DIR": str(platformdirs.user_cache_path("llmcli-tests") / "triton"),
        "PYTHONPATH": str(Path(llmcli.__file__).parents[1]),
    }
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.kernels.compiled_plans", str(arch), *models],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    print(run.stdout)
    compiled = {line.split(": ")[1] for line in run.stdout.splitlines()}
    assert compiled == kernels
