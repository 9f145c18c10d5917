"""Torch's waiting threads sleep, unless the user has chosen otherwise, and there are no more than the C kernel's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmcli.bench.arms.subprocesses import environment
from llmcli.kernels.cpu import threads
from llmcli.startup.openmp import set_torch_threads, set_wait_policy, without_wait_policy
from tests.support.models.tiny_checkpoints import tiny_checkpoint

NAMES = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY", "KMP_LIBRARY")
OURS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}


def test_waiting_threads_sleep_unless_the_user_has_chosen() -> None:
    variables = {"PATH": "/bin", "OMP_WAIT_POLICY": ""}
    set_wait_policy(variables)
    assert variables == {"PATH": "/bin", "OMP_WAIT_POLICY": "", **OURS}
    assert without_wait_policy(variables) == {"PATH": "/bin", "OMP_WAIT_POLICY": ""}
    for name in NAMES:
        chosen = {name: "7"}
        set_wait_policy(chosen)
        assert chosen == without_wait_policy(chosen) == {name: "7"}


@pytest.mark.slow  # a process that imports torch
@pytest.mark.parametrize(
    ("user", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "active"}, "30000000000")]
)
def test_the_library_that_torch_loads_reads_the_policy(tmp_path: Path, user: dict[str, str], spins: str) -> None:
    model = tiny_checkpoint(tmp_path / "model", "llama")
    inherited = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-m", "llmcli", "inspect", "lens", "one two", "-m", str(model)],
        env={**inherited, **user, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if not shown:
        pytest.skip("this torch was not built with GNU's OpenMP library")
    assert set(shown) == {spins}


def test_measured_programs_do_not_inherit_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    set_wait_policy(os.environ)
    try:
        assert not set(NAMES) & environment(1).keys()
    finally:
        for name in OURS:
            monkeypatch.delenv(name)
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    assert environment(1)["GOMP_SPINCOUNT"] == "77"


def test_torch_has_no_more_threads_than_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "default_threads", lambda: 3)
    try:
        for had, asked, expected in ((5, None, 3), (2, None, 2), (2, 4, 4)):
            torch.set_num_threads(had)
            set_torch_threads(asked)
            assert torch.get_num_threads() == expected
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        torch.set_num_threads(5)
        set_torch_threads(None)
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)
