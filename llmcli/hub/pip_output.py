"""Find the line in pip's output that says why it failed."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")
_BROKEN_CONNECTION = re.compile(r"connection broken by '(.+)': /")
_INNERMOST = re.compile(r"[\"'\]]?\)*$")
_LIMIT = 300


def without_credentials(text: str) -> str:
    """`text` without the `user:password@` of URLs."""
    return _CREDENTIALS.sub("", text)


def reason_for_failure(output: str, exit_code: int) -> str:
    """The most informative line of pip's `output`, without credentials or control characters, at most 300 characters.

    Connection errors appear only in warnings about retries; the final errors then only say that nothing was found. So
    the warnings have precedence.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    reason = f"exit code {exit_code}"
    if lines:
        reason = lines[-1]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    if errors:
        telling = [line for line in errors if not line.startswith("No matching distribution")]
        reason = (telling or errors)[-1]
    broken = [match[1] for line in lines if (match := _BROKEN_CONNECTION.search(line))]
    if broken:
        # "NewConnectionError('<...HTTPSConnection object at 0x7f>: Failed to ...: [Errno -2] Name or ...')"
        reason = _INNERMOST.sub(
            "", re.sub(r"^.*(?:object at 0x[0-9a-f]+>|HTTPS?Connection\([^)]*\)): ", "", broken[-1])
        )
    printable = "".join(character if character.isprintable() else " " for character in without_credentials(reason))
    printable = printable.strip()
    return printable if len(printable) <= _LIMIT else printable[: _LIMIT - 1] + "…"
