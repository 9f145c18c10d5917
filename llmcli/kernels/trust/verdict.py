"""The result of comparing a kernel with the readable model, kept in a small file beside the compiled kernels."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from llmcli.files import replace_text
from llmcli.kernels.trust.identity import Kernel

SCHEMA = "llmcli.kernel-check/1"
ASK = "LLMCLI_CHECK_KERNELS"
"""The environment variable that, set to 1, repeats the check of kernels and ignores kept verdicts."""

# Longer files cannot be verdicts.
_MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class Verdict:
    """The result of a kernel's check on this machine."""

    fault: str = ""
    """How its logits differed from the readable model's, or the error it raised; empty: it passed."""
    failure: str = ""
    """The last error that the kernel, although it passed the check, raised in the first pass of a model."""


_of_this_process: dict[Path, Verdict] = {}


def kept_verdict(kernel: Kernel) -> Verdict | None:
    """The verdict of an earlier check; None if there is none, or its file is damaged or belongs to another kernel."""
    path = kernel.verdict_file
    if path in _of_this_process:
        return _of_this_process[path]
    if os.environ.get(ASK) == "1":
        return None
    verdict = _read(path, kernel)
    if verdict is not None:
        _of_this_process[path] = verdict
    return verdict


def keep_verdict(kernel: Kernel, verdict: Verdict) -> None:
    """Keep a verdict for this process and, if the folder is writable, for later ones."""
    _of_this_process[kernel.verdict_file] = verdict
    content = {"schema": SCHEMA, "kernel": kernel.name, "key": kernel.key, **asdict(verdict)}
    with suppress(OSError):
        replace_text(kernel.verdict_file, json.dumps(content, indent=1) + "\n")


def forget_verdicts() -> None:
    """Drop the verdicts kept in this process; for tests."""
    _of_this_process.clear()


def _read(path: Path, kernel: Kernel) -> Verdict | None:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or (content.get("schema"), content.get("key")) != (SCHEMA, kernel.key):
        return None
    fault, failure = content.get("fault"), content.get("failure")
    return Verdict(fault, failure) if isinstance(fault, str) and isinstance(failure, str) else None
