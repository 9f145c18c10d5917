"""Replies that must have a form: JSON of a schema, a regular expression, a grammar.

The library `llguidance` says which tokens may come next. On top of that a constraint always knows how the text could be
brought to an end, and steers there before the room for it runs out. V is the vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmcli.engine.rule import Rule
from llmcli.engine.sampler import Sampler
from llmcli.errors import LlmcliError, UsageError
from llmcli.text.guarded import Segment
from llmcli.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

# What brings texts to an end, the most effective first; then everything else that is one byte.
_CLOSING = b'"}])>0;.'
_BY_PREFERENCE = bytes([*_CLOSING, *(byte for byte in range(33, 127) if byte not in _CLOSING), 32, 10])
# The longest ending that is looked for, in tokens; a schema may well ask for a text of hundreds of characters.
_LONGEST = 1024
# Texts that the search for an ending looks at from one place in a reply, how many of one length, and how many of these
# after which the same can follow, should one of each not do.
_LOOKS, _WIDTH, _ALIKE = 3000, 12, 3


class Constraint:
    """One reply that must follow a `Rule`. Made for each reply anew, as it goes along with it."""

    def __init__(self, rule: Rule, tokenizer: Tokenizer, stop_ids: Collection[int], *, prefill: str = "") -> None:
        """`stop_ids` can end the reply once the rule allows it; `prefill` is how the text it applies to begins.

        Raises:
            UsageError: the rule is none, no text of this form begins with `prefill`, or the library is not installed.
        """
        self._size = tokenizer.vocab_size
        self._stop_ids = [token for token in stop_ids if token < self._size]
        data = [tokenizer.token_bytes(token) for token in range(self._size)]
        self._data = data
        self._theirs = _their_tokenizer(tokenizer, data)
        self._matcher = rule.matcher(self._theirs)
        if prefill and not self._matcher.consume_tokens(self._theirs.tokenize_str(prefill)):
            raise UsageError(f"No text of the form that is asked for begins with {prefill!r}.")
        self._bytes = {data[token][0]: token for token in reversed(range(self._size)) if len(data[token]) == 1}
        # At the beginning of a reply some tokenizers drop a space: what is matched must be what is shown.
        self._not_first = [] if prefill else _changed_at_the_beginning(tokenizer, data)
        self._ending: list[int] | None = None
        self._begun = self._forced = False

    @property
    def complete(self) -> bool:
        """The text so far is of the form; it may still go on."""
        return bool(self._matcher.is_accepting())

    @property
    def ended(self) -> bool:
        """Nothing can follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def begin(self, room: int) -> None:
        """Prepare for a reply of at most `room` tokens.

        Raises:
            LlmcliError: no text of this form as short as that was found, but a longer one.
        """
        self._begun = self._forced = False
        self._ending = self._way_out(room)
        if self._ending is not None and len(self._ending) > room:
            raise LlmcliError(
                "No reply of the form that is asked for was found that fits into "
                f"{room} token{'s' if room != 1 else ''}; allow more with -n."
            )
        if self._ending and self._ending[0] in self._not_first:
            self._ending = None

    def choose(
        self, logits: Tensor, sampler: Sampler, context: Sequence[int], room: int
    ) -> tuple[Tensor, Tensor, int | None]:
        """Draw the next of at most `room` tokens with `sampler`, which is given `context`, from the model's `logits`.

        Returns `logits` (V,) with -inf for every token that could not come, the distribution (V,) it was drawn from,
        and the token, None if the reply is over. Where only a short way to an end is left, its next token is the only
        one that could come.

        Raises:
            LlmcliError: no token could.
        """
        if self.ended:
            return logits, torch.zeros_like(logits, dtype=torch.float32), None
        allowed = self.masked(logits)
        distribution = sampler.distribution(allowed, context)
        drawn = sampler.draw(distribution)
        token = self.take(drawn, room)
        if token is not None and token != drawn:
            only = torch.zeros_like(logits, dtype=torch.bool).index_fill_(0, torch.tensor(token).to(logits.device), 1)
            allowed, distribution = logits.masked_fill(~only, -torch.inf), only.float()
        return allowed, distribution, token

    def masked(self, logits: Tensor) -> Tensor:
        """`logits` (V,) with -inf for every token that cannot come next.

        Raises:
            LlmcliError: none can.
        """
        bias = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)[: self._size].bool()
        if not self._begun:
            bias[self._not_first] = False
        bias[self._stop_ids] = self.complete
        if self._matcher.is_error() or not bias.any():
            why = self._matcher.get_error().partition("\n")[0]
            if not why or why.startswith("NoExtension"):
                why = "no token of this model leads on"
            raise LlmcliError(f"The reply cannot follow the form that is asked for: {why}.")
        return logits.masked_fill(~bias.to(logits.device), -torch.inf)

    def take(self, token: int, room: int) -> int | None:
        """Go on with `token`, one that `masked` allows, or instead with the next of a short way to an end.

        That is if after `token` the text could no longer be ended within `room` tokens, this one included. Returns
        the token that was taken, None if the reply has to end where it is.
        """
        if token in self._stop_ids:
            return token
        self._begun = True
        before = self._ending
        self._matcher.consume_token(token)
        after = self._still_ends(token, before)
        if after is None or len(after) > room - 1:
            after = self._way_out(room - 1)
        in_time = after is not None and len(after) <= room - 1
        if before is not None and not in_time:
            self._matcher.rollback(1)
            self._forced = True
            if not before:
                return None
            token, *after = before
            self._matcher.consume_token(token)
            in_time = True
        self._ending = after if in_time else None
        return token

    def _still_ends(self, token: int, ending: list[int] | None) -> list[int] | None:
        """What is left of a way to an end after `token`, or all of it if it is one from here too.

        Inside a text or a number it often is.
        """
        if self.complete:
            return []
        if not ending:
            return None
        said = b""
        for count, part in enumerate(ending, 1):
            said += self._data[part]
            if said == self._data[token]:
                return ending[count:]
            if len(said) >= len(self._data[token]):
                break
        return ending if self._leads_out(ending) else None

    def _way_out(self, room: int) -> list[int] | None:
        """A short way from here to an end, if need be and if one was found of no more than `room` tokens."""
        if self.complete:
            return []
        found = self._in_fewer(self._straight_out())
        # Once there is no room left but for an ending, there is no use in a long search for another at every token.
        if not self._forced and (found is None or len(found) > room):
            found = self._in_fewer(self._search_out(room, 1) or self._search_out(room, _ALIKE)) or found
        return found

    def _in_fewer(self, ending: list[int] | None) -> list[int] | None:
        """What was found a byte at a time, said with fewer tokens."""
        if ending is None:
            return None
        fewer = self._theirs.tokenize_bytes(b"".join(self._data[token] for token in ending))
        return fewer if len(fewer) < len(ending) and self._leads_out(fewer) else ending

    def _leads_out(self, tokens: list[int]) -> bool:
        if self._matcher.validate_tokens(tokens) < len(tokens):
            return False
        trial = self._matcher.deep_copy()
        return bool(trial.consume_tokens(tokens) and trial.is_accepting())

    def _straight_out(self) -> list[int] | None:
        """What closes is taken wherever it can be: the way out of JSON."""
        matcher = self._matcher.deep_copy()
        taken: list[int] = []
        while not matcher.is_accepting():
            following = matcher.compute_ff_tokens() or self._possible(matcher)[:1]
            if not following or len(taken) >= _LONGEST or not matcher.consume_tokens(following):
                return None
            taken += following
        return taken

    def _search_out(self, limit: int, most_alike: int) -> list[int] | None:
        """Texts of single bytes, shortest first; of those after which the same can follow, the first few."""
        looks = 0
        level: list[tuple[list[int], LLMatcher]] = [([], self._matcher.deep_copy())]
        while level and looks < _LOOKS:
            alike: dict[bytes, int] = {}
            following: list[tuple[list[int], LLMatcher]] = []
            for taken, matcher in level:
                forced = matcher.compute_ff_tokens()
                for tokens in [forced] if forced else [[token] for token in self._possible(matcher)]:
                    trial = matcher.deep_copy()
                    looks += 1
                    if len(taken) + len(tokens) > limit or not trial.consume_tokens(tokens):
                        continue
                    if trial.is_accepting():
                        return [*taken, *tokens]
                    what_follows = trial.compute_logit_bias()
                    alike[what_follows] = alike.get(what_follows, 0) + 1
                    if alike[what_follows] <= most_alike:
                        following.append(([*taken, *tokens], trial))
            level = following[:_WIDTH]
        return None

    def _possible(self, matcher: LLMatcher) -> list[int]:
        """Tokens of one byte that can come next, those that close first."""
        bias = matcher.compute_logit_bias()
        return [self._bytes[byte] for byte in _BY_PREFERENCE if byte in self._bytes and bias[self._bytes[byte]]]


def _changed_at_the_beginning(tokenizer: Tokenizer, data: Sequence[bytes]) -> list[int]:
    """The tokens that stand for other bytes where a text begins."""
    strips = tokenizer.stripped_spaces > 0
    return [
        token
        for token, inside in enumerate(data)
        if tokenizer.token_bytes(token, first=True) != inside or (strips and inside.startswith(b" "))
    ]


def _their_tokenizer(tokenizer: Tokenizer, data: Sequence[bytes]) -> Any:
    """The library's view of a tokenizer: the bytes of its tokens, with an end of text of its own after the last."""
    from llguidance import LLTokenizer, TokenizerWrapper

    end = tokenizer.vocab_size

    class Described:
        eos_token_id, bos_token_id = end, None
        tokens: Sequence[bytes] = [*data, b"<end>"]
        special_token_ids: Sequence[int] = [
            *(token for token in range(end) if not data[token] or tokenizer.is_special(token)),
            end,
        ]

        def __call__(self, text: bytes) -> list[int]:
            segment = Segment(text.decode("utf-8", errors="replace"), trusted=False)
            return tokenizer.encode_segments([segment], continuation=True)

    return LLTokenizer(TokenizerWrapper(Described()), n_vocab=end + 1, eos_token=end)
