"""The kernel on a real model, compared with the readable model with the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.load_weights import load_weights
from llmcli.hub.starter import fetch_starter, starter_path
from llmcli.kernels.cpu.step import CpuStep
from llmcli.model import Transformer

pytestmark = pytest.mark.starter

TOKENS = 300


@pytest.fixture(scope="module")
def loaded() -> llmcli.LoadedModel:
    return llmcli.load(starter_path() or fetch_starter(), device="cpu")


@pytest.fixture(scope="module")
def ids(loaded: llmcli.LoadedModel) -> list[int]:
    text = (Path(__file__).parents[3] / "LICENSE").read_text(encoding="utf-8")
    found = loaded.tokenizer.encode(text)[:TOKENS]
    assert len(found) == TOKENS
    return found


@pytest.fixture(scope="module")
def readable(loaded: llmcli.LoadedModel, ids: list[int]) -> torch.Tensor:
    """Log-probabilities from the readable model in float32, with the same packed weights."""
    model = load_weights(open_checkpoint(loaded.source), torch.device("cpu"), torch.float32, packing="stored")
    return read(model, ids).log_softmax(-1)


@torch.inference_mode()
def read(model: Transformer, ids: list[int]) -> torch.Tensor:
    cache = model.new_cache(capacity=len(ids))
    return torch.cat([model(torch.tensor([ids[at : at + 250]]), cache)[0].float() for at in range(0, len(ids), 250)])


@pytest.mark.parametrize("chunk", [TOKENS, 13])
def test_the_kernel_gives_the_readable_models_probabilities(
    loaded: llmcli.LoadedModel, ids: list[int], readable: torch.Tensor, chunk: int
) -> None:
    step, cache = CpuStep(loaded.model), loaded.model.new_cache()
    parts = [step.forward(ids[at : at + chunk], cache, only_last=False) for at in range(0, TOKENS, chunk)]
    ours = torch.cat(parts).log_softmax(-1)
    divergence = (readable.exp() * (readable - ours)).sum(-1).mean()
    agreement = (readable.argmax(-1) == ours.argmax(-1)).float().mean()
    wanted = torch.tensor(ids[1:])[:, None]
    perplexities = [float((-logprobs[:-1].gather(1, wanted)).mean().exp()) for logprobs in (readable, ours)]
    print(f"KL {divergence:.2e}, top-1 {agreement:.4f}, perplexity {perplexities[0]:.4f} and {perplexities[1]:.4f}")
    assert float(divergence) < 1e-3
    assert float(agreement) > 0.99
    assert perplexities[1] == pytest.approx(perplexities[0], rel=0.005)


def test_weights_take_little_more_memory_than_the_file(loaded: llmcli.LoadedModel) -> None:
    kept = {buffer.data_ptr(): buffer.nbytes for buffer in loaded.model.buffers()}
    parameters = sum(parameter.nbytes for parameter in loaded.model.parameters())
    assert sum(kept.values()) + parameters < 1.1 * loaded.source.stat().st_size
