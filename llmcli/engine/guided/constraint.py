"""Constrained decoding: a reply that must fit a JSON schema, a regular expression or a grammar.

The library `llguidance` says which tokens may come next. In addition, a constraint keeps a known ending of the text,
and switches to it before too few tokens are left for it. V is the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmcli.engine.guided.completion_search import EndingSearch
from llmcli.engine.guided.grammar import PrefillError, Rule
from llmcli.engine.guided.json_state import leading_digits
from llmcli.engine.sampling.sampler import Sampler
from llmcli.errors import LlmcliError, UsageError
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.trusted_encoding import TextSegment

# The longest ending, in bytes, of the greedy method and of the search.
_LONGEST, _DEEPEST = 16_384, 1024
# How many bytes a search for an ending may try, a few microseconds each: before the reply, after a token, and after all
# tokens of the reply together. Counts, not times: a reply must not depend on how fast the machine is.
_LOOKS_FIRST, _LOOKS_EACH, _LOOKS_ALL = 15_000, 1_000, 30_000


@dataclass(frozen=True)
class _Ending:
    """Bytes that complete the text."""

    data: bytes
    tokens: list[int] | None = None
    """Tokens for `data`; None: not computed yet."""


class Constraint:
    """Holds one reply to a `Rule`. It keeps the state of that reply, so each reply needs a new one."""

    def __init__(self, rule: Rule, tokenizer: Tokenizer, stop_ids: Collection[int], *, prefill: str = "") -> None:
        """`stop_ids` can end the reply once the rule allows it; `prefill` is how the text it applies to begins.

        Raises:
            UsageError: the rule is not valid, no text of this form begins with `prefill`, or llguidance is missing.
        """
        self._size = tokenizer.vocab_size
        self._stop_ids = [token for token in stop_ids if token < self._size]
        data = [tokenizer.token_bytes(token) for token in range(self._size)]
        self._data = data
        self._llguidance = _llguidance_tokenizer(tokenizer, data)
        self._matcher = rule.matcher(self._llguidance)
        self._bytes = {data[token][0]: token for token in reversed(range(self._size)) if len(data[token]) == 1}
        self._search = _search(rule, data, self._bytes, prefill)
        if prefill and not self._matcher.consume_tokens(self._llguidance.tokenize_str(prefill)):
            raise UsageError(f"No text of the form that is asked for begins with {prefill!r}.")
        # At the beginning of a reply some tokenizers drop a space: the text that is matched must equal the text shown.
        self._not_first = [] if prefill else _changed_at_start(tokenizer, data)
        self._ending: _Ending | None = None
        self._begun = False
        self._looks = _LOOKS_ALL
        self._digits = torch.tensor([leading_digits(inside) for inside in data]) if rule.kind == "json-schema" else None

    @property
    def complete(self) -> bool:
        """Whether the text so far has the form; more may still follow."""
        return bool(self._matcher.is_accepting())

    @property
    def ended(self) -> bool:
        """Whether no token can follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def can_end(self) -> bool:
        """Whether an ending of the text is known, so that the reply will be complete within its room."""
        return self._ending is not None

    def begins_with(self, text: str) -> bool:
        """Whether `text` can come next."""
        return bool(self._matcher.deep_copy().consume_tokens(self._llguidance.tokenize_str(text)))

    def begin(self, room: int, *, after_thought: bool = False) -> None:
        """Prepare for a reply of at most `room` tokens, or for the rest of one `after_thought`.

        Raises:
            LlmcliError: the shortest text of this form that was found is longer than that, or no text has this form.
        """
        self._begun, self._looks = False, _LOOKS_ALL
        self._ending = self._first_ending(room)
        if self._ending is None:
            # Raises if no text has this form. A long search at every token would find no more than this one.
            self.masked(torch.zeros(self._size))
            self._looks = 2 * _LOOKS_EACH
            return
        needed = len(self._ending_tokens(self._ending) or self._ending.data)
        if needed > room:
            raise LlmcliError(
                "No reply of the form that is asked for was found that fits into "
                f"{room} token{'s' if room != 1 else ''}{' left after the thought' if after_thought else ''}; allow "
                f"more with -n (the shortest that was found needs {needed})."
            )

    def choose(
        self,
        logits: Tensor,
        sampler: Sampler,
        context: Sequence[int],
        room: int,
        *,
        besides: Collection[int] = (),
    ) -> tuple[Tensor, Tensor, int | None]:
        """Draw the next of at most `room` tokens with `sampler` from the model's `logits` (V,) after `context`.

        Returns `logits` (V,) with -inf for every forbidden token, the distribution (V,) that the token was drawn from,
        and the token, None if the reply is over. Where the room is only enough for the known ending, its next token is
        the only one allowed. Tokens of `besides` are allowed too; they do not advance the form.

        Raises:
            LlmcliError: no token is allowed.
        """
        if self.ended:
            return logits, torch.zeros_like(logits, dtype=torch.float32), None
        allowed = self.masked(logits)
        if besides:
            others = torch.tensor(list(besides), device=logits.device)
            allowed = allowed.index_copy(0, others, logits[others])
        distribution = sampler.distribution(allowed, context)
        drawn = sampler.draw(distribution)
        if drawn in besides:
            return allowed, distribution, drawn
        token = self.take(drawn, room)
        if token is not None and token != drawn:
            only = torch.zeros_like(logits, dtype=torch.bool).index_fill_(0, torch.tensor(token).to(logits.device), 1)
            allowed, distribution = logits.masked_fill(~only, -torch.inf), only.float()
        return allowed, distribution, token

    def masked(self, logits: Tensor) -> Tensor:
        """`logits` (V,) with -inf for every token that the form forbids next.

        Raises:
            LlmcliError: it forbids all.
        """
        bias = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)[: self._size].bool()
        if not self._begun:
            bias[self._not_first] = False
        bias = self._without_endless_numbers(bias)
        bias[self._stop_ids] = self.complete
        if self._matcher.is_error() or not bias.any():
            why = self._matcher.get_error().partition("\n")[0]
            if not why or why.startswith("NoExtension"):
                why = "no token of this model can come next"
            raise LlmcliError(f"The reply cannot follow the form that is asked for: {why}.")
        return logits.masked_fill(~bias.to(logits.device), -torch.inf)

    def take(self, token: int, room: int) -> int | None:
        """Append `token`, which `masked` allows, or the next token of the known ending instead.

        The known ending is taken if after `token` the text could no longer be completed within `room` tokens, this one
        included. Returns the token that was appended, None if the reply has to end here.
        """
        if token in self._stop_ids:
            return token
        before = self._ending
        back = self._append(token)
        after = self._ending_after(token, before, room - 1)
        if before is not None and after is None:
            self._matcher.rollback(1)
            back()
            if not before.data:
                return None
            tokens = self._ending_tokens(before)
            if tokens is None:
                raise LlmcliError(
                    "The reply cannot follow the form that is asked for: no token of this model can come next."
                )
            token = tokens[0]
            self._append(token)
            after = _Ending(before.data[len(self._data[token]) :], tokens[1:])
        self._ending = after
        self._begun = True
        return token

    def _append(self, token: int) -> Callable[[], None]:
        """Append `token`; returns a function that undoes it for the search."""
        self._matcher.consume_token(token)
        if self._search is None:
            return lambda: None
        back = self._search.push(self._data[token])
        if self._search.lost:
            self._search = None
        return back

    def _without_endless_numbers(self, bias: Tensor) -> Tensor:
        """`bias` (V,) without tokens that would give a JSON number too many digits."""
        json = None if self._search is None else self._search.json
        if json is None or self._digits is None or not json.digits:
            return bias
        short = bias & (self._digits <= json.digits_left)
        if short.any() or (self.complete and self._stop_ids):
            return short
        # Where a number needs more digits, as with "multipleOf", the known ending has them.
        tokens = None if self._ending is None else self._ending_tokens(self._ending)
        if tokens:
            short[tokens[0]] = True
        return short if tokens else bias

    def _first_ending(self, room: int) -> _Ending | None:
        """An ending from the start of the reply; one of more than `room` tokens if no shorter one was found."""
        if self.complete:
            return _Ending(b"")
        if self._search is None:
            return None
        search = self._search
        found = search.greedy(_LONGEST, looks=_LOOKS_FIRST)
        candidates = [found]
        if found is None or not self._fits(found, room):
            candidates.append(search.greedy(_LONGEST, nested=True))
        if not any(way is not None and self._fits(way, room) for way in candidates):
            candidates.append(search.search(_LOOKS_FIRST, _DEEPEST if found is None else len(found) - 1)[0])
        said = [(tokens, way) for way in candidates if way is not None and (tokens := self._tokens(way)) is not None]
        if not said:
            return None
        tokens, data = min(said, key=lambda pair: len(pair[0]))
        return _Ending(data, tokens)

    def _ending_after(self, token: int, before: _Ending | None, room: int) -> _Ending | None:
        """An ending of at most `room` tokens after `token`; None if none is found.

        The rest of the ending `before` is tried first, so that few tokens need a search.
        """
        if self.complete:
            return _Ending(b"")
        if self._search is None:
            return None
        known, data = b"" if before is None else before.data, self._data[token]
        if before is not None and known.startswith(data):
            left = before.tokens[1:] if before.tokens and before.tokens[0] == token else None
            if left is not None and len(left) <= room:
                return _Ending(known[len(data) :], left)
            if self._fits(known[len(data) :], room):
                return _Ending(known[len(data) :])
        # Tokens of endings seldom have more than 6 bytes on average.
        longest = min(_LONGEST, 64 + 6 * room)
        found = self._search.rest_of(known)
        if found is None or not self._fits(found, room):
            found = self._search.greedy(longest) or found
        # An ending that does not fit is not shortened by a search: once room is short, every token would need one.
        if found is None and self._looks > 0:
            granted = min(_LOOKS_EACH, self._looks)
            found, unused = self._search.search(granted, min(longest, _DEEPEST), known=known)
            self._looks -= granted - unused
        return _Ending(found) if found is not None and self._fits(found, room) else None

    def _fits(self, data: bytes, room: int) -> bool:
        if len(data) <= room and self._bytes.keys() >= set(data):
            return True
        tokens = self._tokens(data)
        return tokens is not None and len(tokens) <= room

    def _ending_tokens(self, ending: _Ending) -> list[int] | None:
        return self._tokens(ending.data) if ending.tokens is None else ending.tokens

    def _tokens(self, data: bytes) -> list[int] | None:
        """Tokens for `data` that complete the text here: as the tokenizer encodes it, or one token for each byte."""
        for tokens in (self._llguidance.tokenize_bytes(data), [self._bytes.get(byte, -1) for byte in data]):
            at_the_beginning = not self._begun and tokens and tokens[0] in self._not_first
            if not at_the_beginning and -1 not in tokens and self._completes(tokens):
                return list(tokens)
        return None

    def _completes(self, tokens: list[int]) -> bool:
        if self._matcher.validate_tokens(tokens) < len(tokens):
            return False
        trial = self._matcher.deep_copy()
        return bool(trial.consume_tokens(tokens) and trial.is_accepting())


def _search(rule: Rule, data: Sequence[bytes], single: Collection[int], prefill: str) -> EndingSearch | None:
    """The search for endings; None if the form names control tokens, which stand for no bytes."""
    # A vocabulary without a token for each byte can still write the bytes of its non-ASCII characters.
    usable = {*single, *(byte for inside in data if len(inside) > 1 for byte in inside if byte > 127)}
    try:
        return EndingSearch(rule, usable, prefill=prefill.encode(errors="replace"))
    except PrefillError:
        raise
    except UsageError:
        return None


def _changed_at_start(tokenizer: Tokenizer, data: Sequence[bytes]) -> list[int]:
    """The tokens that stand for other bytes at the beginning of a text."""
    strips = tokenizer.stripped_spaces > 0
    return [
        token
        for token, inside in enumerate(data)
        if tokenizer.token_bytes(token, first=True) != inside or (strips and inside.startswith(b" "))
    ]


def _llguidance_tokenizer(tokenizer: Tokenizer, data: Sequence[bytes]) -> Any:
    """An `LLTokenizer` of llguidance: the bytes of all tokens, and one more token for the end of the text."""
    from llguidance import LLTokenizer, TokenizerWrapper

    end = tokenizer.vocab_size

    class TokenizerView:
        eos_token_id, bos_token_id = end, None
        tokens: Sequence[bytes] = [*data, b"<end>"]
        special_token_ids: Sequence[int] = [
            *(token for token in range(end) if not data[token] or tokenizer.is_special(token)),
            end,
        ]

        def __call__(self, text: bytes) -> list[int]:
            segment = TextSegment(text.decode("utf-8", errors="replace"), trusted=False)
            return tokenizer.encode_segments([segment], continuation=True)

    return LLTokenizer(TokenizerWrapper(TokenizerView()), n_vocab=end + 1, eos_token=end)
