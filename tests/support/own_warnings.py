"""Let Python warnings fail a test only if our code raises them.

A library chooses with `stacklevel` which line a warning points to, and often points to its caller, which is ours. A new
release that deprecates something would then fail our tests although every number is right. So each warning is
attributed to the module that calls `warnings.warn`. One of ours is an error; a library's is reported by pytest.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

_OURS = ("llmcli", "tests")


def attribute_warnings_to_callers() -> None:
    """Replace `warnings.warn` for the rest of the process."""
    warnings.warn = _warn


def _warn(
    message: str | Warning,
    category: type[Warning] | None = None,
    stacklevel: int = 1,
    source: Any = None,
    **_: object,
) -> None:
    """Like `warnings.warn`, but ignores `stacklevel`: the line is always that of the caller."""
    caller = sys._getframe(1)
    module = caller.f_globals.get("__name__", "")
    kind = type(message) if isinstance(message, Warning) else category or UserWarning
    if module.partition(".")[0] in _OURS:
        raise message if isinstance(message, Warning) else kind(message)
    registry = caller.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(
        message, kind, caller.f_code.co_filename, caller.f_lineno, module, registry=registry, source=source
    )
