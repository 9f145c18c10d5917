"""Prompt ablation: how much an answer's probability depends on a part of the prompt.

A part is ablated in two ways. *Hidden*: it keeps its place, but no later token attends to it, in any block, and the
states of recurrent layers pass over it.
*Removed*: its tokens are deleted, and the shorter prompt is read again.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial

import torch

from llmcli.engine import SamplingParams, Step
from llmcli.errors import PromptTooLongError, UsageError
from llmcli.inspection.core.ablation import ROWS_AT_ONCE, logprobs_from, without_tokens
from llmcli.inspection.core.distributions import change
from llmcli.inspection.core.text_spans import words
from llmcli.inspection.core.tokens import Token, TokenProb, token_prob, tokens
from llmcli.loaded_model import LoadedModel
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.trusted_encoding import TextSegment

_RANGES = re.compile(r"\d{1,9}(-\d{1,9})?(,\d{1,9}(-\d{1,9})?)*", re.ASCII)
_COMPARED = 200  # characters of a text that was not found, for suggestions and the error message


@dataclass(frozen=True)
class Removal:
    """The ablated part of a prompt."""

    positions: tuple[int, ...]
    text: str
    ends_prompt: bool
    """It contains the prompt's last token, which itself predicts the answer and so cannot be hidden from it."""


@dataclass(frozen=True)
class AnswerToken:
    """A token of the answer and its probability, 0 to 1, given the answer before it."""

    id: int
    text: str
    bytes: bytes
    before: float
    """After the whole prompt."""
    hidden: float
    removed: float | None
    """None if the whole prompt was removed."""


@dataclass(frozen=True)
class Total:
    """The log-probability of the whole answer, in nats."""

    before: float
    hidden: float
    removed: float | None


@dataclass(frozen=True)
class Instead:
    """The most probable first token of the answer."""

    before: TokenProb
    hidden: TokenProb
    removed: TokenProb | None


@dataclass(frozen=True)
class Without:
    """An answer with and without a part of the prompt."""

    span: Removal
    answer: tuple[AnswerToken, ...]
    total: Total
    instead: Instead


@dataclass(frozen=True)
class Word:
    """A word of the prompt, and the effect of hiding it."""

    text: str
    positions: tuple[int, ...]
    hidden: float
    """Change of the answer's log-probability, in nats: negative if the answer depends on the word."""
    ends_prompt: bool
    """It contains the prompt's last token, which itself predicts the answer and so cannot be hidden from it."""


@dataclass(frozen=True)
class WordScan:
    """An answer and every word of the prompt, the word with the largest drop first."""

    answer: tuple[Token, ...]
    before: float
    """The answer's log-probability after the whole prompt, in nats."""
    words: tuple[Word, ...]


def find_text(tokenizer: Tokenizer, ids: Sequence[int], span: str, *, within: str | None = None) -> tuple[int, ...]:
    """Positions of all tokens that overlap an occurrence of `span`.

    Control tokens are not text. `within` limits the search to that text, without the chat template around it.

    Raises:
        UsageError: `span` does not occur, or is empty.
    """
    if not span:
        raise UsageError("The text to leave out is empty.")
    starts, joined = _joined(tokenizer, ids)
    first, last = _place(joined, within)
    wanted = span.encode("utf-8", errors="replace")
    found: set[int] = set()
    at = joined.find(wanted, first, last)
    while at >= 0:
        found.update(_overlapping(starts, at, at + len(wanted)))
        at = joined.find(wanted, at + 1, last)
    if not found:
        raise UsageError(f'The text does not contain "{span[:_COMPARED]}". {_nearest(tokenizer, ids, span)}')
    return tuple(sorted(found))


def parse_positions(text: str, length: int) -> tuple[int, ...]:
    """Parse token numbers such as "4" or "0,3-7", for a text of `length` tokens.

    Raises:
        UsageError: the form is wrong, or a number is out of range.
    """
    if not _RANGES.fullmatch(text):
        raise UsageError(f'"{text[:_COMPARED]}" is not a list of token numbers; write 4, 3-7 or 0,3-7.')
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        start, end = int(first), int(last or first)
        if end < start or end >= length:
            raise UsageError(f"There are no tokens {part}: the text has {length}, numbered from 0.")
        found.update(range(start, end + 1))
    return tuple(sorted(found))


def answer_ids(tokenizer: Tokenizer, answer: str) -> list[int]:
    """The tokens of an answer as the continuation of a prompt.

    Raises:
        UsageError: the answer is empty.
    """
    ids = tokenizer.encode_segments([TextSegment(answer, trusted=False)], continuation=True)
    if not ids:
        raise UsageError("The answer is empty.")
    return ids


def own_answer(
    loaded: LoadedModel, ids: Sequence[int], max_tokens: int, progress: Callable[[int, int], None] | None = None
) -> list[int]:
    """The model's own greedy continuation, up to the end of its reply or `max_tokens`.

    `progress` is called with (tokens written, `max_tokens`).

    Raises:
        UsageError: the reply is empty.
        PromptTooLongError: the prompt leaves no room for a reply.
    """
    params = SamplingParams(temperature=0, max_tokens=max_tokens)
    found: list[int] = []
    for event in loaded.engine().stream(ids, params, probabilities=False):
        if isinstance(event, Step):
            found.append(event.id)
            if progress is not None:
                progress(len(found), max_tokens)
    if not found:
        raise UsageError("The model's reply is empty. Give the answer to examine with --answer.")
    return found


def without_span(
    loaded: LoadedModel,
    ids: Sequence[int],
    answer: Sequence[int],
    positions: Sequence[int],
    *,
    rows_at_once: int = ROWS_AT_ONCE,
    progress: Callable[[int, int], None] | None = None,
) -> Without:
    """Probabilities of `answer` after `ids`, and with the tokens at `positions` (ascending) hidden and removed.

    At most `rows_at_once` rows of logits are computed at a time. `progress` is called with (passes done, all passes).

    Raises:
        PromptTooLongError: prompt and answer are longer than the model's context.
    """
    check_lengths(loaded, ids, answer)
    read = partial(_read, loaded, rows_at_once=rows_at_once)
    tell = progress or (lambda done, total: None)
    before, first_before = read(ids, answer)
    tell(1, 3)
    hidden, first_hidden = read(ids, answer, hidden=positions)
    tell(2, 3)
    gone = set(positions)
    kept = [token for position, token in enumerate(ids) if position not in gone]
    removed, first_removed = read(kept, answer) if kept else (None, None)
    tell(3, 3)
    tokenizer = loaded.tokenizer
    return Without(
        span=Removal(
            tuple(positions), tokenizer.decode([ids[at] for at in positions], skip_special=False), len(ids) - 1 in gone
        ),
        answer=tuple(
            AnswerToken(
                id=token,
                text=tokenizer.token_text(token),
                bytes=tokenizer.token_bytes(token),
                before=math.exp(before[place]),
                hidden=math.exp(hidden[place]),
                removed=None if removed is None else math.exp(removed[place]),
            )
            for place, token in enumerate(answer)
        ),
        total=Total(sum(before), sum(hidden), None if removed is None else sum(removed)),
        instead=Instead(first_before, first_hidden, first_removed),
    )


def scan_words(
    loaded: LoadedModel,
    ids: Sequence[int],
    answer: Sequence[int],
    *,
    within: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> WordScan:
    """Hide each word of the prompt in turn; `within` limits this to the text inside a chat template.

    `progress` is called with (words done, all words).

    Raises:
        PromptTooLongError: prompt and answer are longer than the model's context.
    """
    check_lengths(loaded, ids, answer)
    tokenizer = loaded.tokenizer
    starts, joined = _joined(tokenizer, ids)
    inside = _overlapping(starts, *_place(joined, within))
    wanted = [
        span
        for span in words(tokenizer, ids)
        if span.start in inside and not all(map(tokenizer.is_special, ids[span.start : span.stop]))
    ]
    before = sum(_read(loaded, ids, answer)[0])
    found = []
    for done, span in enumerate(wanted, 1):
        positions = range(span.start, span.stop)
        hidden = sum(_read(loaded, ids, answer, hidden=positions)[0])
        found.append(Word(span.text, tuple(positions), change(before, hidden), len(ids) - 1 in positions))
        if progress is not None:
            progress(done, len(wanted))
    return WordScan(tokens(tokenizer, answer), before, tuple(sorted(found, key=lambda word: word.hidden)))


@torch.inference_mode()
def _read(
    loaded: LoadedModel,
    prompt: Sequence[int],
    answer: Sequence[int],
    *,
    hidden: Collection[int] = (),
    rows_at_once: int = ROWS_AT_ONCE,
) -> tuple[list[float], TokenProb]:
    """`read_answer` with some tokens of the prompt hidden."""
    with without_tokens(loaded.model, hidden) if hidden else nullcontext():
        return read_answer(loaded, prompt, answer, rows_at_once=rows_at_once)


def read_answer(
    loaded: LoadedModel, prompt: Sequence[int], answer: Sequence[int], *, rows_at_once: int = ROWS_AT_ONCE
) -> tuple[list[float], TokenProb]:
    """The log-probability of each token of the answer, and the most probable first token."""
    model = loaded.model
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    logprobs: list[float] = []
    first = None
    for rows in logprobs_from(model, ids, len(prompt), loaded.tokenizer.vocab_size, rows_at_once=rows_at_once):
        if first is None:
            best, token = rows[0, 0].max(-1)
            first = token_prob(loaded.tokenizer, int(token), float(best.exp()))
        place = len(prompt) + len(logprobs)
        targets = ids[0, place : place + rows.shape[1], None]
        logprobs += rows[0].gather(1, targets)[:, 0].tolist()
    assert first is not None
    return logprobs, first


def check_lengths(loaded: LoadedModel, ids: Sequence[int], answer: Sequence[int]) -> None:
    """Check that there is a prompt, and that it fits the context together with the answer.

    Raises:
        UsageError: there is no prompt.
        PromptTooLongError: prompt and answer are longer than the model's context.
    """
    if not ids:
        raise UsageError("The text has no tokens: there is nothing to leave out.")
    if len(ids) + len(answer) > loaded.config.context_length:
        raise PromptTooLongError(
            f"Text and answer have {len(ids) + len(answer)} tokens, but the model's context holds "
            f"{loaded.config.context_length}."
        )


def _joined(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[list[int], bytes]:
    """Start offset of each token, and the joined bytes; control tokens become 0xff, which never occurs in UTF-8."""
    starts, joined = [], bytearray()
    for token in ids:
        starts.append(len(joined))
        joined += b"\xff" if tokenizer.is_special(token) else tokenizer.token_bytes(token)
    return starts, bytes(joined)


def _place(joined: bytes, text: str | None) -> tuple[int, int]:
    """Byte range of the last occurrence of `text`; the whole range if it is None or the tokenizer has rewritten it."""
    wanted = (text or "").strip().encode("utf-8", errors="replace")
    at = joined.rfind(wanted)
    return (at, at + len(wanted)) if wanted and at >= 0 else (0, len(joined))


def _overlapping(starts: Sequence[int], first: int, last: int) -> range:
    """The tokens that overlap the bytes `first` to `last` (exclusive)."""
    return range(max(bisect_right(starts, first) - 1, 0), bisect_left(starts, last))


def _nearest(tokenizer: Tokenizer, ids: Sequence[int], span: str) -> str:
    """A sentence that names the tokens most similar to `span`."""
    wanted = span[:_COMPARED].strip()
    first_of = {tokenizer.token_text(token): place for place, token in reversed(list(enumerate(ids)))}
    likeness = {
        text: SequenceMatcher(None, wanted, text.strip()).ratio()
        for text, place in first_of.items()
        if not tokenizer.is_special(ids[place])
    }
    best = sorted(likeness, key=lambda text: -likeness[text])[:3]
    if not best:
        return "It has only control tokens."
    return f"The nearest tokens are {', '.join(f'{text.strip()!r} ({first_of[text]})' for text in best)}."
