"""`llm log`: the runs that `llm generate --log` has kept."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.shared.completion import RUNS
from llmcli.commands.shared.saved_conversations import (
    Format,
    print_conversation,
    readable_conversations,
    remove_conversations,
    remove_with_title,
)
from llmcli.errors import UsageError
from llmcli.text.chat_template.json_text import json_text
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.conversations.tree import Tree

app = typer.Typer(
    name="log",
    help="List, show and delete the runs that llm generate --log has kept.",
    invoke_without_command=True,
)

_HELP = "An id that `llm log` shows, or its beginning or end."


@app.callback()
def list_runs(
    context: typer.Context,
    count: Annotated[int, typer.Option("--count", "-n", min=1, metavar="N", help="How many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array of whole runs.")] = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="Print each whole run as a line of JSON.")] = False,
) -> None:
    """List the runs that llm generate --log has kept, the last first; or show or delete one."""
    if context.invoked_subcommand is not None:
        return
    from llmcli.conversations.export import as_json as run_json
    from llmcli.conversations.store import ConversationKind

    runs = list(islice(readable_conversations((ConversationKind.RUN,)), count))
    if as_jsonl:
        for _, tree in runs:
            terminal.write_line(json_text(run_json(tree)))
    elif as_json:
        terminal.write_line(json_text([run_json(tree) for _, tree in runs], indent=2))
    elif runs:
        terminal.write_line(_table(runs))
    else:
        terminal.note("No run has been kept. llm generate --log keeps one; log = true in config.toml keeps all.")


@app.command("show")
def show_run(
    run: Annotated[
        str | None, typer.Argument(metavar="[ID]", autocompletion=RUNS, help=f"{_HELP} Default: the last run.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Print a whole run: prompt, reply, model, settings and sizes, as Markdown or JSON."""
    from llmcli.conversations.store import ConversationKind, conversation_files, find_conversation

    kept = conversation_files((ConversationKind.RUN,))
    if run is None and not kept:
        raise UsageError("No run has been kept. llm generate --log keeps one.")
    path = kept[0] if run is None else find_conversation(run, (ConversationKind.RUN,))
    print_conversation(path, Format.JSON if as_json else Format.MARKDOWN, details=True)


@app.command("rm")
def remove_run(
    run: Annotated[str | None, typer.Argument(metavar="ID", autocompletion=RUNS, help=_HELP)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete all runs.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
) -> None:
    """Delete a run, or all."""
    from llmcli.conversations.store import ConversationKind, conversation_files, find_conversation

    if (run is None) != everything:
        raise UsageError("Give the ID of a run, or --all.")
    if run is None:
        paths = conversation_files((ConversationKind.RUN,))
        remove_conversations(paths, what=f"{len(paths)} runs" if len(paths) != 1 else "1 run", yes=yes)
        return
    path = find_conversation(run, (ConversationKind.RUN,))
    remove_with_title(path, yes=yes)


def _table(runs: list[tuple[Path, Tree]]) -> str:
    """ID, model, tokens of prompt and reply, and the prompt; on a terminal cut to its width."""
    from rich.cells import cell_len

    rows = [("ID", "MODEL", "TOKENS", "PROMPT")]
    for path, tree in runs:
        reply = tree.last_reply()
        tokens = f"{reply.prompt_tokens or '?'}+{len(reply.ids)}" if reply is not None else "-"
        model = tree.settings.model if tree.settings else ""
        rows.append((path.stem, model, tokens, " ".join(tree.title().split())))
    widths = [max(cell_len(row[column]) for row in rows) for column in range(3)]
    room = 80
    if terminal.is_terminal(sys.stdout):
        columns = terminal.size(sys.stdout).columns
        # Of a long name, a quarter of the width tells enough.
        widths[1] = min(widths[1], columns // 4)
        room = max(columns - sum(widths) - 6, 10)
    lines = []
    for name, model, tokens, prompt in rows:
        cells = (name.ljust(widths[0]), _cut(model, widths[1]), tokens.rjust(widths[2]), _cut(prompt, room))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _cut(text: str, width: int) -> str:
    """`text` in exactly `width` columns: padded, or cut with an ellipsis."""
    from rich.cells import cell_len, set_cell_size

    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"
