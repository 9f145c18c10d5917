"""Times of a reply, and its `Stats`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from llmcli.engine.events import Stats
from llmcli.engine.reply_builder import ReplyBuilder


class ReplyTimer:
    """Measures one reply; starts when it is created."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._prefill_s = self._first_at = self._last_at = 0.0

    def prompt_read(self) -> float:
        """Record that the prompt has been read; return the seconds since the start."""
        self._prefill_s = time.perf_counter() - self._started
        return self._prefill_s

    def token_chosen(self) -> None:
        """Record that a token has been chosen."""
        self._last_at = time.perf_counter()
        self._first_at = self._first_at or self._last_at

    def stats(
        self, reply: ReplyBuilder, *, cached: int, peak_memory_bytes: int, path: str, source: Mapping[str, Any]
    ) -> Stats:
        """The statistics of `reply`; `cached` of its prompt tokens were in the cache, `source` has further fields."""
        # A stop token was computed too, so every interval since the first token counts.
        decoded = reply.generated_tokens if reply.met_stop_token else reply.generated_tokens - 1
        seconds = self._last_at - self._first_at
        return Stats(
            prompt_tokens=reply.prompt_tokens,
            cached_tokens=cached,
            generated_tokens=reply.generated_tokens,
            ttft_s=self._first_at - self._started if self._first_at else None,
            prefill_tokens_per_s=(reply.prompt_tokens - cached) / self._prefill_s if self._prefill_s else None,
            decode_tokens_per_s=decoded / seconds if decoded > 0 and seconds > 0 else None,
            peak_memory_bytes=peak_memory_bytes,
            path=path,
            **source,
        )
