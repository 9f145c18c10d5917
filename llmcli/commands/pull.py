"""`llm pull`: download a model, or update one from the hub."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcli.commands.shared.completion import MODELS
from llmcli.views.terminal import terminal
from llmcli.views.terminal.progress import progress_bar


def pull(
    name: Annotated[
        str,
        typer.Argument(
            autocompletion=MODELS,
            help="owner/name, owner/name@revision, or one file of a GGUF repository as owner/name:Q4_K_M.",
        ),
    ] = "starter",
) -> None:
    """Download a model and print its folder or file. Without a name: the small starter model."""
    from llmcli.hub import resolve

    with progress_bar() as progress:
        path = str(resolve.pull(name, progress))
    terminal.write_line(path)
