"""A reply as it is written, drawn as Markdown: for terminals that can draw over lines and style them."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from llmcli.views import terminal
from llmcli.views.markdown_stream import MarkdownStream
from llmcli.views.open_lines import OpenLines

if TYPE_CHECKING:
    from llmcli.engine.events import Event
    from llmcli.views.markdown import Colours


class MarkdownReply:
    """Draws a reply on standard output, which must be a terminal that `terminal.can_draw`."""

    def __init__(self) -> None:
        self._lines = OpenLines(_write, lambda: terminal.size(sys.stdout))
        # Rich's name of a palette that no terminal has which is asked for its own.
        colours = cast("Colours", terminal.console_out().color_system)
        self._answer = MarkdownStream(self._lines, colours)

    def show(self, event: Event) -> None:
        """Draw what `event` adds to the reply."""
        from llmcli.engine.events import Finish, Prefill

        if not isinstance(event, Prefill):
            self._answer.push(event.text)
        if isinstance(event, Finish):
            self._answer.finish()

    def close(self) -> None:
        """Draw what there is, if the reply ended without an event; the terminal may be gone."""
        with suppress(OSError):
            self._answer.finish()


def _write(text: str) -> None:
    sys.stdout.buffer.write(text.encode(sys.stdout.encoding, errors="replace"))
    sys.stdout.flush()
