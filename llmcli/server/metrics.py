"""`GET /metrics`: counts and times of replies as Prometheus text, under names like those of llama.cpp.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping

from llmcli.engine.events import Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """How many values were at most each of several bounds, and their sum."""

    def __init__(self, *bounds: float) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def lines(self, name: str) -> Iterator[str]:
        """The histogram in Prometheus' format."""
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum}"
        yield f"{name}_count {total}"


class ReplyCounts:
    """Sums over all replies since the start."""

    def __init__(self) -> None:
        self.replies = self.prompt_tokens = self.cached_tokens = self.generated_tokens = 0
        self.ttft = Histogram(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
        self.each_token = Histogram(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)

    def add(self, stats: Stats) -> None:
        """Count a reply."""
        self.replies += 1
        self.prompt_tokens += stats.prompt_tokens
        self.cached_tokens += stats.cached_tokens
        self.generated_tokens += stats.generated_tokens
        if stats.ttft_s is not None:
            self.ttft.add(stats.ttft_s)
        if stats.decode_tokens_per_s:
            self.each_token.add(1 / stats.decode_tokens_per_s, stats.generated_tokens)

    def text(self, load: Mapping[str, int], cache_bytes: int) -> str:
        """All of them; `load` is `Scheduler.load`."""
        lines = []
        for name, kind, help_, value in (
            ("replies_total", "counter", "Replies that have ended.", self.replies),
            ("prompt_tokens_total", "counter", "Tokens of all prompts.", self.prompt_tokens),
            ("cached_tokens_total", "counter", "Those that were not read again.", self.cached_tokens),
            ("tokens_predicted_total", "counter", "Tokens that were generated.", self.generated_tokens),
            ("requests_processing", "gauge", "Requests that are computed.", load["running"]),
            ("requests_deferred", "gauge", "Requests that wait.", load["waiting"]),
            ("kv_cache_bytes", "gauge", "Memory of the keys and values that are kept.", cache_bytes),
        ):
            lines += [f"# HELP llmcli:{name} {help_}", f"# TYPE llmcli:{name} {kind}", f"llmcli:{name} {value}"]
        for name, help_, histogram in (
            ("ttft_seconds", "Time to the first token.", self.ttft),
            ("token_seconds", "Time of each further token.", self.each_token),
        ):
            lines += [f"# HELP llmcli:{name} {help_}", f"# TYPE llmcli:{name} histogram"]
            lines += histogram.lines(f"llmcli:{name}")
        return "\n".join([*lines, ""])
