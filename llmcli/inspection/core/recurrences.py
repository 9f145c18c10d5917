"""The recurrences of a model's blocks: hooks that see them, and their inputs in words that all kinds share.

Dimension letters: B batch, T new tokens, U units that fade by a factor of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from llmcli.inspection.core.hooks import blocks, removed
from llmcli.model import Transformer
from llmcli.model.recurrent.delta_rule import delta_rule
from llmcli.model.recurrent.mlstm import mlstm
from llmcli.model.recurrent.recurrence import Recurrence, Rule
from llmcli.model.recurrent.rwkv4 import wkv
from llmcli.model.recurrent.ssd import ssd

Unit: TypeAlias = Literal["head", "key channel", "channel", "state value"]
"""What fades by one factor: a head's whole memory, that of one value of its keys, a channel's, or a single value."""

# Of the rules whose inputs are logarithms of decays: the place of these among the inputs, the place of what says how
# strongly a token is written, and the number with which nothing is written.
_STRENGTHS: dict[Rule, tuple[int, int, float]] = {
    delta_rule: (3, 4, 0.0),
    mlstm: (3, 4, -torch.inf),
    wkv: (1, 2, -torch.inf),
}
# Of state-space models, for which the product of both is the logarithm.
_STEP, _RATE = 1, 2


@dataclass(frozen=True)
class RecurrenceCall:
    """The inputs of one block's recurrence for T tokens from the beginning of a text."""

    block: int
    rule: Rule
    inputs: tuple[Tensor, ...]
    """Without the memory before the text, which is empty."""

    @property
    def unit(self) -> Unit:
        """What fades by one factor."""
        if self.rule is delta_rule:
            return "head" if self.inputs[_STRENGTHS[delta_rule][0]].shape[-1] == 1 else "key channel"
        units: dict[Rule, Unit] = {ssd: "head", mlstm: "head", wkv: "channel"}
        return units.get(self.rule, "state value")

    def log_decay(self) -> Tensor:
        """Logarithms (B, T, U) of the factors by which the tokens let the memory fade."""
        if self.rule in _STRENGTHS:
            return self.inputs[_STRENGTHS[self.rule][0]].flatten(2)
        step, rate = self.inputs[_STEP], self.inputs[_RATE]
        return step * rate if self.rule is ssd else (step[..., None] * rate).flatten(2)

    def memory_after(self, tokens: int) -> Tensor | None:
        """The memory (B, ...) after the first `tokens`; None before the text."""
        return self.rule(*self._part(slice(tokens)), None)[1] if tokens else None

    def step(self, at: int, memory: Tensor | None, *, writes: bool = True) -> tuple[Tensor, Tensor]:
        """What the token `at` reads (B, 1, ...), and the memory after it, which only fades unless it `writes`."""
        inputs = list(self._part(slice(at, at + 1)))
        if not writes:
            # State-space models then write a value of zero.
            _, place, nothing = _STRENGTHS.get(self.rule, (0, 0, 0.0))
            inputs[place] = torch.full_like(inputs[place], nothing)
        return self.rule(*inputs, memory)

    def written(self, at: int) -> float:
        """The length of what the token `at` wrote, as a share of the memory's length after it."""
        before = self.memory_after(at)
        after, faded = (self.step(at, before, writes=writes)[1] for writes in (True, False))
        if self.rule in (mlstm, wkv):
            sums, scales = zip(*map(self._scaled, (after, faded)), strict=True)
            largest = scales[0].max()
            after, faded = (part * (scale - largest).exp() for part, scale in zip(sums, scales, strict=True))
        whole = float(after.norm())
        return float((after - faded).norm()) / whole if whole > 0 else 0.0

    def _scaled(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The sums in a memory, and the logarithms of what they are divided by, in shapes that broadcast."""
        if self.rule is mlstm:
            return memory[..., :-1], memory[..., -1:]
        return memory[:, :-1], memory[:, -1:]

    def _part(self, tokens: slice) -> tuple[Tensor, ...]:
        """The inputs of some tokens. The rate of state-space models is the same for all."""
        return tuple(
            values if place == _RATE and self.rule not in _STRENGTHS else values[:, tokens]
            for place, values in enumerate(self.inputs)
        )


def recurrences_of(model: Transformer, block: int) -> list[Recurrence]:
    """The recurrence of a block, as a list of one or none."""
    return [module for module in blocks(model)[block].modules() if isinstance(module, Recurrence)]


@contextmanager
def on_recurrence(model: Transformer, see: Callable[[RecurrenceCall], None]) -> Iterator[None]:
    """`see(call)`: the inputs of each block's recurrence, in passes over a whole text without a cache."""

    def seeing(block: int, rule: Rule) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _module, inputs: see(RecurrenceCall(block, rule, inputs[:-1]))

    with removed(
        module.register_forward_pre_hook(seeing(block, module.rule))
        for block in range(model.config.num_layers)
        for module in recurrences_of(model, block)
    ):
        yield


def skipping(rule: Rule, inputs: tuple[Tensor | None, ...], positions: Collection[int]) -> tuple[Tensor | None, ...]:
    """`inputs` of a recurrence as if the tokens at `positions` left the memory as it is: they write nothing in it, and
    do not let it fade.
    """
    changed = list(inputs)
    decay, strength, nothing = _STRENGTHS.get(rule, (_STEP, _STEP, 0.0))
    for place, number in ((decay, 0.0), (strength, nothing)):
        values = changed[place]
        assert values is not None
        changed[place] = values = values.clone()
        values[:, sorted(positions)] = number
    return tuple(changed)
