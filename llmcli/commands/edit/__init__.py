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
from llmcli.errors import UsageError

_DEFAULT = "fact"
_HELP_FLAGS = ("-h", "--help")


class _PromptOrCommand(TyperGroup):
    """A group with a default command, used if the first argument is not the name of a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, after the name of the default command if they begin with a prompt.

        Raises:
            UsageError: they begin with the misspelled name of a command.
        """
        if args and args[0] not in self.commands and args[0] not in _HELP_FLAGS:
            if not any(arg.startswith(("--subject", *_HELP_FLAGS)) for arg in args):
                self._refuse_misspelled(args[0])
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)

    def _refuse_misspelled(self, name: str) -> None:
        from difflib import get_close_matches

        listed = [known for known, command in self.commands.items() if not command.hidden]
        if near := get_close_matches(name, listed, 1):
            raise UsageError(f"There is no command {name!r}; did you mean llm edit {near[0]}?")

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
