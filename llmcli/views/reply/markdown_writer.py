"""Draw a reply as Markdown while it is generated, on terminals that can redraw and style lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from rich.text import Text

from llmcli.views.reply.markdown_blocks import lines_of
from llmcli.views.reply.markdown_stream import MarkdownStream
from llmcli.views.terminal import terminal
from llmcli.views.terminal.live_region import OpenLines, rewraps
from llmcli.views.terminal.sanitize import visible
from llmcli.views.terminal.unencodable import HANDLER

if TYPE_CHECKING:
    from llmcli.engine.events import Event
    from llmcli.views.reply.markdown_blocks import Colors


class MarkdownReply:
    """Draws a reply on standard output; requires `terminal.can_draw()`.

    Thinking is shown dim, only its end if it is long; when it is over, one line with its length replaces it. With
    --quiet neither is shown.
    """

    def __init__(self, cursor: Callable[[], tuple[int, int] | None] = lambda: None) -> None:
        """`cursor` returns the row and column of the cursor on the screen, from 0; None if unknown."""
        self._lines = OpenLines(_write, lambda: terminal.size(sys.stdout), rewraps=rewraps(), cursor=cursor)
        # Rich also knows "windows", a palette that terminals reached here do not report.
        self._colors = cast("Colors", terminal.console_out().color_system)
        self._answer = MarkdownStream(self._lines, self._colors)
        self._thought, self._thought_tokens, self._thought_since = "", 0, 0.0

    def show(self, event: Event) -> None:
        """Draw what `event` adds to the reply."""
        from llmcli.engine.events import Finish, Prefill

        if isinstance(event, Prefill):
            return
        if event.thinking:
            self._think(event.thinking)
        if event.text.strip() or isinstance(event, Finish):
            self._end_thought()
        elif self._thought:
            self._thought_tokens += 1
        self._answer.push(event.text)
        if isinstance(event, Finish):
            self._answer.finish()

    def close(self) -> None:
        """Draw the rest of a reply that ended without a `Finish` event; the terminal may be gone."""
        with suppress(OSError):
            self._end_thought()
            self._answer.finish()

    def _think(self, text: str) -> None:
        if not self._thought:
            # Any answer text before this thinking is complete.
            self._answer.finish()
            self._thought_since = time.perf_counter()
        self._thought += text
        if not terminal.is_quiet() and self._lines.is_due():
            with self._lines.drawing():
                # Each line of text takes at least one line on the screen.
                end = "\n".join(self._thought.rstrip().split("\n")[-self._lines.rows - 1 :])
                self._lines.update([], self._dim(end))

    def _end_thought(self) -> None:
        if self._thought.strip() and not terminal.is_quiet():
            seconds = time.perf_counter() - self._thought_since
            line = f"Thought for {self._thought_tokens} tokens, {seconds:.1f} s; /thought shows it."
            self._lines.update([*self._dim(line), ""], [])
        self._thought, self._thought_tokens = "", 0

    def _dim(self, text: str) -> list[str]:
        return lines_of(Text(visible(text), style="dim"), self._lines.columns, self._colors)


def _write(text: str) -> None:
    # Write to the buffer: the text layer would flush at every line.
    sys.stdout.buffer.write(text.encode(sys.stdout.encoding, errors=HANDLER))
    sys.stdout.flush()
