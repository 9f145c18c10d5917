"""The memories of recurrent layers: how fast they fade, and what one token wrote into them and read from them.

A memory fades by a factor exp(g) at each token, with g <= 0. Where the mean of g over a text is m, half of what was
written is left after ln 2 / -m tokens: the half-life. The delta rule also replaces what the memory holds for a key, so
a memory may lose a thing sooner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from llmcli.errors import PromptTooLongError, UsageError
from llmcli.inspection.core.hooks import blocks, removed
from llmcli.inspection.core.recurrences import RecurrenceCall, Unit, on_recurrence
from llmcli.inspection.core.tokens import Token, tokens
from llmcli.loaded_model import LoadedModel
from llmcli.model import ModelConfig
from llmcli.model.mixer_config import ShortConvConfig, mixer_name
from llmcli.model.recurrent.delta_net import DeltaNet
from llmcli.model.recurrent.mamba import Mamba
from llmcli.model.recurrent.mamba2 import Mamba2
from llmcli.model.recurrent.mlstm import Mlstm
from llmcli.model.recurrent.rglru import Rglru
from llmcli.model.recurrent.rwkv4 import TimeMixing

# Shares of the units whose half-lives are no longer than the numbers of `HalfLives`.
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class HalfLives:
    """Half-lives of a memory's units, in tokens: the shortest, the longest, and what cuts them into quarters.

    None: the unit does not fade.
    """

    unit: Unit
    """What fades by one factor."""
    count: int
    shortest: float | None
    lower_quartile: float | None
    median: float | None
    upper_quartile: float | None
    longest: float | None


@dataclass(frozen=True)
class BlockMemory:
    """What a recurrent block remembers, and what one token did with it."""

    block: int
    kind: str
    half_lives: HalfLives
    written: float
    """The length of what the token wrote, as a share of the memory's length after it."""
    added: float
    """The length of what the block's recurrent network added to the residual stream, as a share of the stream's."""
    heads: tuple[float | None, ...]
    """The half-life of each head, in tokens; empty if heads do not fade as a whole."""


@dataclass(frozen=True)
class WindowMemory:
    """A block that only sees the last tokens: a short convolution."""

    block: int
    kind: str
    width: int
    """Tokens that it sees."""


@dataclass(frozen=True)
class Memories:
    """All blocks of a model that remember a text without attention."""

    tokens: tuple[Token, ...]
    position: int
    """The token that `written` and `added` are about."""
    blocks: tuple[BlockMemory, ...]
    windows: tuple[WindowMemory, ...]
    attention_blocks: tuple[int, ...]
    """The blocks with attention, which remember every token they still see."""


@torch.inference_mode()
def memories(
    loaded: LoadedModel, ids: Sequence[int], position: int, progress: Callable[[int, int], None] | None = None
) -> Memories:
    """Read `ids` in one pass and describe each memory; `progress` is called with (blocks done, all blocks).

    Raises:
        PromptTooLongError: the text is longer than the model's context.
        UsageError: there is no such position, or no block of the model has a state or a short convolution.
    """
    model, config = loaded.model, loaded.config
    check_recurrent(config)
    if not 0 <= position < len(ids):
        raise UsageError(f"There is no token {position}: the text has {len(ids)}, numbered from 0.")
    if len(ids) > config.context_length:
        raise PromptTooLongError(
            f"The text has {len(ids)} tokens, but the model's context holds {config.context_length}."
        )
    found: list[BlockMemory] = []
    added: dict[int, float] = {}

    def see(call: RecurrenceCall) -> None:
        found.append(_memory(call, _kind(loaded, call.block), position))
        if progress is not None:
            progress(call.block + 1, config.num_layers)

    def measure(block: int, entering: Tensor, output: Tensor) -> None:
        added[block] = float(output[0, position].float().norm() / entering[0, position].float().norm())

    with on_recurrence(model, see), _on_mixers(loaded, measure):
        model(torch.tensor([list(ids)], device=model.device), only_last=True)
    return Memories(
        tokens=tokens(loaded.tokenizer, ids),
        position=position,
        blocks=tuple(replace(memory, added=added[memory.block]) for memory in found),
        windows=tuple(
            WindowMemory(index, mixer_name(mixer), mixer.width)
            for index, layer in enumerate(config.layers)
            for mixer in layer.mixers
            if isinstance(mixer, ShortConvConfig)
        ),
        attention_blocks=tuple(index for index, layer in enumerate(config.layers) if layer.attends),
    )


def check_recurrent(config: ModelConfig) -> None:
    """Raise `UsageError` if no block of the model has a state or a short convolution."""
    if not any(layer.mixers for layer in config.layers):
        raise UsageError("This model has no recurrent layers: it remembers the text by attention only.")


def _memory(call: RecurrenceCall, kind: str, position: int) -> BlockMemory:
    """The memory of a block, without what it added."""
    rates = call.log_decay()[0].float()  # (T, U)
    lives = half_lives(rates.mean(0))
    return BlockMemory(
        block=call.block,
        kind=kind,
        half_lives=_summary(call.unit, lives),
        written=call.written(position),
        added=0.0,
        heads=tuple(map(_finite, lives.tolist())) if call.unit == "head" else (),
    )


def half_lives(mean_log_decay: Tensor) -> Tensor:
    """Tokens after which half is left, from means (U,) of the decays' logarithms, none above zero; infinite for 0."""
    return math.log(2) / mean_log_decay.double().abs()


def _summary(unit: Unit, lives: Tensor) -> HalfLives:
    ordered = lives.sort().values
    places = [round(share * (len(ordered) - 1)) for share in _SHARES]
    return HalfLives(unit, len(ordered), *(_finite(float(ordered[place])) for place in places))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _kind(loaded: LoadedModel, block: int) -> str:
    mixers = loaded.config.layers[block].mixers
    return mixer_name(next(mixer for mixer in mixers if not isinstance(mixer, ShortConvConfig)))


@contextmanager
def _on_mixers(loaded: LoadedModel, see: Callable[[int, Tensor, Tensor], None]) -> Iterator[None]:
    """`see(block, x, output)`: the residual stream before each block, and the output of its recurrent network."""
    entering: dict[int, Tensor] = {}

    def keep(block: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _module, inputs: entering.update({block: inputs[0]})

    def look(block: int) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: see(block, entering[block], output)

    handles: list[RemovableHandle] = []
    for index, block in enumerate(blocks(loaded.model)):
        for module in block.modules():
            if isinstance(module, DeltaNet | Mamba | Mamba2 | Rglru | Mlstm | TimeMixing):
                handles.append(block.register_forward_pre_hook(keep(index)))
                handles.append(module.register_forward_hook(look(index)))
    with removed(handles):
        yield
