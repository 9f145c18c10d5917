"""A draft model: a small model with the same vocabulary, which proposes the tokens that the large one verifies."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.sampling.sampler import Sampler
from llmcli.engine.speculative.draft_length import mixed
from llmcli.engine.speculative.rejection_sampling import Proposal
from llmcli.errors import NotFiniteError
from llmcli.text.tokenizer import Tokenizer

# With more unread tokens than this, most of the measured time is prefill, not the cost of a proposal.
_CAUGHT_UP = 2


def same_vocabulary(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether each id stands for the same token in both."""
    return one.vocab_size == other.vocab_size and all(
        one.piece(token) == other.piece(token) for token in range(one.vocab_size)
    )


class DraftModel:
    """Reads the text that the large model generates, and proposes its next tokens."""

    def __init__(self, prefix_cache: PrefixCache) -> None:
        self._prefix_cache = prefix_cache
        self._agreed = 0
        self._begun = False
        self.seconds_each: float | None = None
        """Seconds per proposed token; None before the first."""

    def begin(self) -> None:
        """A reply begins. Its prompt is read at the first proposal."""
        self._begun = False

    def room(self, length: int) -> int:
        """How many tokens can be proposed after a text of `length`."""
        return max(0, self._prefix_cache.context_length - length)

    def propose(
        self,
        ids: Sequence[int],
        count: int,
        sampler: Sampler,
        *,
        longest: int,
        stop_ids: Collection[int],
        sampled: bool,
    ) -> list[Proposal]:
        """Propose the `count` tokens after `ids`, or fewer if one of `stop_ids` ends the reply.

        The text becomes at most `longest` tokens long. If `sampled`, each token is drawn and carries its distribution;
        otherwise it is the one that `sampler` chooses.
        """
        started = time.perf_counter()
        prefix_cache = self._prefix_cache
        if not self._begun:
            self._agreed = prefix_cache.begin(ids, min(longest, prefix_cache.context_length))
            self._begun = True
        else:
            self._agreed = prefix_cache.keep_common(ids, self._agreed)
        behind = len(ids) - self._agreed
        text, proposals = list(ids), list[Proposal]()
        while len(proposals) < count and not (proposals and proposals[-1].token in stop_ids):
            try:
                logits = prefix_cache.read(text)
                if not proposals:
                    prefix_cache.mark()
                with prefix_cache.sampling_threads():
                    distribution = sampler.distribution(logits, text) if sampled else None
                    token = sampler.choose(logits, text) if distribution is None else sampler.draw(distribution)
            except NotFiniteError as error:
                # Located here: the engine would search the layers of the large model.
                raise NotFiniteError(f"The draft model: {prefix_cache.located(error, text)}", located=True) from None
            proposals.append(Proposal(token, "draft", distribution))
            text.append(token)
        if proposals and behind <= _CAUGHT_UP:
            self.seconds_each = mixed(self.seconds_each, (time.perf_counter() - started) / len(proposals))
        # Proposals that were read may be rejected; only the text itself is certain to stay.
        self._agreed = len(ids)
        return proposals
