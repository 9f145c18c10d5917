"""Options whose callbacks configure the terminal and the decoding of text; commands do not read their values."""

from dataclasses import dataclass
from typing import Annotated

from llmcli.commands.shared.options.flags import RUNNING, flag
from llmcli.commands.shared.prompt_input import configure_encoding
from llmcli.views.terminal import terminal


def _configure_color(color: bool | None) -> bool | None:
    if color is not None:
        terminal.configure(color)
    return color


def _configure_encoding(name: str | None) -> str | None:
    configure_encoding(name)
    return name


def _set_quiet(quiet: bool) -> bool:
    terminal.set_quiet(quiet)
    return quiet


@dataclass(frozen=True)
class TerminalOptions:
    """How text is read and written. The callbacks run before those of other options."""

    color: Annotated[
        bool | None,
        flag(
            "--color/--no-color",
            callback=_configure_color,
            is_eager=True,
            panel=RUNNING,
            help="Use colors. Default: on in a terminal, unless NO_COLOR is set.",
        ),
    ] = None
    quiet: Annotated[
        bool,
        flag(
            "--quiet",
            "-q",
            callback=_set_quiet,
            is_eager=True,
            panel=RUNNING,
            help="Write no notes or progress to stderr.",
        ),
    ] = False
    encoding: Annotated[
        str | None,
        flag(
            "--encoding",
            metavar="NAME",
            callback=_configure_encoding,
            is_eager=True,
            panel=RUNNING,
            help="Encoding of the text read, as in cp1252. Default: detected.",
        ),
    ] = None
