"""Perplexity of a text: the probability of every token given the tokens before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from llmcli.device import one_thread
from llmcli.engine.logprobs import token_logprobs
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.errors import UsageError
from llmcli.inspection.core.distributions import perplexity
from llmcli.inspection.evaluation.text_score import TextScore, TokenScore
from llmcli.loaded_model import LoadedModel


def score(
    loaded: LoadedModel,
    ids: Sequence[int],
    *,
    top: int = 0,
    window: int | None = None,
    readable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TextScore:
    """Score each of `ids` given the tokens before it, with the `top` most probable tokens.

    A text longer than `window` tokens (by default the model's context) is read in windows that overlap by half, and
    every token is scored once, in the first window that contains it: with at least half a window before it. The fast
    path runs, or with `readable` the readable model.

    Raises:
        NotFiniteError: the model's output is not a number.
        UsageError: the text or the window has fewer than two tokens.
    """
    window = min(window or loaded.config.context_length, loaded.config.context_length)
    prefix_cache = loaded.prefix_cache(readable=readable)
    steps = logits_along(loaded, ids, window=window, prefix_cache=prefix_cache)
    tokens = [TokenScore(0, ids[0], loaded.tokenizer.token_text(ids[0]))]
    for index, logits in steps:
        # Operations on one row are short: waking torch's other threads would take longer.
        with one_thread():
            tokens.append(_scored(loaded, ids, index, logits, top))
        if progress is not None:
            progress(len(tokens), len(ids))
    scored = [token.logprob for token in tokens if token.logprob is not None]
    total = -sum(scored)
    size = sum(len(loaded.tokenizer.token_bytes(token.id)) for token in tokens if token.logprob is not None)
    return TextScore(
        tokens=tuple(tokens),
        perplexity=perplexity(scored),
        bits_per_byte=total / math.log(2) / max(size, 1),
        windows=sum(1 for _ in _windows(len(ids), window)),
        path=prefix_cache.path(),
    )


def logits_along(
    loaded: LoadedModel, ids: Sequence[int], *, window: int | None = None, prefix_cache: PrefixCache | None = None
) -> Iterator[tuple[int, Tensor]]:
    """For each of `ids` except the first: its index, and the logits (V,) that predict it.

    V is the size of the tokenizer's vocabulary; `window` as in `score`; `prefix_cache` runs the model, by default the
    readable one.

    Raises:
        NotFiniteError: the model's output is not a number.
        UsageError: the text or the window has fewer than two tokens.
    """
    window = min(window or loaded.config.context_length, loaded.config.context_length)
    if len(ids) < 2:
        raise UsageError("The text is empty or a single token: the first token cannot be scored. Give a longer text.")
    if window < 2:
        raise UsageError(f"A window of {window} tokens is too short; it must hold at least 2.")
    reading = prefix_cache or loaded.prefix_cache(readable=True)
    # A generator expression, so that errors are raised at the call and logits are computed on demand.
    return (
        (start + position + 1, logits)
        for start, first, stop in _windows(len(ids), window)
        for position, logits in _logits(reading, ids[start:stop], first - start)
    )


def _windows(length: int, window: int) -> Iterator[tuple[int, int, int]]:
    """(start, first, stop) of each window: tokens `start` to `stop` are read, `first` to `stop` scored."""
    start, first = 0, 1
    while first < length:
        stop = min(start + window, length)
        yield start, first, stop
        first = stop
        start = max(0, stop - window // 2)


def _logits(prefix_cache: PrefixCache, ids: Sequence[int], first: int) -> Iterator[tuple[int, Tensor]]:
    """(position, logits (V,) after it) for each token of a window whose successor, from `first` on, is scored."""
    # Tokens before that are only context: no logits are needed.
    begun = prefix_cache.begin(ids[:first], len(ids))
    if begun < first - 1:
        prefix_cache.read(ids[: first - 1])
    position = first - 1
    for rows in prefix_cache.read_along(ids[:-1]):
        for row in rows:
            yield position, row
            position += 1


def _scored(loaded: LoadedModel, ids: Sequence[int], index: int, logits: Tensor, top: int) -> TokenScore:
    token = ids[index]
    seen = token_logprobs(logits, token, loaded.tokenizer, top=top)
    text = loaded.tokenizer.token_text(token)
    return TokenScore(index, token, text, seen.logprob, seen.rank, seen.entropy, seen.top)
