"""Commands give the same output with torch imported plainly as with parts of it deferred."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmcli.startup.plain_import import OFF_SWITCH, TESTED_VERSIONS, imports_plainly
from tests.support.models.tiny_checkpoints import tiny_checkpoint

# Processes that import torch.
pytestmark = pytest.mark.slow

COMMANDS = {
    "generate": ("generate", "hi", "-n", "3", "--temperature", "0"),
    "generate sampled": ("generate", "hi", "-n", "3", "--seed", "7", "--top", "2"),
    "lens": ("inspect", "lens", "hi"),
    "score": ("score", "Hello there."),
    "batch": ("batch", "-", "-n", "2", "--seed", "1"),
}


def test_the_tested_releases_are_the_ends_of_the_supported_range() -> None:
    declared = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(r'"torch>=(\d+\.\d+),<(\d+)\.(\d+)"', declared)
    assert match is not None
    assert (match[1], f"{match[2]}.{int(match[3]) - 1}") == (TESTED_VERSIONS[0], TESTED_VERSIONS[-1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("plain") / "model", "llama")


def llm(*arguments: str, switch: str) -> tuple[str, set[str]]:
    """The output of a command, and the modules that it imported."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "llmcli", *arguments],
        input='{"prompt": "Hello"}\n', capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, OFF_SWITCH: switch},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    return result.stdout, {line.rpartition("|")[2].strip() for line in lines}


@pytest.mark.parametrize(
    "command", [pytest.param(each, marks=[pytest.mark.slow] * (each != "lens")) for each in COMMANDS]
)
def test_plain_import_gives_the_same_output(command: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OFF_SWITCH, raising=False)
    arguments = (*COMMANDS[command], "-m", str(model))
    plain, all_of_torch = llm(*arguments, switch="1")
    deferred, some_of_torch = llm(*arguments, switch="0")
    assert plain == deferred and plain.strip()
    put_off = {"torch._refs", "torch._meta_registrations", "torch.distributions"}
    assert put_off <= all_of_torch
    assert bool(put_off & some_of_torch) is imports_plainly()
