"""`llm inspect`: one command for each way to look into a model; a table of contents."""

import typer

from llmcli.commands.inspect.tokens import tokens

app = typer.Typer(name="inspect", help="Look into a model: what it reads, thinks and knows.", no_args_is_help=True)
COMMANDS = {"tokens": tokens}
for name, command in COMMANDS.items():
    app.command(name)(command)
