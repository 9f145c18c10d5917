"""Speculative decoding: tokens are proposed, and the model verifies several of them in one pass.

What is said is drawn from the model's own distribution, by the rule in `rejection_sampling`; what is proposed decides
only how many passes that takes. V is the vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llmcli.engine.decoders.multi_step import MultiStepDecoder
from llmcli.engine.events import Origin
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.sampler import Sampler
from llmcli.engine.speculative.draft_length import AcceptanceRate, StepCosts
from llmcli.engine.speculative.draft_model import DraftModel
from llmcli.engine.speculative.prompt_lookup import LONGEST, SHORTEST, Lookup, Match
from llmcli.engine.speculative.rejection_sampling import Proposal

MOST_PROPOSED = 15
"""The most tokens that are proposed at a time."""
# Chances of a token that follows a match of so many tokens, and with what weight that is believed at first (measured
# with the starter model on questions, quotations and code).
_MATCH_CHANCES = (0.45, 0.55, 0.65, 0.65, 0.75, 0.75, 0.75, 0.85, 0.85, 0.85)
_MATCH_WEIGHT = 4.0
# The same of a token of a draft model, and what one costs, in passes of one token, until that is measured.
_DRAFT_CHANCE, _DRAFT_WEIGHT, _DRAFT_COST = 0.7, 2.0, 0.3
# Tokens of a burst: in its midst nobody sees that what is said has been said before.
_BURST = 4
# What lookup may lose of a reply, in passes of one token: so many, and such a share of the tokens said.
_LOSS, _LOSS_SHARE = 0.5, 0.01


class SpeculationState:
    """Who proposes, and what was learned of them and of this machine; kept from one reply to the next."""

    def __init__(self, *, lookup: bool = False, draft: DraftModel | None = None, tokens: int | None = None) -> None:
        """`tokens` is how many are proposed at a time: None is as many as pay, by what is measured."""
        self.lookup, self.draft, self.tokens = lookup, draft, tokens
        self.costs = StepCosts()
        self.of_match = [AcceptanceRate(prior, _MATCH_WEIGHT) for prior in _MATCH_CHANCES]
        self.of_draft = AcceptanceRate(_DRAFT_CHANCE, _DRAFT_WEIGHT)

    def match_chance(self, length: int) -> AcceptanceRate:
        """The chance of a token that follows a match of `length`."""
        return self.of_match[min(length, LONGEST) - SHORTEST]


@dataclass
class Tally:
    """What came of it in one reply."""

    proposed: int = 0
    accepted: int = 0
    passes: int = 0
    tokens: int = 0
    """Tokens that came of the passes."""
    seconds: float = 0.0
    """That passes took, proposals included."""
    plain: int = 0
    """Passes without proposals."""
    plain_seconds: float = 0.0


class SpeculativeDecoder:
    """One reply's next tokens, verified as far ahead as proposals go.

    `chosen` decides what is proposed, and goes on where that is nothing; otherwise `next` says what the model makes of
    the text so far and what was proposed. `took` hears which token came of it.
    """

    def __init__(
        self,
        prefix_cache: PrefixCache,
        speculation: SpeculationState,
        sampler: Sampler,
        *,
        longest: int,
        expected: int,
        stop_ids: Collection[int],
        constrained: bool,
        burst: MultiStepDecoder | None = None,
    ) -> None:
        """The text may have `longest` tokens, and is known to become `expected` tokens long.

        Where nothing is proposed, a `burst` goes on. Where the reply is `constrained`, not all of what a draft model
        could draw can come, so it does not draw.
        """
        self._prefix_cache, self._speculation = prefix_cache, speculation
        self._lookup = Lookup() if speculation.lookup else None
        self._drawn = sampler.params.temperature > 0 and not constrained
        self._drafting = sampler
        if constrained:
            self._drafting = sampler.greedy()
        self._longest, self._expected, self._stop_ids = longest, expected, stop_ids
        self._burst, self._bursting = burst, False
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

    def chosen(self, ids: Sequence[int]) -> int | None:
        """The token that follows `ids`, if it has been chosen where nothing was proposed; otherwise ask `next`."""
        self._bursting = False
        if self._rows is not None:
            return None
        if self._burst is None or not self._burst.is_ahead:
            self._look(ids)
        if self._burst is None or self._proposals:
            return None
        self._bursting = True
        # Where there is something to be learned of the next token, it alone.
        alone = self._followed is not None or self._speculation.draft is not None
        return self._burst.next(ids, 1 if alone else _BURST)

    def next(self, ids: Sequence[int]) -> tuple[Tensor, Proposal | None]:
        """Logits (V,) after `ids`, whose last token is the one that was last taken, and what was proposed there.

        To be asked after `chosen`, which decides what is proposed.
        """
        if self._rows is None:
            self._pass(ids)
        assert self._rows is not None
        return self._rows[self._at], self._proposals[self._at] if self._at < len(self._proposals) else None

    def took(self, token: int | None) -> Origin:
        """That `token` was chosen, or that there is none; returns who proposed it."""
        if self._at == 0:
            self._measure()
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

    def stats(self) -> dict[str, Any]:
        """The part of a reply's `Stats` that says what came of it."""
        tally = self.tally
        plain_s = tally.plain_seconds / tally.plain if tally.plain else self._speculation.costs.plain_s
        return {
            "proposed_tokens": tally.proposed,
            "accepted_tokens": tally.accepted,
            "acceptance_rate": tally.accepted / tally.proposed if tally.proposed else None,
            "tokens_per_pass": tally.tokens / tally.passes if tally.passes else None,
            "speculative_gain": tally.tokens * plain_s / tally.seconds if plain_s and tally.seconds else None,
        }

    def _look(self, ids: Sequence[int]) -> None:
        """Decide what to propose after `ids`."""
        if self._prefix_cache.length >= len(ids):
            self._prefix_cache.truncate(len(ids) - 1)
        self._started = time.perf_counter()
        self._proposals, self._chances = self._propose(ids)
        self._at = 0
        self._proposed_s = time.perf_counter() - self._started

    def _pass(self, ids: Sequence[int]) -> None:
        if self._proposals:
            self._rows = self._prefix_cache.read_each([*ids, *(proposal.token for proposal in self._proposals)])
        else:
            self._rows = self._prefix_cache.read(ids)[None]

    def _measure(self) -> None:
        """Right after the choice: on a GPU a pass is over when somebody looks at what it gave."""
        costs, count = self._speculation.costs, len(self._proposals)
        if self._bursting:
            assert self._burst is not None
            seconds = self._burst.seconds_each
            costs.saw(1, seconds)
        else:
            seconds = time.perf_counter() - self._started
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
        # Nearly every token of a free text comes this way: whatever follows would be time lost.
        if match is None and speculation.draft is None:
            return [], []
        most = min(self._longest - len(ids), self._prefix_cache.most_each(len(ids))) - 1
        most = min(most, MOST_PROPOSED if speculation.tokens is None else speculation.tokens)
        if most < 1:
            return [], []
        found, gain = (0, 1.0) if match is None else self._looked_up(match, most)
        count = self._worth_drafting(len(ids), most, gain)
        if count:
            assert speculation.draft is not None
            drafted = speculation.draft.propose(
                ids, count, self._drafting, expected=self._expected, stop_ids=self._stop_ids, drawn=self._drawn
            )
            return drafted, [speculation.of_draft] * len(drafted)
        if match is None:
            return [], []
        proposals = [Proposal(token, "lookup") for token in match.following[:found]]
        return proposals, [speculation.match_chance(match.length + further) for further in range(found)]

    def _looked_up(self, match: Match, most: int) -> tuple[int, float]:
        """How much to propose of what followed the end of the text before, and what that is likely to gain."""
        speculation = self._speculation
        if speculation.tokens is not None:
            return most, math.inf
        chances = [speculation.match_chance(match.length + further) for further in range(most)]
        limit = _LOSS + _LOSS_SHARE * self.tally.tokens + self._saved
        found, gain = speculation.costs.best([chance.value for chance in chances], limit=limit)
        if not found:
            # What would have come of it is learned at no cost.
            self._followed = chances[0], match.following[0]
        return found, gain

    def _worth_drafting(self, length: int, most: int, gain: float) -> int:
        """How many tokens the draft model is to propose; none unless that is likely to gain more than `gain`."""
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
