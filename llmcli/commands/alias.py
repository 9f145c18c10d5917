"""`llm alias`: short names for models."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcli.commands.shared.completion import ALIASES, MODELS
from llmcli.errors import UsageError
from llmcli.text.chat_template.json_text import json_text
from llmcli.views.terminal import terminal

app = typer.Typer(
    name="alias", help="Give models short names, which work wherever a model is named.", no_args_is_help=True
)


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="The short name.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", autocompletion=MODELS, help="The model, as -m takes it.")],
) -> None:
    """Make a short name for a model, or change what it stands for."""
    from llmcli.hub.aliases import aliases_path, check_alias, set_alias
    from llmcli.hub.resolve import missing_model

    check_alias(name, model)
    missing = missing_model(model)
    target, aside = set_alias(name, model)
    if aside is not None:
        terminal.note(f"{aliases_path()} could not be read as aliases; it was renamed to {aside}.")
    terminal.note(f"{name} is {target}.")
    if missing is not None:
        terminal.note(missing)


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False) -> None:
    """List all aliases and their models."""
    from llmcli.hub.aliases import aliases

    damaged = False
    try:
        known = aliases()
    except UsageError as error:
        terminal.note(str(error))
        known, damaged = {}, True
    if as_json:
        terminal.write_line(json_text(known))
        return
    if not (known or damaged):
        terminal.note("There are no aliases; `llm alias set NAME MODEL` makes one.")
    width = max(map(len, known), default=0)
    for name, model in known.items():
        terminal.write_line(f"{name.ljust(width)}  {model}")


@app.command("rm")
def remove(name: Annotated[str, typer.Argument(autocompletion=ALIASES, help="The short name.")]) -> None:
    """Delete an alias, not the model."""
    from llmcli.hub.aliases import remove_alias

    remove_alias(name)
    terminal.note(f"Alias {name} is deleted.")
