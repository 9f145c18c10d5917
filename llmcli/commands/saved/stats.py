"""`llm stats`: how many tokens were read and written, by day and model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.shared.saved_conversations import readable_conversations
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.conversations.token_counts import CountedReply


def stats(
    count: Annotated[int, typer.Option("--count", "-n", min=1, metavar="N", help="How many days.")] = 30,
    log: Annotated[
        list[Path] | None,
        typer.Option("--log", metavar="FILE", help="Count the requests in this log of llm serve too; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a table.")] = False,
) -> None:
    """Count the tokens of saved chats and kept runs by day and model, the latest day first."""
    from llmcli.conversations.token_counts import by_day, by_model, in_total
    from llmcli.views.reports.token_counts import counts_json, counts_table

    replies = [*_saved(), *(reply for path in log or () for reply in _logged(path))]
    days = by_day(replies)
    latest = list(dict.fromkeys(each.day for each in days))[:count]
    days = [each for each in days if each.day in latest]
    if as_json:
        terminal.write_line(counts_json(days, by_model(replies), in_total(replies)))
    elif replies:
        terminal.write_line(counts_table(days, by_model(replies), in_total(replies)))
    else:
        terminal.note("No reply has been saved: llm chat saves its replies, llm generate those of --log.")


def _logged(path: Path) -> list[CountedReply]:
    from llmcli.conversations.token_counts import replies_in_log

    try:
        with path.open("rb") as file:
            return list(replies_in_log(file))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None


def _saved() -> list[CountedReply]:
    from llmcli.conversations.store import ANY
    from llmcli.conversations.token_counts import replies_of

    return [reply for _, tree in readable_conversations(ANY) for reply in replies_of(tree)]
