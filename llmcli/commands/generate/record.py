"""`llm generate --record`: write a reply to a file with everything needed to reproduce it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import UsageError
from llmcli.files import replace_text
from llmcli.text.chat_template.json_text import json_text
from llmcli.views.terminal.progress import progress_bar
from llmcli.views.terminal.to_json import plain

if TYPE_CHECKING:
    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.commands.generate.source import ReplySource
    from llmcli.engine import Event, Finish, Step


class Recorder:
    """Writes the record of a run to a file atomically; does nothing without a file."""

    def __init__(self, path: Path | None) -> None:
        """Raise `UsageError` if `path` cannot be written to, before anything has been computed."""
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise UsageError(f"A run cannot be recorded in {path}: give a file in a folder that exists.")
        self._path = path
        self._steps: list[Step] = []

    def candidates(self, top: int) -> int:
        """The number of candidates that each step needs if `top` are shown: a record stores at least `CANDIDATES`."""
        if self._path is None:
            return top
        from llmcli.replay.run_record import CANDIDATES

        return max(top, CANDIDATES)

    def recording(self, events: Iterable[Event], top: int) -> Iterator[Event]:
        """Yield `events` with `top` candidates each, and keep the steps with all candidates for the record."""
        from llmcli.engine import Step

        for event in events:
            if self._path is not None and isinstance(event, Step):
                self._steps.append(event)
                event = replace(event, top=event.top[:top])
            yield event

    def write(self, source: ReplySource, finish: Finish) -> None:
        """Write the record of the run."""
        if self._path is not None:
            replace_text(self._path, json_text(plain(source.record(self._steps, finish))) + "\n")


def hashes(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of each of a model's files; progress goes to stderr."""
    from llmcli.checkpoint.file_hashes import file_hashes

    with progress_bar() as progress:
        return file_hashes(checkpoint, lambda done, total: progress("Hashing the model's files", done, total))
