"""Head atlas: score every attention head on a repeated text, and ablate the strongest induction heads.

In tokens [BOS] + r + r, with n tokens in r, an induction head attends from each token of the second r to the token
that followed it in the first (Olsson et al. 2022, arXiv:2209.11895), and predicts that token.

Dimension letters: B batch, H query heads, R rows of queries, S keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.errors import PromptTooLongError, UsageError
from llmcli.inspection.core.ablation import logprobs_from, without_heads
from llmcli.inspection.core.hooks import AttentionCall, check_attends, on_attention
from llmcli.loaded_model import LoadedModel
from llmcli.text.tokenizer import Tokenizer

# Attention weights held at a time, in float32: 64 MiB.
_WEIGHTS_AT_ONCE = 1 << 24
# Token ids are roughly ordered by frequency; rare tokens may hardly have been seen in training.
_COMMON = 20_000
# Mean attention below this is rounding error.
_NOTHING = 1e-6
_SHORTEST = 3  # in a shorter text the previous token and the induction target coincide


@dataclass(frozen=True)
class Repeats:
    """Token sequences of equal length that each repeat a text once."""

    rows: tuple[tuple[int, ...], ...]
    """The token ids of each: `[BOS] + r + r`."""
    length: int
    """n, the number of tokens of r."""
    bos: bool
    """Whether the sequences begin with a BOS token."""
    seed: int | None
    """Seed of the random tokens; None if the text was given."""

    @property
    def second(self) -> int:
        """The position where the second r begins."""
        return self.bos + self.length


@dataclass(frozen=True)
class HeadScores:
    """What one head attends to: shares of attention, 0 to 1, averaged over the queries that can see the key.

    None if no query can see it, as in a block with a window shorter than r. The scores `without_sink` are shares of
    the attention that is not on the first position, which never counts as one of the other kinds.
    """

    layer: int
    """The head's block."""
    head: int
    previous: float | None
    """On the previous token."""
    duplicate: float | None
    """In the second r: on the same token in the first."""
    induction: float | None
    """In the second r: on the token after the same token in the first."""
    sink: float | None
    """On the first position of the sequence."""
    previous_without_sink: float | None
    duplicate_without_sink: float | None
    induction_without_sink: float | None
    learned_sink: float | None
    """Absorbed by learned attention sinks; None in models without them."""


@dataclass(frozen=True)
class Head:
    """A head, by block and index in the block."""

    layer: int
    head: int


@dataclass(frozen=True)
class HeadAblation:
    """Loss on the second r without its first token, in nats per token, with and without some heads."""

    heads: tuple[Head, ...]
    """The strongest induction heads."""
    before: float
    without: float
    """With these heads ablated."""
    random: tuple[float, ...]
    """With the same number of other heads ablated, in several random draws."""

    @property
    def random_mean(self) -> float:
        """Mean of `random`."""
        return sum(self.random) / len(self.random)


@dataclass(frozen=True)
class HeadAtlas:
    """Scores of every head of a model, block by block."""

    length: int
    """Number of tokens that are repeated."""
    batch: int
    bos: bool
    seed: int | None
    heads: tuple[HeadScores, ...]
    ablation: HeadAblation | None = None


def random_repeats(loaded: LoadedModel, *, length: int = 50, batch: int = 4, seed: int = 0) -> Repeats:
    """Draw `batch` random sequences of common tokens, each repeated; shorter if context or vocabulary are small.

    Raises:
        UsageError: the context or the vocabulary has no room for three tokens twice.
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
        raise UsageError("The model's vocabulary or context is too small for a repeated text.")
    return Repeats(tuple((*bos, *r[:length], *r[:length]) for r in drawn), length, bool(bos), seed)


def text_repeats(loaded: LoadedModel, ids: Sequence[int]) -> Repeats:
    """Repeat the tokens of a text once, with a single BOS in front.

    Raises:
        UsageError: the text has fewer than three tokens.
        PromptTooLongError: the repeated text is longer than the model's context.
    """
    first = loaded.tokenizer.bos_id
    bos = () if first is None else (first,)
    r = tuple(ids[1:] if bos and tuple(ids[:1]) == bos else ids)
    if len(r) < _SHORTEST:
        raise UsageError(
            f"The text has {len(r)} tokens; give at least {_SHORTEST}, so that repeating it is meaningful."
        )
    row = (*bos, *r, *r)
    if len(row) > loaded.config.context_length:
        raise PromptTooLongError(
            f"The repeated text has {len(row)} tokens, but the model's context holds {loaded.config.context_length}."
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
    """Score every head in one pass over the repeats; `progress` is called with (blocks done, all blocks).

    At most `weights_at_once` attention weights are held at a time.

    Raises:
        UsageError: the model has no attention.
    """
    check_attends(loaded.config)
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
    """Measure the loss on the second r without the `count` strongest induction heads, and without random other heads.

    Raises:
        UsageError: fewer than `count` heads can see that far back, or fewer than `count` other heads are left.
    """
    able = [score for score in heads if score.induction is not None]
    strongest = sorted(able, key=lambda score: -(score.induction or 0.0))[:count]
    chosen = [(score.layer, score.head) for score in strongest]
    others = [(score.layer, score.head) for score in heads if (score.layer, score.head) not in set(chosen)]
    most = min(len(able), len(heads) // 2)
    if not 1 <= count <= most:
        raise UsageError(
            f"{count} heads cannot be switched off and compared with {count} others: choose from 1 to {most}."
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
    """Whether the token is whole text, not a control token or part of a character."""
    if not tokenizer.piece(token) or tokenizer.is_added(token):
        return False
    try:
        return bool(tokenizer.token_bytes(token).decode())
    except UnicodeDecodeError:
        return False


def _block_scores(call: AttentionCall, repeats: Repeats, weights_at_once: int) -> Iterator[HeadScores]:
    """The scores of one block's heads, computed from a few rows of its attention patterns at a time."""
    batch, heads = call.q.shape[:2]
    n, second = repeats.length, repeats.second
    # Distance of the key from the query, and the first query that counts.
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
    """For each query, whether it can see its key; (R,) bool."""
    return keys <= queries if call.mask is None else call.mask[queries, keys]


class _Stripe:
    """Attention of each head on one key per query, summed over queries and texts."""

    def __init__(self, heads: int, device: torch.device) -> None:
        self._given = torch.zeros(heads, device=device)
        self._of = torch.zeros(heads, device=device)
        self._pairs = 0

    def add(self, weights: Tensor, of: Tensor, counted: Tensor, keys: Tensor) -> None:
        """Add the `counted` queries of `weights` (B, H, R, S), each with its key; `of` (B, H, R) is the whole."""
        rows = counted.nonzero()[:, 0]
        self._given += weights[:, :, rows, keys].sum((0, 2))
        self._of += of[:, :, rows].sum((0, 2))
        self._pairs += len(weights) * len(rows)

    def mean(self, head: int) -> float | None:
        """The head's mean attention over all added queries; None if there are none."""
        return float(self._given[head]) / self._pairs if self._pairs else None

    def share(self, head: int) -> float | None:
        """The head's attention as a share of all of `of`, so that queries with little of it hardly count."""
        of = float(self._of[head])
        return float(self._given[head]) / of if of > _NOTHING * max(self._pairs, 1) else None


@torch.inference_mode()
def _repeat_loss(loaded: LoadedModel, repeats: Repeats) -> float:
    """Mean negative log-probability in nats of the second r without its first token, which is unpredictable."""
    ids = torch.tensor(repeats.rows, device=loaded.model.device)
    first = repeats.second + 1
    total, place = 0.0, first
    for logprobs in logprobs_from(loaded.model, ids, first, loaded.tokenizer.vocab_size):
        targets = ids[:, place : place + logprobs.shape[1], None]
        total -= float(logprobs.gather(-1, targets).sum())
        place += logprobs.shape[1]
    return total / (len(ids) * (ids.shape[1] - first))
