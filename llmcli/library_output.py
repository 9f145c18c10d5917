"""Keeps what libraries print for their own callers off the user's terminal."""

from __future__ import annotations

import os
import warnings


def silence_libraries() -> None:
    """Drop Python warnings and torch's C++ log lines below errors, for a process that is one of our commands.

    They describe calls between libraries, which a user can do nothing about; what matters to a user, commands say
    themselves. Also with `PYTHONWARNINGS=error`, under which a library's deprecation would end the command. With
    `LLMCLI_DEBUG=1` warnings are shown.
    """
    if os.environ.get("LLMCLI_DEBUG") == "1":
        # Torch runs without NumPy, and so does this program: nothing is missing.
        warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.simplefilter("ignore")
    # Libraries add filters of their own as they are imported, and those come first.
    warnings.showwarning = _drop


def _drop(*_: object, **__: object) -> None:
    """Show nothing."""
