"""The JSON twins of a reply; `llmcli/docs/json.md` documents every field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

from llmcli.views.terminal.to_json import plain, with_bytes

if TYPE_CHECKING:
    from llmcli.engine.events import AttentionRow, Event, Finish, Stats, Step


TokenBytes: TypeAlias = Callable[[int], bytes]
"""The bytes a token stands for."""


def step_json(step: Step, token_bytes: TokenBytes) -> dict[str, Any]:
    """One generated token."""
    return _plain(with_bytes(asdict(step), token_bytes))


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """The same without what JSON has not: the log-probability of a token that is ruled out is null, not -Infinity."""
    result = plain(value)
    assert isinstance(result, dict)
    return result


def stats_json(stats: Stats) -> dict[str, object]:
    """What the reply cost."""
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
) -> dict[str, object]:
    """The whole reply; the texts of its tokens, joined after `prefill`, are its text, and its thoughts likewise.

    `suffix` is what comes behind a gap that the reply fills, and `prompt` what comes before it.
    """
    tokens = [step_json(step, token_bytes) for step in steps]
    if tokens:
        # Text released at the very end belongs to the token that completed it.
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
    }


def event_json(event: Event, *, model: str, seed: int | None, token_bytes: TokenBytes) -> dict[str, object]:
    """One event of `--jsonl`."""
    from llmcli.engine.events import Prefill, Step

    if isinstance(event, Prefill):
        return {"event": "prefill", "model": model, "seed": seed, **asdict(event)}
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
    """The event of `--jsonl` that brings the attention of the token of that index."""
    return {"event": "attention", "index": index, **_plain(asdict(row))}
