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
from llmcli.model.recurrent.recurrence import Recurrence, Rule
from llmcli.model.recurrent.ssd import ssd

Unit: TypeAlias = Literal["head", "key channel", "state value"]
"""What fades by one factor: a head's whole memory, the memory of one value of its keys, or a single value."""

_DELTA_BETA, _DELTA_DECAY, _STEP, _RATE = 4, 3, 1, 2


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
            return "head" if self.inputs[_DELTA_DECAY].shape[-1] == 1 else "key channel"
        return "head" if self.rule is ssd else "state value"

    def log_decay(self) -> Tensor:
        """Logarithms (B, T, U) of the factors by which the tokens let the memory fade."""
        if self.rule is delta_rule:
            return self.inputs[_DELTA_DECAY].flatten(2)
        step, rate = self.inputs[_STEP], self.inputs[_RATE]
        return step * rate if self.rule is ssd else (step[..., None] * rate).flatten(2)

    def memory_after(self, tokens: int) -> Tensor | None:
        """The memory (B, ...) after the first `tokens`; None before the text."""
        return self.rule(*self._part(slice(tokens)), None)[1] if tokens else None

    def step(self, at: int, memory: Tensor | None, *, writes: bool = True) -> tuple[Tensor, Tensor]:
        """What the token `at` reads (B, 1, ...), and the memory after it, which only fades unless it `writes`."""
        inputs = list(self._part(slice(at, at + 1)))
        if not writes:
            # Without a strength, the delta rule writes nothing; the other rules write no value.
            place = _DELTA_BETA if self.rule is delta_rule else 0
            inputs[place] = torch.zeros_like(inputs[place])
        return self.rule(*inputs, memory)

    def _part(self, tokens: slice) -> tuple[Tensor, ...]:
        """The inputs of some tokens. The rate of state-space models is the same for all."""
        return tuple(
            values if place == _RATE and self.rule is not delta_rule else values[:, tokens]
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
    for place in (_DELTA_BETA, _DELTA_DECAY) if rule is delta_rule else (_STEP,):
        values = changed[place]
        assert values is not None
        changed[place] = values = values.clone()
        values[:, sorted(positions)] = 0
    return tuple(changed)
