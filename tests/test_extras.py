from __future__ import annotations

import shlex
from unittest import mock

import pytest

from llmcli.extras import install_command


def test_the_command_is_one_of_the_running_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/my tools/python")
    assert install_command("bench") == "'/my tools/python' -m pip install 'llmcli[bench]'"


@pytest.mark.parametrize("uv", [None, "/usr/bin/uv"])
def test_without_pip_uv_installs_if_it_is_there(uv: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/my tools/python")
    with mock.patch("importlib.util.find_spec", return_value=None), mock.patch("shutil.which", return_value=uv):
        words = shlex.split(install_command("constrain"))
    assert words[0] == ("/my tools/python" if uv is None else "uv")
    assert words[-1] == "llmcli[constrain]" and "/my tools/python" in words
