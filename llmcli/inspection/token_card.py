"""Token card: the candidates of one token, its attention, logit lens and logit attribution, with optional ablations."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from llmcli.engine.events import AttentionRow
from llmcli.errors import UsageError
from llmcli.inspection.attention.rows import AttentionRows
from llmcli.inspection.core.ablation import without_heads, without_neurons
from llmcli.inspection.core.activations import Trace, trace
from llmcli.inspection.core.distributions import entropy
from llmcli.inspection.core.hooks import AttentionCall, attention_blocks, blocks, head_count, on_attention, parts_of
from llmcli.inspection.core.tokens import Token, TokenProb, token
from llmcli.inspection.residual.logit_attribution import Attribution, HeadLogit, LookedAt, attribution
from llmcli.inspection.residual.logit_lens import LensPosition, lens_of, log_probabilities
from llmcli.loaded_model import LoadedModel
from llmcli.model.mixture_of_experts import MixtureOfExperts


@dataclass(frozen=True)
class CardToken:
    """The token of a card."""

    index: int
    """Its position in the text, or the position after the text's end."""
    id: int
    text: str
    bytes: bytes
    prob: float
    rank: int
    """1 if no token was more probable."""
    stands: bool
    """Whether it is the token at that position of the text."""


@dataclass(frozen=True)
class HeadName:
    """A head of a block."""

    block: int
    head: int


@dataclass(frozen=True)
class NeuronName:
    """A neuron of a dense block."""

    block: int
    neuron: int


_Named = TypeVar("_Named", HeadName, NeuronName)


@dataclass(frozen=True)
class ComponentAblation:
    """The token's probability with these heads and neurons ablated."""

    heads: tuple[HeadName, ...]
    neurons: tuple[NeuronName, ...]
    control: bool
    """Whether they were drawn at random, as a control."""
    after: float


@dataclass(frozen=True)
class Verification:
    """Ablations of the heads and neurons named in a card, and of random ones as a control."""

    before: float
    ablations: tuple[ComponentAblation, ...]
    seed: int


@dataclass(frozen=True)
class TokenCard:
    """How one token of a text was predicted from the tokens before it."""

    token: CardToken
    entropy: float
    """Entropy of its distribution, in nats."""
    candidates: tuple[TokenProb, ...]
    """The most probable tokens at its position."""
    before: Token
    """The last token before it."""
    read: AttentionRow | None
    lens: LensPosition
    attribution: Attribution
    verify: Verification | None


@torch.inference_mode()
def inspect_token(
    loaded: LoadedModel,
    ids: Sequence[int],
    index: int,
    *,
    target: int | None = None,
    verify: bool = False,
    top: int = 5,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> TokenCard:
    """The card of the token at `index` (negative: from the end); `len(ids)` is the token after the text.

    It is about `target` if given, otherwise about the token at that position, or the most probable one after the text.
    `top` is the number of candidates, attended tokens, heads and neurons listed. `verify` ablates these heads and
    neurons one by one and all together, and random ones drawn with `seed`; neurons of experts are not ablated.

    Raises:
        PromptTooLongError: the text is longer than the model's context.
        UsageError: there is no such token, or it is the first.
    """
    index = _checked_index(ids, index)
    context = list(ids[:index])
    reading = _Reading(loaded, context, top, progress)
    traced = reading.traced
    logprobs = log_probabilities(loaded, traced.residuals[-1, 0])  # (V,)
    if target is None:
        target = ids[index] if index < len(ids) else int(logprobs.argmax())
    layers = lens_of(loaded, traced, top=top, follow=[target])[0]
    parts = attribution(loaded, traced, 0, target, strongest=top, top=top)
    parts = replace(parts, heads=tuple(replace(head, looked_at=reading.looked_at(head)) for head in parts.heads))
    about = token(loaded.tokenizer, target)
    prob = float(logprobs[target].exp())
    return TokenCard(
        token=CardToken(
            index=index,
            id=about.id,
            text=about.text,
            bytes=about.bytes,
            prob=prob,
            rank=layers.layers[-1].rank,
            stands=index < len(ids) and target == ids[index],
        ),
        entropy=float(entropy(logprobs)),
        candidates=layers.layers[-1].top,
        before=token(loaded.tokenizer, context[-1]),
        read=reading.row,
        lens=layers,
        attribution=parts,
        verify=_verified(loaded, context, target, prob, parts, seed, progress) if verify else None,
    )


def _checked_index(ids: Sequence[int], index: int) -> int:
    if not -len(ids) <= index <= len(ids):
        raise UsageError(f"There is no token {index}: the text has {len(ids)}, numbered from 0.")
    index = index + len(ids) if index < 0 else index
    if index == 0:
        raise UsageError("The first token is not predicted, since no token is before it. Choose a later one.")
    return index


class _Reading:
    """One pass over the text before the token, and the activations recorded in it."""

    def __init__(
        self,
        loaded: LoadedModel,
        context: Sequence[int],
        top: int,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self._loaded, self._context = loaded, context
        self._best: dict[int, tuple[Tensor, Tensor]] = {}
        """For each block, the largest attention weight of each head in the last row, and its position."""
        rows = AttentionRows(loaded.model, [len(context) - 1])
        with on_attention(loaded.model, rows.see), on_attention(loaded.model, self._see):
            self.traced: Trace = trace(
                loaded.model,
                context,
                [len(context) - 1],
                parts=True,
                progress=None if progress is None else lambda done, total: progress("Reading", done, total),
            )
        self.row: AttentionRow | None = None
        """None if no block has attention."""
        if attention_blocks(loaded.config):
            self.row = rows.taken(loaded.tokenizer, context, len(context) - 1, top=top)[None]

    def looked_at(self, head: HeadLogit) -> LookedAt | None:
        """The token a head attends to most, except the first; None if there is no other."""
        weights, places = self._best[head.block]
        weight, place = float(weights[head.head]), int(places[head.head])
        if weight <= 0:
            return None
        seen = token(self._loaded.tokenizer, self._context[place])
        return LookedAt(place, seen.id, seen.text, seen.bytes, weight)

    def _see(self, call: AttentionCall) -> None:
        row = call.weights(call.new - 1)[0, :, 0]  # (H, S)
        # Overwritten by every chunk of the text; the positions are right for the last chunk, and only its row is used.
        first = len(self._context) - call.seen
        if first == 0:
            row[:, 0] = 0
        weights, places = row.max(1)
        self._best[call.block] = (weights, places + first)


def _verified(
    loaded: LoadedModel,
    context: Sequence[int],
    target: int,
    before: float,
    parts: Attribution,
    seed: int,
    progress: Callable[[str, int, int], None] | None,
) -> Verification:
    heads = [HeadName(head.block, head.head) for head in parts.heads]
    neurons = [NeuronName(neuron.block, neuron.neuron) for neuron in parts.neurons if neuron.expert is None]
    other_heads, other_neurons = _controls(loaded, heads, neurons, random.Random(seed))
    plans: list[tuple[Sequence[HeadName], Sequence[NeuronName], bool]] = [
        *(([head], [], False) for head in heads),
        (other_heads[:1], [], True),
        *(([], [neuron], False) for neuron in neurons),
        ([], other_neurons[:1], True),
        (heads, neurons, False),
        (other_heads, other_neurons, True),
    ]
    plans = [plan for plan in plans if plan[0] or plan[1]]
    ablations = []
    for done, (some_heads, some_neurons, control) in enumerate(plans, 1):
        with (
            without_heads(loaded.model, [(name.block, name.head) for name in some_heads]),
            without_neurons(loaded.model, [(name.block, name.neuron) for name in some_neurons]),
        ):
            residual = trace(loaded.model, context, [len(context) - 1]).residuals[-1, 0]
        after = float(log_probabilities(loaded, residual)[target].exp())
        ablations.append(ComponentAblation(tuple(some_heads), tuple(some_neurons), control, after))
        if progress is not None:
            progress("Verifying", done, len(plans))
    return Verification(before, tuple(ablations), seed)


def _controls(
    loaded: LoadedModel, heads: Sequence[HeadName], neurons: Sequence[NeuronName], drawn: random.Random
) -> tuple[list[HeadName], list[NeuronName]]:
    """The same numbers of random heads and neurons, from any block, other than the given ones."""
    config = loaded.config
    every_head = [
        HeadName(block, head) for block in attention_blocks(config) for head in range(head_count(config, block))
    ]
    every_neuron = [
        NeuronName(index, neuron)
        for index, block in enumerate(blocks(loaded.model))
        if "feed_forward" in parts_of(config, index) and not isinstance(block.mlp, MixtureOfExperts)
        for neuron in range(config.width_of(config.layers[index]))
    ]
    return _others(every_head, heads, drawn), _others(every_neuron, neurons, drawn)


def _others(every: Sequence[_Named], named: Sequence[_Named], drawn: random.Random) -> list[_Named]:
    """`len(named)` random ones of `every` that are not in `named`."""
    some = drawn.sample(every, min(len(every), 2 * len(named)))
    return [one for one in some if one not in named][: len(named)]
