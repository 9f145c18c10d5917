"""`llm stop`: end a server."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcli.commands.shared.completion import SERVERS
from llmcli.views.terminal import terminal


def stop(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", autocompletion=SERVERS, help="A server that llm ps lists. Default: the only one."
        ),
    ] = None,
) -> None:
    """End a server once its replies are complete. When the command returns, the memory is free."""
    from llmcli.client.control import find_running, stop_server
    from llmcli.views.terminal.progress import progress_bar

    state = find_running(name)
    if state is None:
        terminal.note("No server is running.")
        return
    with progress_bar("Waiting for its replies", unit=""):
        stop_server(state)
    terminal.note(f"Stopped {state.name} (pid {state.pid}).")
