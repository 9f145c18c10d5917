"""Write a reply while it is generated: sanitized on a terminal, as exact bytes plus a newline into a pipe or file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from llmcli.views.terminal import terminal
from llmcli.views.terminal.sanitize import visible
from llmcli.views.terminal.unencodable import HANDLER

if TYPE_CHECKING:
    from llmcli.engine.events import Event, Step


class ThoughtWriter:
    """Writes a model's thinking to standard error as it is generated, sanitized; nothing with --quiet."""

    def __init__(self) -> None:
        self._is_open = False
        self._held = ""
        """Trailing white space, held back since the thinking may end here."""

    def write(self, text: str) -> None:
        """Append `text` to the thinking."""
        text = self._held + text
        shown = text.rstrip()
        self._held = text[len(shown) :]
        if not shown or sys.stderr is None or terminal.is_quiet():
            return
        self._is_open = True
        if terminal.shows_color(sys.stderr):
            from rich.text import Text

            terminal.console_err().print(Text(visible(shown), style="dim"), end="", soft_wrap=True)
        else:
            sys.stderr.write(visible(shown))
        sys.stderr.flush()

    def end(self) -> None:
        """End the thinking with a blank line, if any was written."""
        if self._is_open:
            sys.stderr.write("\n\n")
            sys.stderr.flush()
        self._is_open, self._held = False, ""


class ReplyWriter:
    """Writes a reply to standard output, flushed after every event, and its thinking to standard error, dim.

    On a terminal, control characters are made visible; elsewhere the text is written byte for byte. Either way it
    ends with a newline, unless the reply is empty.
    """

    def __init__(
        self,
        *,
        colored: bool = False,
        prefill: str = "",
        thought: str = "",
        newline: bool = True,
    ) -> None:
        """`colored` gives each token the color of its probability, if the terminal has colors.

        Without `newline`, no newline is added in a pipe or file.

        `thought` and `prefill` start the thinking and the reply, before anything is generated.
        """
        self._is_terminal = terminal.stdout().isatty()
        self._prefill, self._thought = prefill, thought
        self._console = terminal.console_out() if colored and self._is_terminal else None
        self._at_line_start = True
        self._newline = newline or self._is_terminal
        self._thoughts = ThoughtWriter()

    def show(self, event: Event) -> None:
        """Write what `event` adds to the reply; the last event ends the line."""
        from llmcli.engine.events import Prefill, Step

        if isinstance(event, Prefill):
            self._think(self._thought)
            self._write(self._prefill)
            return
        self._think(event.thinking)
        self._write(event.text, event if isinstance(event, Step) else None)
        if not isinstance(event, Step):
            self._end_line()

    def close(self) -> None:
        """Do nothing: no text is held back, however the reply ended."""

    def _think(self, text: str) -> None:
        self._thoughts.write(text)

    def _write(self, text: str, step: Step | None = None) -> None:
        if not text:
            return
        self._thoughts.end()
        self._at_line_start = text.endswith("\n")
        if self._console is not None and step is not None and step.logprob is not None:
            self._write_colored(text, step)
        elif self._is_terminal:
            sys.stdout.write(visible(text))
        else:
            # Bytes, so that neither the locale nor the platform's line ends change the model's text.
            sys.stdout.buffer.write(text.encode("utf-8", errors=HANDLER))
        sys.stdout.flush()

    def _end_line(self) -> None:
        self._thoughts.end()
        if not self._newline or self._at_line_start:
            return
        if self._is_terminal:
            sys.stdout.write("\n")
        else:
            sys.stdout.buffer.write(b"\n")
        sys.stdout.flush()

    def _write_colored(self, text: str, step: Step) -> None:
        from rich.text import Text

        from llmcli.views.widgets.token_table import step_style

        assert self._console is not None
        # soft_wrap: let the terminal wrap lines, since only it knows in which column the previous token ended.
        self._console.print(Text(visible(text), style=step_style(step)), end="", soft_wrap=True, highlight=False)
