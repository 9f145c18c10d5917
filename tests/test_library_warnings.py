"""Library warnings neither fail a test nor reach a user; warnings of our code do."""

from __future__ import annotations

import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest

from llmcli.library_output import silence_libraries

_LIBRARY = """
import warnings

def deprecated(level):
    warnings.warn("use something else", FutureWarning, stacklevel=level)
"""


@pytest.fixture
def library() -> types.ModuleType:
    """A foreign module whose warning points at its caller."""
    module = types.ModuleType("some_library")
    exec(compile(_LIBRARY, "/site-packages/some_library.py", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("level", [1, 2, 3])
def test_library_warnings_do_not_fail_tests(library: types.ModuleType, level: int) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        library.deprecated(level)
    assert [(warning.category, warning.filename) for warning in seen] == [
        (FutureWarning, "/site-packages/some_library.py")
    ]


@pytest.mark.parametrize("kind", [UserWarning, DeprecationWarning, FutureWarning])
def test_warnings_of_our_code_are_errors(kind: type[Warning]) -> None:
    with pytest.raises(kind, match="ours"):
        warnings.warn("ours", kind, stacklevel=2)
    with pytest.raises(kind, match="ours"):
        warnings.warn(kind("ours"), stacklevel=1)


@pytest.mark.parametrize("flags", [[], ["-W", "error"], ["-W", "always"]])
def test_library_warnings_are_hidden_from_users(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "some_library.py").write_text(_LIBRARY)
    code = (
        "import sys, warnings, some_library\n"
        "from llmcli import __main__; from llmcli.commands.shared import settings_file\n"
        "def look():\n"
        "    warnings.simplefilter('default', FutureWarning)  # as libraries do while they are imported\n"
        "    some_library.deprecated(2); print('answer'); return {}\n"
        "settings_file.default_map = lambda *_: look()\n"
        "sys.argv = ['llm', 'alias', 'list']; __main__.run()"
    )
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path), "PATH": ""},
    )
    assert (done.returncode, done.stdout) == (0, "answer\n")
    assert done.stderr.startswith("There are no aliases") and done.stderr.count("\n") == 1


def test_library_warnings_are_shown_in_debug_mode(monkeypatch: pytest.MonkeyPatch, library: types.ModuleType) -> None:
    monkeypatch.setenv("LLMCLI_DEBUG", "1")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        silence_libraries()
        library.deprecated(1)
    assert len(seen) == 1
