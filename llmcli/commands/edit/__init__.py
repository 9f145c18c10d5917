"""`llm edit`: the group of commands that change facts and manage such edits.

`llm edit PROMPT ...` is short for `llm edit fact PROMPT ...`: a first word that names no command is a prompt.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from llmcli.commands.edit.fact import fact
from llmcli.commands.edit.manage import list_edits, remove, show_edit
from llmcli.commands.edit.merge import merge

_DEFAULT = "fact"
_HELP_FLAGS = ("-h", "--help")


class _PromptOrCommand(TyperGroup):
    """A group with a default command, used if the first argument is not the name of a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in _HELP_FLAGS:
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        formatter.write_usage(ctx.command_path, "PROMPT --subject S --to T | COMMAND [ARGS]...")

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["PROMPT --subject S --to T | COMMAND [ARGS]..."]


app = typer.Typer(
    name="edit",
    cls=_PromptOrCommand,
    help="Change a fact in a model, test what else changed, and list, merge or delete such edits.",
    epilog='llm edit "The Eiffel Tower is located in the city of" --subject "Eiffel Tower" --to Rome; '
    "llm edit fact --help lists the options. llm generate -e NAME uses an edit.",
    no_args_is_help=True,
)
app.command(_DEFAULT)(fact)
app.command("list")(list_edits)
app.command("show")(show_edit)
app.command("merge")(merge)
app.command("rm")(remove)
# Its earlier name.
app.command("undo", hidden=True)(remove)
