"""What each attention head does with a text that repeats: the head atlas, and the proof that its heads matter.

In tokens [BOS] + r + r, with n tokens in r, an induction head looks from each token of the second r to what came after
the same token in the first (Olsson et al. 2022, arXiv:2209.11895), and predicts by that.

Dimension letters: B batch, H query heads, R rows of queries, S keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.api import LoadedModel
from llmcli.errors import PromptTooLongError, UsageError
from llmcli.inspection.core.ablation import logprobs_from, without_heads
from llmcli.inspection.core.hooks import AttentionCall, on_attention
from llmcli.text.tokenizer import Tokenizer

# Weights held at a time, in float32: 64 MiB.
_WEIGHTS_AT_ONCE = 1 << 24
# Vocabularies are numbered by how common tokens are, roughly; rare ones may hardly have been seen in training.
_COMMON = 20_000
# A share of less attention than rounding makes is none.
_NOTHING = 1e-6
_SHORTEST = 3  # in a shorter text the token before and the one after the last occurrence are the same


@dataclass(frozen=True)
class Repeats:
    """Texts of the same length that say everything twice."""

    rows: tuple[tuple[int, ...], ...]
    """The token ids of each: `[BOS] + r + r`."""
    length: int
    """n, the tokens of r."""
    bos: bool
    """The tokenizer has a BOS, and the texts begin with it."""
    seed: int | None
    """What random tokens were drawn by; None where the text was given."""

    @property
    def second(self) -> int:
        """The position where the second r begins."""
        return self.bos + self.length


@dataclass(frozen=True)
class HeadScores:
    """Where one head looks: shares of attention, 0 to 1, averaged over the queries that can see the key in question.

    None where none can, as in a block whose window is shorter than r. The scores `without_sink` are shares of what the
    head gives to other positions than the first; the first is never counted as any of the other kinds.
    """

    layer: int
    """The head's block."""
    head: int
    previous: float | None
    """At the token before."""
    duplicate: float | None
    """In the second r: at the same token in the first."""
    induction: float | None
    """In the second r: at what came after the same token in the first."""
    sink: float | None
    """At the first position of all."""
    previous_without_sink: float | None
    duplicate_without_sink: float | None
    induction_without_sink: float | None
    learned_sink: float | None
    """Spent on nothing, by models whose heads have learned to; None in others."""


@dataclass(frozen=True)
class Head:
    """A head by its block and its number there."""

    layer: int
    head: int


@dataclass(frozen=True)
class HeadAblation:
    """The loss on the second r, in nats a token but its first, with heads on and off."""

    heads: tuple[Head, ...]
    """The strongest induction heads."""
    before: float
    without: float
    """With those heads off."""
    random: tuple[float, ...]
    """With as many other heads off, in several draws."""

    @property
    def random_mean(self) -> float:
        """Over the draws."""
        return sum(self.random) / len(self.random)


@dataclass(frozen=True)
class HeadAtlas:
    """Every head of a model, block by block."""

    length: int
    """Tokens that are repeated."""
    batch: int
    bos: bool
    seed: int | None
    heads: tuple[HeadScores, ...]
    ablation: HeadAblation | None = None


def random_repeats(loaded: LoadedModel, *, length: int = 50, batch: int = 4, seed: int = 0) -> Repeats:
    """Repeats of different common tokens, drawn by `seed`: shorter ones where context or vocabulary are small.

    Raises:
        UsageError: there is no room for three tokens twice.
    """
    tokenizer = loaded.tokenizer
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    length = min(length, (loaded.config.context_length - len(bos)) // 2)
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(batch):
        ids = torch.randperm(min(tokenizer.vocab_size, _COMMON), generator=generator).tolist()
        ordinary = (token for token in ids if _is_ordinary(tokenizer, token))
        drawn.append([token for token, _ in zip(ordinary, range(length), strict=False)])
    length = min(map(len, drawn))
    if length < _SHORTEST:
        raise UsageError("The model has too few tokens, or too short a context, to be shown a text that repeats.")
    return Repeats(tuple((*bos, *r[:length], *r[:length]) for r in drawn), length, bool(bos), seed)


def text_repeats(loaded: LoadedModel, ids: Sequence[int]) -> Repeats:
    """The tokens of a text, without the BOS they may begin with, twice.

    Raises:
        UsageError: the text has less than three tokens.
        PromptTooLongError: twice the text is longer than the model's context.
    """
    first = loaded.tokenizer.bos_id
    bos = () if first is None else (first,)
    r = tuple(ids[1:] if bos and tuple(ids[:1]) == bos else ids)
    if len(r) < _SHORTEST:
        raise UsageError(f"The text has {len(r)} tokens; repeating it says something from {_SHORTEST} tokens on.")
    row = (*bos, *r, *r)
    if len(row) > loaded.config.context_length:
        raise PromptTooLongError(
            f"Said twice the text has {len(row)} tokens, but the model's context holds {loaded.config.context_length}."
        )
    return Repeats((row,), len(r), bool(bos), None)


@torch.inference_mode()
def head_atlas(
    loaded: LoadedModel,
    repeats: Repeats,
    progress: Callable[[int, int], None] | None = None,
    *,
    weights_at_once: int = _WEIGHTS_AT_ONCE,
) -> HeadAtlas:
    """Score every head in one pass over the repeats; `progress` hears the blocks passed and how many there are.

    At most `weights_at_once` attention weights are held at a time.
    """
    found: list[HeadScores] = []

    def see(call: AttentionCall) -> None:
        found.extend(_block_scores(call, repeats, weights_at_once))
        if progress is not None:
            progress(call.block + 1, loaded.config.num_layers)

    with on_attention(loaded.model, see):
        loaded.model(torch.tensor(repeats.rows, device=loaded.model.device), only_last=True)
    return HeadAtlas(repeats.length, len(repeats.rows), repeats.bos, repeats.seed, tuple(found))


def ablate_induction(
    loaded: LoadedModel,
    repeats: Repeats,
    heads: Sequence[HeadScores],
    count: int,
    *,
    draws: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> HeadAblation:
    """How much harder the second r is without the `count` strongest induction heads, and without as many others.

    Raises:
        UsageError: there are not so many heads that can look that far back, or not as many others.
    """
    able = [score for score in heads if score.induction is not None]
    strongest = sorted(able, key=lambda score: -(score.induction or 0.0))[:count]
    chosen = [(score.layer, score.head) for score in strongest]
    others = [(score.layer, score.head) for score in heads if (score.layer, score.head) not in set(chosen)]
    most = min(len(able), len(heads) // 2)
    if not 1 <= count <= most:
        raise UsageError(
            f"{count} heads cannot be switched off and compared with as many others: choose from 1 to {most}."
        )
    generator = torch.Generator().manual_seed(seed)
    losses = []
    sets = [[], chosen] + [
        [others[index] for index in torch.randperm(len(others), generator=generator)[:count].tolist()]
        for _ in range(draws)
    ]
    for done, off in enumerate(sets, 1):
        with without_heads(loaded.model, off) if off else nullcontext():
            losses.append(_repeat_loss(loaded, repeats))
        if progress is not None:
            progress(done, len(sets))
    before, without, *random = losses
    return HeadAblation(tuple(Head(*place) for place in chosen), before, without, tuple(random))


def _is_ordinary(tokenizer: Tokenizer, token: int) -> bool:
    """The token stands for text of its own."""
    if not tokenizer.piece(token) or tokenizer.is_added(token):
        return False
    try:
        return bool(tokenizer.token_bytes(token).decode())
    except UnicodeDecodeError:
        return False


def _block_scores(call: AttentionCall, repeats: Repeats, weights_at_once: int) -> Iterator[HeadScores]:
    """The scores of one block's heads, from a few rows of its attention patterns at a time."""
    batch, heads = call.q.shape[:2]
    n, second = repeats.length, repeats.second
    # How far back the key is, and which query is the first to count.
    kinds = {"previous": (1, 1), "duplicate": (n, second), "induction": (n - 1, second)}
    stripes = {kind: _Stripe(heads, call.q.device) for kind in (*kinds, "sink")}
    unspent = torch.zeros(heads, device=call.q.device)
    step = max(1, weights_at_once // (batch * heads * call.seen))
    for start in range(0, call.new, step):
        queries = torch.arange(start, min(start + step, call.new), device=call.q.device)
        weights = call.weights(start, start + len(queries))  # (B, H, R, S)
        spent = weights.sum(-1)  # (B, H, R)
        unspent += (1 - spent).sum((0, 2))
        elsewhere = spent - weights[..., 0]
        for kind, (distance, first) in kinds.items():
            keys = queries - distance
            counted = (queries >= first) & (keys > 0) & _visible(call, queries, keys.clamp(min=0))
            stripes[kind].add(weights, elsewhere, counted, keys[counted])
        counted = (queries > 0) & _visible(call, queries, torch.zeros_like(queries))
        stripes["sink"].add(weights, spent, counted, torch.zeros_like(queries)[counted])
    learned = getattr(call.attention, "sinks", None) is not None
    for head in range(heads):
        yield HeadScores(
            layer=call.block,
            head=head,
            **{kind: stripe.mean(head) for kind, stripe in stripes.items()},
            **{f"{kind}_without_sink": stripes[kind].share(head) for kind in kinds},
            learned_sink=float(unspent[head]) / (batch * call.new) if learned else None,
        )


def _visible(call: AttentionCall, queries: Tensor, keys: Tensor) -> Tensor:
    """Which of the queries can see each its key."""
    return keys <= queries if call.mask is None else call.mask[queries, keys]


class _Stripe:
    """What each head gives to one key of each query, summed over queries and texts."""

    def __init__(self, heads: int, device: torch.device) -> None:
        self._given = torch.zeros(heads, device=device)
        self._of = torch.zeros(heads, device=device)
        self._pairs = 0

    def add(self, weights: Tensor, of: Tensor, counted: Tensor, keys: Tensor) -> None:
        """Count in some of the R queries of `weights` (B, H, R, S), each with its key, as part of `of` (B, H, R)."""
        rows = counted.nonzero()[:, 0]
        self._given += weights[:, :, rows, keys].sum((0, 2))
        self._of += of[:, :, rows].sum((0, 2))
        self._pairs += len(weights) * len(rows)

    def mean(self, head: int) -> float | None:
        """The head's mean over all that was counted in."""
        return float(self._given[head]) / self._pairs if self._pairs else None

    def share(self, head: int) -> float | None:
        """Of everything in `of`: the mean with queries weighted by it, so that a head at rest does not count."""
        of = float(self._of[head])
        return float(self._given[head]) / of if of > _NOTHING * max(self._pairs, 1) else None


@torch.inference_mode()
def _repeat_loss(loaded: LoadedModel, repeats: Repeats) -> float:
    """Mean negative log-probability of the second r but for its first token, which nothing announces; nats."""
    ids = torch.tensor(repeats.rows, device=loaded.model.device)
    first = repeats.second + 1
    total, place = 0.0, first
    for logprobs in logprobs_from(loaded.model, ids, first, loaded.tokenizer.vocab_size):
        targets = ids[:, place : place + logprobs.shape[1], None]
        total -= float(logprobs.gather(-1, targets).sum())
        place += logprobs.shape[1]
    return total / (len(ids) * (ids.shape[1] - first))
