"""Replace the readable model's final distribution in a card or lens by the distribution the reply was sampled from.

A reply comes from the fast path if there is one, while its internals come from the readable model, which computes in
another order and precision. V is the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from llmcli.engine.logprobs import TokenLogprobs, token_logprobs
from llmcli.inspection.core.tokens import TokenProb, token_prob
from llmcli.inspection.residual.logit_lens import LensPosition, leads_from
from llmcli.inspection.token_card import TokenCard
from llmcli.text.tokenizer import Tokenizer


def card_of_reply(card: TokenCard, logits: Tensor, tokenizer: Tokenizer) -> TokenCard:
    """`card` with probability, rank, entropy and candidates from `logits` (V,), from which the token was sampled."""
    own = token_logprobs(logits, card.token.id, tokenizer, top=len(card.candidates))
    return replace(
        card,
        token=replace(card.token, prob=math.exp(own.logprob), rank=own.rank),
        entropy=own.entropy,
        candidates=_probs(own, tokenizer),
        lens=lens_of_reply(card.lens, logits, tokenizer),
    )


def lens_of_reply(found: LensPosition, logits: Tensor, tokenizer: Tokenizer) -> LensPosition:
    """`found` with the last layer's tokens and rank from `logits` (V,), from which the token was sampled."""
    *inner, last = found.layers
    own = token_logprobs(logits, found.token.id, tokenizer, top=len(last.top))
    layers = (*inner, replace(last, top=_probs(own, tokenizer), rank=own.rank))
    return replace(found, layers=layers, leads_from=leads_from(layers))


def _probs(own: TokenLogprobs, tokenizer: Tokenizer) -> tuple[TokenProb, ...]:
    return tuple(token_prob(tokenizer, other.id, math.exp(other.logprob)) for other in own.top)
