"""Statistics of a reply in one line: tokens, times, speeds and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from llmcli.sizes import size

if TYPE_CHECKING:
    from llmcli.engine.batch.results import BatchStats
    from llmcli.engine.events import Stats


def stats_line(stats: Stats, *, where: str = "") -> Text:
    """Tokens, times, speeds, memory, the implementation that ran, and in which process if `where` says so."""
    cached = f" ({stats.cached_tokens} from cache)" if stats.cached_tokens else ""
    parts = [f"prompt {stats.prompt_tokens} tokens{cached}"]
    if stats.ttft_s is not None:
        parts.append(f"first token {stats.ttft_s:.2f} s")
    if stats.prefill_tokens_per_s is not None:
        parts.append(f"read {speed(stats.prefill_tokens_per_s)}")
    parts.append(f"wrote {stats.generated_tokens} tokens")
    if stats.decode_tokens_per_s is not None:
        parts.append(f"at {speed(stats.decode_tokens_per_s)}")
    if stats.acceptance_rate is not None:
        parts.append(
            f"{stats.accepted_tokens} of {stats.proposed_tokens} proposed accepted ({stats.acceptance_rate:.0%})"
        )
        parts += [] if stats.tokens_per_pass is None else [f"{stats.tokens_per_pass:.2f} tokens a pass"]
        parts += [] if stats.speculative_gain is None else [f"{stats.speculative_gain:.2f} x plain speed"]
    parts += [f"peak memory {size(stats.peak_memory_bytes)}", stats.path, *([where] if where else [])]
    return Text(" · ".join(parts).replace("tokens · at", "tokens at"), style="dim")


def batch_stats_line(stats: BatchStats) -> Text:
    """Number of replies, tokens, speeds, memory and the implementation that ran."""
    parts = [f"{stats.replies} replies", f"read {stats.prompt_tokens} tokens"]
    if stats.reading_s:
        parts[-1] += f" at {speed(stats.prompt_tokens / stats.reading_s)}"
    parts.append(f"wrote {stats.generated_tokens} tokens")
    if stats.writing_s:
        parts[-1] += f" at {speed(stats.generated_tokens / stats.writing_s)}"
    parts += [f"peak memory {size(stats.peak_memory_bytes)}", stats.path]
    return Text(" · ".join(parts), style="dim")


def speed(tokens_per_second: float) -> str:
    """Tokens per second with three digits."""
    return f"{tokens_per_second:.0f} tok/s" if tokens_per_second >= 100 else f"{tokens_per_second:.1f} tok/s"
