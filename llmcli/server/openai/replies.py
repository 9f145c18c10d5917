"""Parts that the replies of several endpoints share."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from llmcli import __version__
from llmcli.engine.events import Candidate, Finish, FinishReason, Prefill, Stats, Step
from llmcli.engine.logprobs import TokenLogprobs
from llmcli.text.tokenizer import Tokenizer

TokenValues: TypeAlias = Step | TokenLogprobs
"""The log-probability of a token, and its most probable alternatives."""
FINGERPRINT = f"llmcli-{__version__}"
_REASONS: dict[FinishReason, str] = {
    "stop": "stop",
    "stop_string": "stop",
    "length": "length",
    "context": "length",
    "interrupted": "abort",
}
# JSON has no -inf; vLLM writes the same number.
_LEAST_LOGPROB = -9999.0


def new_id(kind: str) -> str:
    """An id for a reply, as chatcmpl-6a1c..."""
    return f"{kind}-{secrets.token_hex(12)}"


def finish_reason(reason: FinishReason) -> str:
    """OpenAI's word for the end of a reply."""
    return _REASONS[reason]


def usage(finishes: Iterable[Stats], reasoning_tokens: int | None = None) -> dict[str, object]:
    """The tokens of one or several replies."""
    stats = list(finishes)
    prompt, written = sum(each.prompt_tokens for each in stats), sum(each.generated_tokens for each in stats)
    value: dict[str, object] = {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": sum(each.cached_tokens for each in stats)},
    }
    if reasoning_tokens is not None:
        value["completion_tokens_details"] = {"reasoning_tokens": reasoning_tokens}
    return value


def timings(prefill: Prefill | None, finish: Finish) -> dict[str, object]:
    """Times of a reply under the names of llama.cpp."""
    stats = finish.stats
    rate = stats.decode_tokens_per_s
    return {
        "cache_n": stats.cached_tokens,
        "prompt_n": stats.prompt_tokens - stats.cached_tokens,
        "prompt_ms": None if prefill is None else 1000 * prefill.seconds,
        "prompt_per_second": stats.prefill_tokens_per_s,
        "predicted_n": stats.generated_tokens,
        "predicted_ms": None if rate is None else 1000 * stats.generated_tokens / rate,
        "predicted_per_second": rate,
    }


def written_logprob(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return max(logprob, _LEAST_LOGPROB)


def chat_logprobs(steps: Sequence[Step], tokenizer: Tokenizer) -> dict[str, object]:
    """The log-probabilities of tokens as chat completions have them: the model's own, before temperature."""
    return {"content": [_token(step, tokenizer) for step in steps], "refusal": None}


def _token(step: Step, tokenizer: Tokenizer) -> dict[str, object]:
    assert step.logprob is not None
    return _entry(step.id, step.logprob, tokenizer) | {
        "top_logprobs": [_candidate(candidate, tokenizer) for candidate in step.top]
    }


def _candidate(candidate: Candidate, tokenizer: Tokenizer) -> dict[str, object]:
    return _entry(candidate.id, candidate.logprob, tokenizer)


def _entry(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, object]:
    data = tokenizer.token_bytes(token)
    text = data.decode("utf-8", errors="replace")
    return {"token": text, "logprob": written_logprob(logprob), "bytes": list(data)}


class TextLogprobs:
    """The log-probabilities of tokens as completions of texts have them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._offset = tokenizer, 0

    def value(self, tokens: Sequence[tuple[int, TokenValues | None]]) -> dict[str, object]:
        """The next tokens, each with its values; None for the first of a text, which has none."""
        texts = [self._tokenizer.token_text(token) for token, _ in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._offset)
            self._offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [
                None if values is None else written_logprob(values.logprob or 0.0) for _, values in tokens
            ],
            "top_logprobs": [
                None if values is None else _by_text(text, values)
                for text, (_, values) in zip(texts, tokens, strict=True)
            ],
            "text_offset": offsets,
        }


def _by_text(text: str, values: TokenValues) -> dict[str, float]:
    """The candidates and the token itself by their texts; of two with one text, the more probable."""
    found: dict[str, float] = {}
    for name, logprob in [*((each.text, each.logprob) for each in values.top), (text, values.logprob or 0.0)]:
        found[name] = max(written_logprob(logprob), found.get(name, _LEAST_LOGPROB))
    return found
