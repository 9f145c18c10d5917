"""The file that `llm batch --out` writes: a line of JSON for each result, in order, so that a run can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.commands.batch.input import Id
from llmcli.errors import LlmcliError, UsageError
from llmcli.text.chat_template.json_text import json_text
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.engine.batch.results import BatchReply


class ResultsFile:
    """A file of results, to which only whole lines are appended, by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Open or create it.

        Raises:
            UsageError: it is not a regular file, or cannot be written.
            LlmcliError: another process is writing to it.
        """
        self.path = path
        if path.exists() and not path.is_file():
            raise UsageError(f"Results cannot be written to {path}: it is not a regular file.")
        try:
            self._file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666), "a+")
        except OSError as error:
            raise UsageError(f"Results cannot be written to {path}: {error.strerror}.") from None
        try:
            self._lock()
        except LlmcliError:
            self._file.close()
            raise

    def resume(self, marks: Sequence[str]) -> tuple[int, int]:
        """Check the results already in the file; return their number and how many are errors.

        `marks` are those of the input lines. An incomplete last line is cut off, with a note.

        Raises:
            UsageError: the file has something other than results of this input.
        """
        data = self.path.read_bytes()
        whole, end, torn = data.rpartition(b"\n")
        whole += end
        lines = whole.split(b"\n")[:-1]
        errors = 0
        for number, line in enumerate(lines):
            found = _object(line)
            if number >= len(marks) or (found.get("index"), found.get("input")) != (number, marks[number]):
                raise UsageError(
                    f"{self.path}, line {number + 1}, is not the result of line {number + 1} of this input with this "
                    "model and these settings. Give another --out, or remove the file."
                )
            errors += "error" in found
        if torn:
            # Only after checking that the file has results.
            os.ftruncate(self._file.fileno(), len(whole))
            terminal.note(f"The last line of {self.path} was not written to its end and was cut off.")
        return len(lines), errors

    def append(self, line: str) -> None:
        """Write one line."""
        data = memoryview(f"{line}\n".encode("utf-8", errors="replace"))
        while data:
            data = data[self._file.write(data) or 0 :]

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            # So that the results survive even a power cut.
            os.fsync(self._file.fileno())

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            return
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LlmcliError(f"{self.path} is being written by another llm batch.") from None
        except OSError:
            return  # a file system without locks


def result_line(
    model: str, index: int, mark: str, name: Id, seed: int | None, outcome: BatchReply | LlmcliError
) -> str:
    """Format the result of input line `index`, a reply or an error, as a line of JSON."""
    result: dict[str, object] = {"index": index, "id": name, "input": mark}
    if isinstance(outcome, LlmcliError):
        return json_text(result | {"error": str(outcome)})
    return json_text(
        result
        | {
            "model": model,
            "prompt_tokens": outcome.prompt_tokens,
            "generated_tokens": outcome.generated_tokens,
            "text": outcome.text,
            "thinking": outcome.thinking or None,
            "finish_reason": outcome.finish_reason,
            "seed": seed,
        }
    )


def _object(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
