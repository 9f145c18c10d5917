"""Whether a model fits on several GPUs, and how fast it could be there, from the headers alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.load_packed import Packing, default_packing, planned_formats
from llmcli.checkpoint.memory_estimate import Footprint, footprint, longest_context, parameter_bytes
from llmcli.checkpoint.rank_part import rank_part
from llmcli.errors import OutOfMemoryError, UnsupportedModelError, UsageError
from llmcli.model.meta_device import meta_model
from llmcli.model.parallel.cost import Card, StepCost, assumed_card, step_cost
from llmcli.model.parallel.split import Rank, rank_counts
from llmcli.sizes import size

RESERVED = 3 << 29
"""Bytes of each GPU that CUDA and NCCL take: 1.5 GiB."""
_CUDA = torch.device("cuda")
_CONTEXT = 4096
_MOST_RANKS = 64
_UNITS = {"GB": 10**9, "GiB": 1 << 30}


@dataclass(frozen=True)
class Cards:
    """Equal GPUs."""

    count: int
    memory: int
    """Bytes of each."""


@dataclass(frozen=True)
class SplitPlan:
    """A model on several GPUs."""

    cards: Cards
    assumed: Card
    weights: str
    """How the weights are kept: a packing or a dtype."""
    context: int
    needed: Footprint
    """On the rank with the most."""
    longest_context: int
    """The longest context that fits, in tokens."""
    cost: StepCost
    """Of a token after `context` tokens."""
    rank_counts: Sequence[int]
    """Numbers of ranks, up to 64, that the model can be split over."""


def parse_cards(text: str) -> Cards:
    """The GPUs that `text` describes, as "2x80GB" or "4x24GiB"; "auto": those of this machine.

    Raises:
        UsageError: it has another form, or this machine has no GPU.
    """
    if text == "auto":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise UsageError("There is no GPU here to plan for; describe some, as --plan 2x80GB.")
        return Cards(count, min(torch.cuda.get_device_properties(index).total_memory for index in range(count)))
    found = re.fullmatch(r"([1-9]\d{0,3})x(\d{1,5}(?:\.\d+)?)(GB|GiB)", text.strip())
    if found is None or not float(found[2]):
        raise UsageError(f"--plan needs a number of GPUs and the memory of each, as 2x80GB or auto, not {text!r}.")
    return Cards(int(found[1]), int(float(found[2]) * _UNITS[found[3]]))


def split_plan(checkpoint: Checkpoint, cards: Cards, *, context: int | None, packing: Packing | None) -> SplitPlan:
    """Plan a model on `cards`, one rank on each, for `context` tokens.

    Raises:
        UnsupportedModelError: it cannot be split over that many ranks.
        OutOfMemoryError: it does not fit; the message says what would.
    """
    most = checkpoint.config.context_length
    if context is not None and context > most:
        raise UsageError(f"The model was made for {most} tokens, so a context of {context} cannot be planned.")
    counts = rank_counts(checkpoint.config, _MOST_RANKS)
    if 1 < cards.count <= _MOST_RANKS and cards.count not in counts:
        raise UnsupportedModelError(
            f"{checkpoint.path} cannot be split over {cards.count} ranks. Numbers that it can: {ranges(counts)}."
        )
    packing = packing or default_packing(checkpoint, _CUDA)
    context = context or min(_CONTEXT, most)
    part = _Part(checkpoint, cards.count, packing)
    needed, free = part.needed(context), cards.memory - RESERVED
    if needed.total > free:
        fitting = ", ".join(_fitting(checkpoint, cards, counts, context, packing))
        raise OutOfMemoryError(
            f"{checkpoint.path} does not fit on {cards.count} x {size(cards.memory)}: each rank takes "
            f"{size(needed.total)}, with {size(needed.weights)} for weights and {size(needed.cache)} for a context of "
            f"{context} tokens, and has {size(max(0, free))} for them. "
            + (f"This would fit: {fitting}." if fitting else "No number of such GPUs up to 64 would do.")
        )
    assumed = assumed_card(cards.memory)
    return SplitPlan(
        cards=cards,
        assumed=assumed,
        weights=packing or str(part.dtype).removeprefix("torch."),
        context=context,
        needed=needed,
        longest_context=max(context, part.longest(most, free)),
        cost=step_cost(checkpoint.config, cards.count, assumed, part.nbytes(), context),
        rank_counts=counts,
    )


def ranges(numbers: Sequence[int]) -> str:
    """Increasing numbers as "2-8, 16"; "none" for no numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs) or "none"


class _Part:
    """The part of rank 0, which has the most."""

    def __init__(self, checkpoint: Checkpoint, count: int, packing: Packing | None) -> None:
        part = checkpoint if count == 1 else rank_part(checkpoint, Rank(0, count))
        self.dtype = torch.float16 if checkpoint.stored_dtype() == torch.float16 else torch.bfloat16
        self._model = meta_model(part.config)
        self._planned = planned_formats(self._model, packing, part, _CUDA)

    def needed(self, context: int) -> Footprint:
        return footprint(self._model, self._planned, self.dtype, context, _CUDA)

    def longest(self, most: int, free: int) -> int:
        if self.needed(most).total <= free:
            return most
        return longest_context(self._model, self._planned, self.dtype, most, _CUDA, free)

    def nbytes(self) -> dict[str, int]:
        return parameter_bytes(self._model, self._planned, self.dtype)


def _fitting(
    checkpoint: Checkpoint, cards: Cards, counts: Sequence[int], context: int, packing: Packing | None
) -> Iterator[str]:
    """What would fit: a packing on these cards, or more of them."""
    free = cards.memory - RESERVED
    kinds: tuple[Packing, ...] = ("int8", "int4")
    for kind in kinds if packing is None else ():
        needed = _Part(checkpoint, cards.count, kind).needed(context).total
        if needed <= free:
            yield f"--quantize {kind} ({size(needed)} a rank)"
    for count in counts:
        if count <= cards.count:
            continue
        try:
            needed = _Part(checkpoint, count, packing).needed(context).total
        except UnsupportedModelError:
            continue
        if needed <= free:
            yield f"{count} of these GPUs ({size(needed)} a rank)"
            return
