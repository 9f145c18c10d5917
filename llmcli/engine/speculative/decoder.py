"""Speculative decoding: tokens are proposed, and the model verifies several of them in one pass.

The reply has the model's own distribution, by the rule in `rejection_sampling`; the proposals only affect the number of
passes. V is the vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llmcli.engine.decoders.multi_step import MultiStepDecoder
from llmcli.engine.decoders.single_step import SingleStepDecoder
from llmcli.engine.decoders.token_source import TokenChoice
from llmcli.engine.events import Origin
from llmcli.engine.interrupt import Interruption
from llmcli.engine.prefill import PrefillProgress
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.sampling.sampler import Sampler
from llmcli.engine.speculative.draft_length import AcceptanceRate, StepCosts
from llmcli.engine.speculative.draft_model import DraftModel
from llmcli.engine.speculative.prompt_lookup import LONGEST, SHORTEST, Lookup, Match
from llmcli.engine.speculative.rejection_sampling import Proposal, accept_or_resample

MOST_PROPOSED = 15
"""The most tokens that are proposed at a time."""
# Initial acceptance rates of a token that follows a match of 3, 4, ... tokens, and the weight of that prior in tokens
# (measured with the starter model on questions, quotations and code).
_MATCH_CHANCES = (0.45, 0.55, 0.65, 0.65, 0.75, 0.75, 0.75, 0.85, 0.85, 0.85)
_MATCH_WEIGHT = 4.0
# Initial acceptance rate of a token of a draft model and its weight, and the assumed cost of such a token in passes of
# one token until it is measured.
_DRAFT_CHANCE, _DRAFT_WEIGHT, _DRAFT_COST = 0.7, 2.0, 0.3
# Tokens of a multi-step pass, kept few: during it no match is looked for.
_MULTI_STEP = 4
# What lookup may lose in a reply, in passes of one token: this many, and this share of the tokens generated.
_LOSS, _LOSS_SHARE = 0.5, 0.01


class SpeculationState:
    """The sources of proposals, and the acceptance rates and costs measured so far; kept from one reply to the next."""

    def __init__(self, *, lookup: bool = False, draft: DraftModel | None = None, tokens: int | None = None) -> None:
        """`tokens` is how many are proposed at a time; None: tuned from measured acceptance and cost."""
        self.lookup, self.draft, self.tokens = lookup, draft, tokens
        self.costs = StepCosts()
        self.of_match = [AcceptanceRate(prior, _MATCH_WEIGHT) for prior in _MATCH_CHANCES]
        self.of_draft = AcceptanceRate(_DRAFT_CHANCE, _DRAFT_WEIGHT)

    def match_chance(self, length: int) -> AcceptanceRate:
        """The acceptance rate of a token that follows a match of `length`."""
        return self.of_match[min(length, LONGEST) - SHORTEST]


@dataclass
class Tally:
    """Passes and tokens of one reply."""

    proposed: int = 0
    accepted: int = 0
    passes: int = 0
    tokens: int = 0
    """Tokens that the passes gave."""
    seconds: float = 0.0
    """Time of the passes, proposals included."""
    plain: int = 0
    """Passes without proposals."""
    plain_seconds: float = 0.0


class SpeculativeDecoder:
    """Verifies several proposals in a pass; without proposals, decodes in multi-step or single-step passes."""

    def __init__(
        self,
        single: SingleStepDecoder,
        prefix_cache: PrefixCache,
        speculation: SpeculationState,
        sampler: Sampler,
        interruption: Interruption,
        *,
        longest: int,
        stop_ids: Collection[int],
        constrained: bool,
        multi_step: MultiStepDecoder | None = None,
    ) -> None:
        """The text becomes `longest` tokens long at most.

        In a `constrained` reply a draft model takes its most probable token: its samples could be forbidden.
        """
        self._single, self._multi_step, self._prefix_cache = single, multi_step, prefix_cache
        self._speculation, self._sampler, self._interruption = speculation, sampler, interruption
        self._lookup = Lookup() if speculation.lookup else None
        self._sampled = sampler.params.temperature > 0 and not constrained
        self._drafting = sampler.greedy() if constrained else sampler
        self._longest, self._stop_ids = longest, stop_ids
        self._rows: Tensor | None = None
        self._proposals: list[Proposal] = []
        self._chances: list[AcceptanceRate] = []
        self._at = 0
        self._followed: tuple[AcceptanceRate, int] | None = None
        self._started = self._proposed_s = 0.0
        self._saved = 0.0
        self.tally = Tally()
        if speculation.draft is not None:
            speculation.draft.begin()

    def begin(self, ids: Sequence[int], progress: PrefillProgress | None = None) -> None:
        """See `TokenSource`."""
        self._single.begin(ids, progress)

    def next(self, ids: Sequence[int]) -> TokenChoice:
        """See `TokenSource`."""
        if self._single.is_first:
            return self._single.next(ids)
        if self._rows is None:
            if self._multi_step is None or not self._multi_step.is_ahead:
                with self._interruption.computing():
                    self._prepare_proposals(ids)
            if not self._proposals:
                return self._without_proposals(ids)
            with self._interruption.computing():
                self._prefix_cache.mark()
                proposed = [proposal.token for proposal in self._proposals]
                self._rows = self._prefix_cache.read_each([*ids, *proposed], len(proposed) + 1)
        choice = self._single.choose(self._rows[self._at], ids, self._draw())
        # On a GPU a pass ends when the host has read its result, which is when a token is chosen.
        if self._at == 0:
            self._measure(time.perf_counter() - self._started)
        return choice._replace(origin=self._record_choice(choice.token))

    def end(self, ids: Sequence[int]) -> None:
        """See `TokenSource`. Rejected proposals stay in the cache, which knows their ids."""

    def stats(self) -> Mapping[str, Any]:
        """See `TokenSource`."""
        tally = self.tally
        plain_s = tally.plain_seconds / tally.plain if tally.plain else self._speculation.costs.plain_s
        return {
            "proposed_tokens": tally.proposed,
            "accepted_tokens": tally.accepted,
            "acceptance_rate": tally.accepted / tally.proposed if tally.proposed else None,
            "tokens_per_pass": tally.tokens / tally.passes if tally.passes else None,
            "speculative_gain": tally.tokens * plain_s / tally.seconds if plain_s and tally.seconds else None,
        }

    def _prepare_proposals(self, ids: Sequence[int]) -> None:
        """Decide what to propose after `ids`."""
        if self._prefix_cache.length >= len(ids):
            self._prefix_cache.truncate(len(ids) - 1)
        self._started = time.perf_counter()
        self._proposals, self._chances = self._propose(ids)
        self._at = 0
        self._proposed_s = time.perf_counter() - self._started

    def _without_proposals(self, ids: Sequence[int]) -> TokenChoice:
        """The token that follows `ids`, by another decoder."""
        if self._multi_step is None:
            choice = self._single.next(ids)
            self._measure(time.perf_counter() - self._started)
        else:
            # A single token if it shows whether a proposal would have been accepted.
            alone = self._followed is not None or self._speculation.draft is not None
            choice = self._multi_step.next(ids, 1 if alone else _MULTI_STEP)
            self._proposed_s = 0.0
            self._measure(self._multi_step.seconds_each)
        self._record_choice(choice.token)
        return choice

    def _draw(self) -> Callable[[Tensor], int] | None:
        """How a sampled proposal is accepted or resampled; None where any token may be drawn from the distribution."""
        proposal = self._proposals[self._at] if self._at < len(self._proposals) else None
        if proposal is None or proposal.distribution is None:
            return None
        return lambda distribution: accept_or_resample(distribution, proposal, self._sampler)

    def _record_choice(self, token: int | None) -> Origin:
        """Update acceptance rates with the chosen `token`; return what proposed it."""
        if self._followed is not None:
            chance, likely = self._followed
            chance.saw(token == likely)
            self._followed = None
        self.tally.tokens += 1
        if self._at == len(self._proposals):
            self._rows = None
            return "model"
        proposal, accepted = self._proposals[self._at], token == self._proposals[self._at].token
        self._chances[self._at].saw(accepted)
        if not accepted:
            self._rows = None
            return "model"
        self._at += 1
        self.tally.accepted += 1
        self._saved += proposal.origin == "lookup"
        return proposal.origin

    def _measure(self, seconds: float) -> None:
        """Record a pass that took `seconds`, proposals included."""
        costs, count = self._speculation.costs, len(self._proposals)
        costs.saw(count + 1, seconds - self._proposed_s)
        self.tally.passes += 1
        self.tally.proposed += count
        self.tally.seconds += seconds
        if not count:
            self.tally.plain += 1
            self.tally.plain_seconds += seconds
        elif self._proposals[0].origin == "lookup":
            self._saved -= costs.ratio(count + 1) - 1

    def _propose(self, ids: Sequence[int]) -> tuple[list[Proposal], list[AcceptanceRate]]:
        speculation = self._speculation
        if speculation.tokens is None and not speculation.costs.plain_is_known:
            return [], []
        match = None if self._lookup is None else self._lookup.find(ids, MOST_PROPOSED)
        # Most tokens of a reply return here, so that the rest is computed only when needed.
        if match is None and speculation.draft is None:
            return [], []
        most = min(self._longest - len(ids), self._prefix_cache.most_each(len(ids))) - 1
        most = min(most, MOST_PROPOSED if speculation.tokens is None else speculation.tokens)
        if most < 1:
            return [], []
        found, gain = (0, 1.0) if match is None else self._lookup_count(match, most)
        count = self._draft_count(len(ids), most, gain)
        if count:
            assert speculation.draft is not None
            drafted = speculation.draft.propose(
                ids,
                count,
                self._drafting,
                longest=self._longest,
                stop_ids=self._stop_ids,
                sampled=self._sampled,
            )
            return drafted, [speculation.of_draft] * len(drafted)
        if match is None:
            return [], []
        proposals = [Proposal(token, "lookup") for token in match.following[:found]]
        return proposals, [speculation.match_chance(match.length + further) for further in range(found)]

    def _lookup_count(self, match: Match, most: int) -> tuple[int, float]:
        """How many tokens of a match to propose, and the expected gain."""
        speculation = self._speculation
        if speculation.tokens is not None:
            return most, math.inf
        chances = [speculation.match_chance(match.length + further) for further in range(most)]
        limit = _LOSS + _LOSS_SHARE * self.tally.tokens + self._saved
        found, gain = speculation.costs.best([chance.value for chance in chances], limit=limit)
        if not found:
            # The next token shows whether the first would have been accepted, at no cost.
            self._followed = chances[0], match.following[0]
        return found, gain

    def _draft_count(self, length: int, most: int, gain: float) -> int:
        """How many tokens the draft model should propose; 0 unless the expected gain is more than `gain`."""
        speculation, draft = self._speculation, self._speculation.draft
        most = 0 if draft is None else min(most, draft.room(length))
        if draft is None or gain == math.inf or speculation.tokens is not None:
            return 0 if gain == math.inf else most
        plain_s = speculation.costs.plain_s
        each = _DRAFT_COST if draft.seconds_each is None or plain_s is None else draft.seconds_each / plain_s
        count, gained = speculation.costs.best([speculation.of_draft.value] * most, each=each)
        if not count:
            speculation.of_draft.forget()
        return count if gained > gain else 0
