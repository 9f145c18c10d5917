"""The ranks of a split model as threads of this process: fast, and with errors of every rank."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.load_packed import Packing
from llmcli.checkpoint.load_weights import load_weights
from llmcli.checkpoint.rank_part import rank_part
from llmcli.model import Transformer
from llmcli.model.parallel.modules import connect
from llmcli.model.parallel.split import Rank, parts_of


@dataclass
class ThreadRanks:
    """What `count` threads compute together."""

    count: int
    barrier: threading.Barrier = field(init=False)
    given: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.count, timeout=60)
        self.given = [torch.empty(0)] * self.count

    def rank(self, index: int) -> ThreadRank:
        """The collectives of one thread."""
        return ThreadRank(self, index)


@dataclass(frozen=True)
class ThreadRank:
    """`Collectives` of one thread."""

    ranks: ThreadRanks
    index: int

    def sum(self, x: Tensor) -> Tensor:
        return self._together(x, lambda given: torch.stack(given).sum(0))

    def concatenate(self, x: Tensor, sizes: list[int]) -> Tensor:
        assert x.shape[-1] == sizes[self.index]
        return self._together(x, lambda given: torch.cat(given, dim=-1))

    def _together(self, x: Tensor, compute: Callable[[list[Tensor]], Tensor]) -> Tensor:
        self.ranks.given[self.index] = x
        self.ranks.barrier.wait()
        result = compute(self.ranks.given)
        self.ranks.barrier.wait()
        return result


def split_models(
    checkpoint: Checkpoint, count: int, packing: Packing | None = None
) -> tuple[list[Transformer], ThreadRanks]:
    """The parts of a model that `count` ranks have, in float32, and the ranks."""
    ranks, models = ThreadRanks(count), []
    for index in range(count):
        rank = Rank(index, count)
        model = load_weights(rank_part(checkpoint, rank), torch.device("cpu"), torch.float32, packing=packing)
        connect(model, checkpoint.config, parts_of(checkpoint.config, rank), rank, ranks.rank(index))
        models.append(model)
    return models, ranks


def logits_of_all(split: tuple[Sequence[Transformer], ThreadRanks], pieces: Sequence[Tensor]) -> list[Tensor]:
    """The logits (T, V) that each rank computes for a text, read into a cache in `pieces` (1, t)."""
    models, ranks = split

    def run(model: Transformer) -> Tensor:
        try:
            with torch.inference_mode():
                cache = model.new_cache()
                cache.expected_length = sum(piece.shape[1] for piece in pieces)
                return torch.cat([model(piece, cache)[0] for piece in pieces])
        except BaseException:
            ranks.barrier.abort()
            raise

    with ThreadPoolExecutor(len(models)) as pool:
        futures = [pool.submit(run, model) for model in models]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
