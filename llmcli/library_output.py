"""Keep warnings and log lines of libraries off the user's terminal."""

from __future__ import annotations

import os
import warnings


def silence_libraries() -> None:
    """Drop Python warnings and torch's C++ log lines below errors, in a process that runs one of our commands.

    These warnings are about calls between libraries, so a user can do nothing about them; commands report what matters
    to a user themselves. Holds with `PYTHONWARNINGS=error` too, under which a library's deprecation warning would end
    the command. With `LLMCLI_DEBUG=1` warnings are shown.
    """
    if os.environ.get("LLMCLI_DEBUG") == "1":
        # Torch works without NumPy and this program does not need it.
        warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.simplefilter("ignore")
    # Libraries add their own filters on import, and those precede ours.
    warnings.showwarning = _drop


def _drop(*_: object, **__: object) -> None:
    """Show no warning."""
