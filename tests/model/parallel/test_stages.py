"""Stages of a pipeline have all layers between them, and compute what the whole model computes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import Queue

import pytest
import torch
from torch import Tensor

from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.load_weights import load_weights
from llmcli.checkpoint.rank_part import stage_part
from llmcli.errors import UnsupportedModelError
from llmcli.model.parallel.split import Rank
from llmcli.model.parallel.stages import PipelineStage, stage_layers
from tests.support.models.parity_cases import CASES, SPANNING
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import shared_checkpoint

CPU = torch.device("cpu")
IDS = random_ids(40)
PIECES = torch.split(torch.tensor([IDS]), [9, 1, 30], dim=1)
FAMILIES = {**{name: CASES[name] for name in SPANNING}, **{name: RECURRENT[name] for name in ("mamba 2", "lfm 2")}}


class ThreadNeighbors:
    """Stages as threads of this process, with a queue for each pair."""

    def __init__(self, queues: dict[tuple[int, int], Queue[Tensor]], index: int) -> None:
        self.queues, self.index = queues, index

    def send_to(self, rank: int, x: Tensor) -> None:
        self.queues[self.index, rank].put(x)

    def receive_from(self, rank: int, like: Tensor) -> Tensor:
        received = self.queues[rank, self.index].get(timeout=60)
        assert (received.shape, received.dtype) == (like.shape, like.dtype)
        return received


def logits(stage: PipelineStage) -> Tensor:
    with torch.inference_mode():
        cache = stage.new_cache()
        cache.expected_length = len(IDS)
        return torch.cat([stage(piece, cache)[0] for piece in PIECES])


@pytest.mark.parametrize("case", sorted(FAMILIES))
def test_the_first_stage_gets_the_logits_of_one_process(case: str) -> None:
    model_type, overrides = FAMILIES[case]
    checkpoint = open_checkpoint(shared_checkpoint(model_type, **overrides))
    if checkpoint.config.why_not_restartable is not None:
        with pytest.raises(UnsupportedModelError, match="cannot be split into stages"):
            stage_layers(checkpoint.config, 2)
        return
    whole = load_weights(checkpoint, CPU, torch.float32)
    with torch.inference_mode():
        expected = whole(torch.tensor([IDS]))[0]
    count = 3
    queues = {(one, other): Queue[Tensor]() for one in range(count) for other in range(count)}
    stages = []
    for index, layers in enumerate(stage_layers(checkpoint.config, count)):
        part = stage_part(checkpoint, layers)
        stage = load_weights(part, CPU, torch.float32, kind=partial(PipelineStage, rank=Rank(index, count)))
        assert isinstance(stage, PipelineStage)
        stage.neighbors = ThreadNeighbors(queues, index)
        stages.append(stage)
    with ThreadPoolExecutor(count) as pool:
        first, *_ = pool.map(logits, stages)
    assert float((first - expected).abs().max() / expected.abs().max()) < 2e-5


def test_layers_are_shared_by_weights_and_memory() -> None:
    model_type, overrides = CASES["llama 1"]
    config = open_checkpoint(shared_checkpoint(model_type, **{**overrides, "num_hidden_layers": 8})).config
    assert [len(layers) for layers in stage_layers(config, 2)] == [4, 4]
    assert [len(layers) for layers in stage_layers(config, 2, [1, 3])] == [1, 7]
    assert [len(layers) for layers in stage_layers(config, 8)] == [1] * 8
    with pytest.raises(UnsupportedModelError, match="8 layers, which cannot be split into 9 stages"):
        stage_layers(config, 9)
