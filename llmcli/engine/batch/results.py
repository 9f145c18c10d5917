"""What a batch gives: a reply to each request, and totals."""

from __future__ import annotations

from dataclasses import dataclass

from llmcli.engine.events import FinishReason


@dataclass(frozen=True)
class BatchReply:
    """The reply to a request. `str(reply)` is its text."""

    text: str
    thinking: str
    prompt_tokens: int
    generated_tokens: int
    finish_reason: FinishReason

    def __str__(self) -> str:
        return self.text


@dataclass
class BatchStats:
    """Totals of the replies so far: tokens of prompts and replies, and the seconds of prefill and decoding."""

    path: str
    replies: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    reading_s: float = 0.0
    writing_s: float = 0.0
    peak_memory_bytes: int = 0
