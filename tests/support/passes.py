"""Replies, texts read in pieces, and passes that are interrupted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor

from llmcli.engine import Engine, Prefill, SamplingParams, Step
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.model import Transformer

GREEDY = SamplingParams(temperature=0, max_tokens=40)


def reply(engine: Engine, ids: Sequence[int], params: SamplingParams = GREEDY) -> tuple[list[int], int]:
    """The ids of the reply, and how many tokens of the prompt were cached."""
    events = list(engine.stream(ids, params, probabilities=False))
    assert isinstance(events[0], Prefill)
    return [event.id for event in events if isinstance(event, Step)], events[0].cached


def read(cache: PrefixCache, ids: Sequence[int]) -> Tensor:
    """Logits (V,) after a prompt, with marks where the engine sets them."""
    cache.begin(ids, 1000)
    return cache.read(ids)


def chunks(model: Transformer, ids: Sequence[int], *ends: int) -> Tensor:
    """Logits (V,) after a text that is read in the chunks that end at `ends` and at its end."""
    cache = model.new_cache()
    for start, end in pairwise((0, *ends, len(ids))):
        logits = model(torch.tensor([list(ids[start:end])]), cache, only_last=True)
    last: Tensor = logits[0, -1].float()
    return last


@contextmanager
def broken(model: Transformer, block: int) -> Iterator[None]:
    """Inside the block a pass is interrupted after a block of the model."""

    def interrupt(_module: object, _inputs: object, _output: object) -> None:
        raise KeyboardInterrupt

    handle = model.layers[block].register_forward_hook(interrupt)
    try:
        yield
    finally:
        handle.remove()
