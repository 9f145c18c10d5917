"""JSON forms of a reply and of its events; `llmcli/docs/json.md` documents every field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

from llmcli.views.terminal.to_json import plain, with_bytes

if TYPE_CHECKING:
    from llmcli.engine.events import AttentionRow, Event, Finish, Stats, Step


TokenBytes: TypeAlias = Callable[[int], bytes]
"""Maps a token id to its bytes."""


def step_json(step: Step, token_bytes: TokenBytes) -> dict[str, Any]:
    """One generated token."""
    return _plain(with_bytes(asdict(step), token_bytes))


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """`value` with null for numbers that JSON lacks: the log-probability -Infinity of a token that is ruled out."""
    result = plain(value)
    assert isinstance(result, dict)
    return result


def stats_json(stats: Stats) -> dict[str, object]:
    """Token counts, times and memory of the reply."""
    return asdict(stats)


def reply_json(
    *,
    model: str,
    prompt: str,
    prefill: str,
    seed: int | None,
    steps: Sequence[Step],
    finish: Finish,
    token_bytes: TokenBytes,
    prefill_thinking: str = "",
    suffix: str | None = None,
    conversation: str | None = None,
) -> dict[str, object]:
    """The whole reply. Its text is `prefill` and the texts of its tokens, its thinking likewise.

    For fill-in-the-middle, `prompt` is the text before the gap and `suffix` the text after it. `conversation` is the
    id of the conversation in which the reply is saved.
    """
    tokens = [step_json(step, token_bytes) for step in steps]
    if tokens:
        # Text held back until the end belongs to the last token.
        tokens[-1]["text"] += finish.text
        tokens[-1]["thinking"] += finish.thinking
    thinking = prefill_thinking + "".join(str(token["thinking"]) for token in tokens)
    return {
        "model": model,
        "prompt": prompt,
        **({} if suffix is None else {"suffix": suffix}),
        "prompt_tokens": finish.stats.prompt_tokens,
        "text": prefill + "".join(str(token["text"]) for token in tokens),
        "thinking": thinking or None,
        "finish_reason": finish.reason,
        "seed": seed,
        "tokens": tokens,
        "stats": stats_json(finish.stats),
        **({} if conversation is None else {"conversation": conversation}),
    }


def event_json(
    event: Event, *, model: str, seed: int | None, token_bytes: TokenBytes, conversation: str | None = None
) -> dict[str, object]:
    """One event of `--jsonl`."""
    from llmcli.engine.events import Prefill, Step

    if isinstance(event, Prefill):
        saved = {} if conversation is None else {"conversation": conversation}
        return {"event": "prefill", "model": model, "seed": seed, **saved, **asdict(event)}
    if isinstance(event, Step):
        return {"event": "step", **step_json(event, token_bytes)}
    return {
        "event": "finish",
        "finish_reason": event.reason,
        "text": event.text,
        "thinking": event.thinking,
        "stats": stats_json(event.stats),
    }


def attention_json(index: int, row: AttentionRow) -> dict[str, object]:
    """The `--jsonl` event with the attention of the token at `index`."""
    return {"event": "attention", "index": index, **_plain(asdict(row))}
