"""`llm rm`: delete a model that was pulled."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llmcli.commands.shared.completion import PULLED
from llmcli.sizes import size
from llmcli.views.terminal.sanitize import visible
from llmcli.views.terminal.terminal import is_terminal


def remove(
    name: Annotated[str, typer.Argument(autocompletion=PULLED, help="A name that `llm list` shows.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
) -> None:
    """Delete a model from the model store or the hub cache, never your own files."""
    from llmcli.hub import resolve

    model = resolve.removable(name)
    description = visible(f"{model.name} ({size(model.bytes)}, {model.path})")
    if not yes and is_terminal(sys.stdin):
        # Not `typer.confirm`: even with err=True it writes a space to stdout.
        typer.echo(f"Remove {description}? [y/N] ", err=True, nl=False)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            typer.echo("Nothing was removed.", err=True)
            raise typer.Exit(1)
    resolve.remove(model)
    typer.echo(f"Removed {description}.", err=True)
