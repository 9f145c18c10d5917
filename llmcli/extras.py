"""The command that installs an optional part of the program into the environment that runs it."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import sys


def install_command(extra: str) -> str:
    """A shell command that installs the packages of `extra`, as `constrain`, for the running interpreter."""
    # Environments made by uv have no pip inside.
    if importlib.util.find_spec("pip") is None and shutil.which("uv") is not None:
        return shlex.join(["uv", "pip", "install", "--python", sys.executable, f"llmcli[{extra}]"])
    return shlex.join([sys.executable, "-m", "pip", "install", f"llmcli[{extra}]"])
