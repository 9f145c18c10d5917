"""Read the user's messages from the keyboard."""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from llmcli.paths import data_folder
from llmcli.views.terminal import terminal
from llmcli.views.terminal.colors import GREEN
from llmcli.views.terminal.mode import around_stops, changed_mode

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.styles import BaseStyle

PROMPT = "> "
_FENCE = '"""'
# The terminal's answer to the question for the cursor's place, and how long to wait for it.
_CURSOR = re.compile(rb"\x1b\[(\d+);(\d+)R")
_LONGEST_ANSWER_S = 0.3


class Keyboard:
    """The keyboard of the terminal; if standard input is a pipe, it is opened as /dev/tty.

    A terminal that can redraw a line gets editing, history, completion and a toolbar; others get plain lines.
    """

    def __init__(self, stack: ExitStack) -> None:
        """`stack` closes the terminal if it is opened here."""
        self._tty: TextIO | None = None
        if terminal.is_terminal(sys.stdin):
            self._tty = sys.stdin
        else:
            with suppress(OSError):
                self._tty = stack.enter_context(_open_terminal())
        # The input line is drawn on stderr if standard output is a file.
        self._screen = next((each for each in (sys.stdout, sys.stderr) if terminal.can_redraw(each)), None)
        self._is_unechoed = False
        self._typed = b""
        """What was typed while the terminal was asked for the cursor."""

    def messages(self, completer: Completer, toolbar: Callable[[str], str]) -> Iterator[str]:
        """Yield each typed message until Ctrl-D; nothing without a keyboard.

        `toolbar` makes the toolbar from the text typed so far.
        """
        if self._tty is None:
            return
        if self._screen is None:
            read = self._plain_message
        else:
            session = self._session(completer, toolbar)
            colored = terminal.shows_color(self._screen)

            def read() -> str:
                return session.prompt([("class:mark", PROMPT)] if colored else PROMPT)

        while True:
            try:
                text = read()
            except KeyboardInterrupt:
                terminal.note("Ctrl-D or /exit leaves.")
                continue
            except EOFError:
                return
            yield unfenced(text)

    @contextmanager
    def without_echo(self) -> Iterator[None]:
        """During a reply or an inspection, do not echo typed text into it, and keep that text for the next message."""
        if self._tty is None:
            yield
            return
        import termios

        def change(settings: list[Any]) -> None:
            # NOFLSH: Ctrl-C ends the reply, not what was typed.
            settings[3] = settings[3] & ~termios.ECHO | termios.NOFLSH
            if self._screen is not None:
                # The mode in which the line editor will read it: by character, Enter not changed to a newline.
                settings[3] &= ~termios.ICANON
                settings[0] &= ~termios.ICRNL
                settings[6][termios.VMIN], settings[6][termios.VTIME] = 1, 0

        on, off = partial(self._bracket_pastes, True), partial(self._bracket_pastes, False)
        try:
            with changed_mode(self._tty.fileno(), change), around_stops(off, on):
                try:
                    on()
                    self._is_unechoed = True
                    yield
                finally:
                    self._is_unechoed = False
                    # The terminal may have been closed.
                    with suppress(OSError):
                        off()
        finally:
            self._keep_typed()

    def cursor(self) -> tuple[int, int] | None:
        """During a reply: ask the terminal for the row and the column of the cursor, from 0; None if it is silent."""
        if not self._is_unechoed or self._tty is None or self._screen is None:
            return None
        if os.environ.get("PROMPT_TOOLKIT_NO_CPR") == "1":
            return None
        self._screen.write("\x1b[6n")
        self._screen.flush()
        until = time.monotonic() + _LONGEST_ANSWER_S
        while (left := until - time.monotonic()) > 0 and select.select([self._tty], [], [], left)[0]:
            data = os.read(self._tty.fileno(), 1024)
            if not data:
                break
            self._typed += data
            found = _CURSOR.search(self._typed)
            if found is not None:
                self._typed = self._typed[: found.start()] + self._typed[found.end() :]
                return int(found[1]) - 1, int(found[2]) - 1
        return None

    def _keep_typed(self) -> None:
        """Give the line editor what was typed while the terminal was asked for the cursor."""
        if not self._typed or self._tty is None:
            return
        from prompt_toolkit.input import create_input
        from prompt_toolkit.input.typeahead import store_typeahead
        from prompt_toolkit.input.vt100_parser import Vt100Parser
        from prompt_toolkit.key_binding.key_processor import KeyPress

        keys: list[KeyPress] = []
        parser = Vt100Parser(keys.append)
        parser.feed(self._typed.decode("utf-8", errors="surrogateescape"))
        parser.flush()
        store_typeahead(create_input(self._tty), keys)
        self._typed = b""

    def _bracket_pastes(self, on: bool) -> None:
        """Turn bracketed paste on or off: the terminal then marks pasted text, which becomes one message."""
        if self._screen is not None:
            self._screen.write(f"\x1b[?2004{'h' if on else 'l'}")
            self._screen.flush()

    def _plain_message(self) -> str:
        assert self._tty is not None
        sys.stderr.write(PROMPT)
        sys.stderr.flush()
        text = self._line()
        while is_open_fence(text):
            text += "\n" + self._line()
        return text

    def _line(self) -> str:
        assert self._tty is not None
        line = self._tty.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    def _session(self, completer: Completer, toolbar: Callable[[str], str]) -> PromptSession[str]:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.application import get_app
        from prompt_toolkit.input import create_input
        from prompt_toolkit.output import ColorDepth, create_output

        colors = terminal.shows_color(self._screen)
        return PromptSession(
            history=_history(),
            input=create_input(self._tty),
            output=create_output(self._screen),
            color_depth=None if colors else ColorDepth.DEPTH_1_BIT,
            completer=completer,
            complete_while_typing=False,
            bottom_toolbar=lambda: toolbar(get_app().current_buffer.text),
            # A message can have several lines; the key bindings below end it.
            multiline=True,
            prompt_continuation="  ",
            key_bindings=_keys(),
            style=_style() if colors else None,
        )


def _open_terminal() -> TextIO:
    """Open the terminal in the encoding of the locale; bytes outside it become lone surrogates, as in arguments."""
    import locale

    return Path("/dev/tty").open(encoding=locale.getpreferredencoding(False), errors="surrogateescape")


def unfenced(text: str) -> str:
    '''Remove the `"""` around `text`, if there are any.'''
    inner = text.strip()
    if inner.startswith(_FENCE) and inner.endswith(_FENCE) and len(inner) >= 2 * len(_FENCE):
        return inner[len(_FENCE) : -len(_FENCE)].strip("\n")
    return text


def is_open_fence(text: str) -> bool:
    '''Whether `text` begins with `"""` and lacks the closing `"""`.'''
    inner = text.strip()
    return inner.startswith(_FENCE) and (len(inner) < 2 * len(_FENCE) or not inner.endswith(_FENCE))


def _style() -> BaseStyle:
    """The user's messages stand out from the model's by weight, and by the color of the mark before them."""
    from prompt_toolkit.styles import Style

    return Style.from_dict({"": "bold", "mark": GREEN, "bottom-toolbar": "nobold", "completion-menu": "nobold"})


def _keys() -> KeyBindings:
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import completion_is_selected, has_focus
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    # Not in a search or a completion menu, where Enter keeps its usual meaning.
    @keys.add("enter", filter=has_focus(DEFAULT_BUFFER) & ~completion_is_selected)
    def _end(event: KeyPressEvent) -> None:
        if is_open_fence(event.current_buffer.text):
            event.current_buffer.newline(copy_margin=False)
        else:
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys


def _history() -> History:
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = data_folder() / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without O_NONBLOCK, opening a FIFO would wait for a reader.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o600))
        path.chmod(0o600)
        return FileHistory(str(path))
    except OSError as error:
        terminal.note(f"Your messages will not be remembered: {path} cannot be written ({error.strerror}).")
        return InMemoryHistory()
