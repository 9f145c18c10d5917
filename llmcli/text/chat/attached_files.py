"""Files in a user's message: each has its name on a line, then its text between fences, before what the user wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence

_FENCES = re.compile(r"^ {0,3}(`{3,})", re.MULTILINE)
_BLOCK = re.compile(r"(?P<name>[^\n]+)\n(?P<fence>`{3,})\n.*?\n(?P=fence)\n\n", re.DOTALL)


def with_files(text: str, files: Sequence[tuple[str, str]]) -> str:
    """A message: the names and contents of `files`, then `text`, which may be empty.

    The fence of a file is longer than any in its text, so that the text cannot end it.
    """
    return "\n\n".join([*(_block(name, content) for name, content in files), *([text] if text else [])])


def without_files(message: str) -> str:
    """The text of a message without the files that `with_files` put before it; the message if there is nothing else."""
    at = 0
    while (block := _BLOCK.match(message, at)) is not None:
        at = block.end()
    return message[at:]


def _block(name: str, content: str) -> str:
    fence = "`" * (1 + max(map(len, _FENCES.findall(content)), default=2))
    return f"{' '.join(name.split())}\n{fence}\n{content}\n{fence}"
