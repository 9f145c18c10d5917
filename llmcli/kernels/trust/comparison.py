"""Compare a kernel's logits with the readable model's, on tiny models.

Dimension letters: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.kernels.base import FastStep
from llmcli.kernels.sampling_filters import SamplingRequest
from llmcli.kernels.trust.tiny_models import GPT, LLAMA, RECURRENT, Case
from llmcli.model import KVCache, Transformer
from llmcli.model.quantized.layout import narrow, wide

# The greatest error by rounding of a row of logits, relative to its norm. Measured: 2e-6 in float32, 6e-5 with packed
# weights, 2e-2 with keys and values in bfloat16, 5e-2 where the readable model reads the prompt in bfloat16. Leaving
# out a feature changes some row by 3e-2 or more, mostly by 2e-1 (a test leaves out each feature in turn).
_TOLERANCE, _TOLERANCE_16 = 1e-3, 1e-1
# Tokens of each call: more than a window and a chunk, and with packed weights more than a tile of the kernel.
_READ, _FURTHER, _SINGLE, _EACH = 20, 12, 2, 3
_CHOSEN = 4

MakeStep: TypeAlias = Callable[[Transformer], FastStep]
"""Makes the kernel's step for a model, or raises an error if the kernel cannot run it."""

CPU_CASES = (
    Case("float32", LLAMA, torch.float32),
    Case("bfloat16", LLAMA, torch.bfloat16),
    Case("int8", LLAMA, torch.bfloat16, (narrow(8),)),
    Case("int4", LLAMA, torch.bfloat16, (narrow(4),)),
    Case("float32 with layer norms", GPT, torch.float32),
    Case("int4 with layer norms", GPT, torch.float32, (narrow(4),)),
    Case("int4 with recurrent layers", RECURRENT, torch.float32, (narrow(4),)),
)
CUDA_CASES = (Case("bfloat16, int4 and int8", LLAMA, torch.bfloat16, (None, wide(4, 32), wide(8, 32))),)
"""A single model whose layers have different formats: every kernel is compiled for each kind of weights, some 20 in
all, and a second model or passes of several tokens would take as long again."""


def fault_of(cases: Sequence[Case], make_step: MakeStep, device: torch.device) -> str:
    """Describe the first difference between the step's logits and the readable model's; empty: they agree.

    Raises any error of making or running the step.
    """
    with one_thread(), torch.inference_mode():
        for case in cases:
            model, exact = case.models(device)
            most = _TOLERANCE if case.dtype == torch.float32 else _TOLERANCE_16
            for what, error in _errors(model, exact, make_step(model)):
                # Not `error > most`: the error may be NaN.
                if not error <= most:
                    amount = f"differ by {100 * error:.2g} % from" if error < torch.inf else "are not finite, unlike"
                    return f"{case.name}, {what}: logits {amount} the readable model's (rounding: {100 * most:g} %)"
    return ""


def _errors(model: Transformer, exact: Transformer, step: FastStep) -> Iterator[tuple[str, float]]:
    """For each kind of call, its name and the greatest relative error of a row of logits."""
    can = step.capabilities
    ids = torch.randint(model.config.vocab_size, (64,), generator=torch.Generator().manual_seed(1)).tolist()
    cache = model.new_cache(capacity=4)
    reference = _Reference(exact, ids)

    def read(count: int) -> Tensor:
        return step.forward(ids[cache.length : cache.length + count], cache, only_last=False)

    yield "a prompt", reference.error(cache, read(_READ))
    yield "single tokens", max(reference.error(cache, read(1)) for _ in range(_SINGLE))
    if can.most_each > 1:
        yield "more of the prompt", reference.error(cache, read(_FURTHER))
        yield "a few tokens", reference.error(cache, read(_EACH))
        logits = step.forward_each(_next(ids, cache, _EACH), cache)
        yield "a few tokens as if one by one", reference.error(cache, logits)
    if can.device_tokens:
        token = torch.tensor(_next(ids, cache, 1), device=model.device)
        yield "a token on the device", reference.error(cache, step.forward_device_token(token, cache))
    if can.most_rows > 1:
        other = model.new_cache(capacity=4)
        step.forward(ids[: _READ - 1], other)
        tokens = _next(ids, cache, 1) + _next(ids, other, 1)
        logits = step.forward_rows(tokens, (cache, other))
        yield "two texts", max(reference.error(cache, logits[:1]), reference.error(other, logits[1:]))
    if can.chooses(_Greedy()):
        token = ids[cache.length]
        before = [*ids[: cache.length], token]
        request = SamplingRequest(_Greedy(), [0.5] * _CHOSEN, model.config.vocab_size)
        chosen = step.forward_multi_step(token, cache, request)
        yield "several tokens in one call", _Reference(exact, [*before, *chosen]).shortfall(len(before), chosen)
        if can.most_rows > 1:
            yield "several tokens of two texts in one call", _of_two(model, exact, step, ids)


def _of_two(model: Transformer, exact: Transformer, step: FastStep, ids: Sequence[int]) -> float:
    """The shortfall of tokens chosen for two texts, of which one ends before the other."""
    lengths, counts = (_READ, _SINGLE), (1, _CHOSEN)
    caches = [model.new_cache(capacity=4) for _ in lengths]
    for cache, length in zip(caches, lengths, strict=True):
        step.forward(ids[:length], cache)
    requests = [SamplingRequest(_Greedy(), [0.5] * count, model.config.vocab_size) for count in counts]
    found = step.forward_rows_multi_step([ids[length] for length in lengths], caches, requests)
    worst = 0.0
    for length, tokens in zip(lengths, found, strict=True):
        assert isinstance(tokens, list)
        worst = max(worst, _Reference(exact, [*ids[: length + 1], *tokens]).shortfall(length + 1, tokens))
    return worst


def _next(ids: Sequence[int], cache: KVCache, count: int) -> list[int]:
    return list(ids[cache.length : cache.length + count])


class _Reference:
    """The readable model's logits of a text."""

    def __init__(self, exact: Transformer, ids: Sequence[int]) -> None:
        self._logits: Tensor = exact(torch.tensor([list(ids)], device=exact.device))[0].float()  # (T, V)

    def error(self, cache: KVCache, logits: Tensor) -> float:
        """The greatest relative error of a row of `logits`, those of the last tokens in a cache."""
        reference = self._logits[cache.length - len(logits) : cache.length]
        return _greatest((logits - reference).norm(dim=1) / reference.norm(dim=1))

    def shortfall(self, start: int, chosen: Sequence[int]) -> float:
        """How far the logits of the tokens `chosen`, from position `start` on, are below the greatest logits."""
        rows = self._logits[start - 1 : start - 1 + len(chosen)]
        taken = rows[torch.arange(len(chosen)), torch.tensor(chosen)] if min(chosen) >= 0 else rows[:, 0] - torch.inf
        return _greatest((rows.amax(dim=1) - taken) / rows.norm(dim=1))


def _greatest(errors: Tensor) -> float:
    """The greatest error; infinite if any is NaN."""
    return float(errors.nan_to_num(nan=torch.inf, posinf=torch.inf).amax())


@dataclass(frozen=True)
class _Greedy:
    """Sampling filters for greedy decoding."""

    repeat_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    active: frozenset[str] = frozenset({"temperature"})
