"""Torch's libraries are preloaded while the program starts, if the command will need them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
import threading

import pytest
from typer.main import get_group

from llmcli import cli
from llmcli.startup import preload_torch
from llmcli.startup.plain_import import OFF_SWITCH, imports_plainly
from llmcli.startup.preload_torch import load_torch_ahead

# Processes that import torch.
pytestmark = pytest.mark.slow

loading = pytest.mark.skipif(sys.platform != "linux" or imports_plainly(), reason="not there, or not with this torch")


@loading
def test_torch_works_with_preloaded_libraries() -> None:
    code = (
        "import sys, threading\nfrom pathlib import Path\n"
        "from llmcli.startup.preload_torch import load_torch_ahead\n"
        "load_torch_ahead()\n"
        "for thread in threading.enumerate()[1:]:\n    thread.join()\n"
        "print('torch' in sys.modules, 'libtorch_cpu' in Path('/proc/self/maps').read_text())\n"
        "import torch\n"
        "print((torch.ones(50, 50) @ torch.ones(50, 50)).sum().item())\n"
        "load_torch_ahead()\nprint(threading.active_count())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout == "False True\n125000.0\n1\n", result.stderr


def test_nothing_is_preloaded_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    for answer in (None, importlib.machinery.ModuleSpec("torch", None)):
        monkeypatch.setattr("importlib.util.find_spec", lambda _, answer=answer: answer)
        before = threading.active_count()
        load_torch_ahead.__wrapped__()
        assert threading.active_count() == before


@loading
@pytest.mark.parametrize("switch", ["0", "1"])
def test_the_switch_turns_preloading_off(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv(OFF_SWITCH, switch)
    begun: list[str] = []
    monkeypatch.setattr("threading.Thread.start", lambda thread: begun.append(thread.name))
    load_torch_ahead.__wrapped__()
    assert begun == ["torch's libraries"] * (switch == "0")


@pytest.mark.parametrize(
    ("arguments", "loads"),
    [
        (["generate", "hi"], True),
        (["inspect", "lens", "hi"], True),
        (["inspect", "tokens", "hi"], False),
        (["inspect", "cost"], False),
        (["inspect"], True),
        (["chat", "-h"], False),
        (["generate", "hi", "--help"], False),
        (["list"], False),
        (["--version"], False),
        ([], False),
    ],
)
def test_only_commands_that_load_a_model_preload_torch(
    arguments: list[str], loads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []
    monkeypatch.setattr(preload_torch, "load_torch_ahead", lambda: begun.append(True))
    preload_torch.begin(arguments)
    assert begun == [True] * loads


def test_the_listed_commands_exist() -> None:
    assert set(get_group(cli.app).commands) >= preload_torch._COMMANDS
    groups = {name: getattr(group, "commands", ()) for name, group in get_group(cli.app).commands.items()}
    assert all(command in groups[group] for group, command in preload_torch._WITHOUT_MODEL)
