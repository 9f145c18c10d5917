"""Count the tokens of replies by day and model: of those that are saved, and of those in the log of a server."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from llmcli.conversations.tree import Tree


@dataclass(frozen=True)
class CountedReply:
    """One reply for the sums, or those of one request."""

    day: str
    """The day in the local time zone, as in 2026-12-01."""
    model: str
    prompt_tokens: int
    """Tokens of the whole prompt; 0 if they are not known."""
    generated_tokens: int
    replies: int = 1


@dataclass(frozen=True)
class TokenCount:
    """The sums of replies with one model, on one day or on all days."""

    day: str | None
    model: str | None
    replies: int
    prompt_tokens: int
    generated_tokens: int


def replies_of(tree: Tree) -> Iterator[CountedReply]:
    """The replies of a conversation, those on other branches too."""
    for node in tree.nodes.values():
        if node.is_reply:
            yield CountedReply(local_day(node.time), node.model or "", node.prompt_tokens, len(node.ids))


def replies_in_log(lines: Iterable[bytes]) -> Iterator[CountedReply]:
    """The replies in the log of a server that no command has saved; lines that are not of such a log are skipped."""
    for line in lines:
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            value = json.loads(line)
            if value["replies"] and not value["saved"]:
                sizes = (value["prompt_tokens"], value["generated_tokens"], value["replies"])
                yield CountedReply(local_day(str(value["time"])), str(value["model"]), *map(int, sizes))


def local_day(time: str) -> str:
    """The day of an ISO 8601 time in the local time zone; the first ten characters if it is no such time."""
    try:
        return datetime.fromisoformat(time).astimezone().date().isoformat()
    except (ValueError, OverflowError, OSError):
        return time[:10]


def by_day(replies: Iterable[CountedReply]) -> list[TokenCount]:
    """Sums for each day and model, the latest day first, and in a day the model that generated most first."""
    counts = _sums(((reply.day, reply.model), reply) for reply in replies)
    ordered = sorted(counts, key=lambda count: (-count.generated_tokens, count.model or ""))
    return sorted(ordered, key=lambda count: count.day or "", reverse=True)


def by_model(replies: Iterable[CountedReply]) -> list[TokenCount]:
    """Sums for each model over all days, the model that generated most first."""
    counts = _sums(((None, reply.model), reply) for reply in replies)
    return sorted(counts, key=lambda count: (-count.generated_tokens, count.model or ""))


def in_total(replies: Iterable[CountedReply]) -> TokenCount:
    """The sum of all replies."""
    counts = _sums(((None, None), reply) for reply in replies)
    return counts[0] if counts else TokenCount(None, None, 0, 0, 0)


def _sums(replies: Iterable[tuple[tuple[str | None, str | None], CountedReply]]) -> list[TokenCount]:
    sums: dict[tuple[str | None, str | None], TokenCount] = {}
    for key, reply in replies:
        before = sums.get(key, TokenCount(*key, 0, 0, 0))
        sums[key] = TokenCount(
            *key,
            before.replies + reply.replies,
            before.prompt_tokens + reply.prompt_tokens,
            before.generated_tokens + reply.generated_tokens,
        )
    return list(sums.values())
