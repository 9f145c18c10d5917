from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import llmcli
from llmcli.errors import PromptTooLongError, UsageError
from llmcli.inspection.core.activations import trace
from llmcli.inspection.core.hooks import on_added, on_feed_forward, on_heads, on_residual
from llmcli.model import Transformer
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

FAMILIES = [
    "llama 2, grouped", "llama, dynamic", "mistral, window shorter than the text", "gemma 2", "olmo 2", "phi-2",
    "granite", "gpt-2", "mixtral, window", "deepseek v3", "gpt-oss", "llama 4",
]  # fmt: skip
IDS = random_ids(30)


def load(name: str, folder: Path) -> Transformer:
    model_type, overrides = CASES[name]
    return llmcli.load(tiny_checkpoint(folder, model_type, **overrides), dtype="float32", device="cpu").model


@pytest.fixture(params=FAMILIES, scope="module")
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    return load(request.param, tmp_path_factory.mktemp("model"))


def close(ours: Tensor, whole: Tensor) -> bool:
    return ours.shape == whole.shape and float((ours - whole).abs().max() / whole.abs().max()) < 2e-5


@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize("positions", [[29], [3, 4, 17]], ids=str)
def test_a_trace_equals_one_pass_over_the_text(
    model: Transformer, positions: list[int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    residuals: dict[int, Tensor] = {}
    added: dict[tuple[int, str], Tensor] = {}
    heads: dict[int, Tensor] = {}
    inputs: dict[int, Tensor] = {}
    with (
        torch.inference_mode(),
        on_residual(model, residuals.__setitem__),
        on_added(model, lambda block, part, x: added.__setitem__((block, part), x)),
        on_heads(model, heads.__setitem__),
        on_feed_forward(model, inputs.__setitem__),
    ):
        model(torch.tensor([IDS]))

    def rows(seen: dict[int, Tensor]) -> Tensor:
        return torch.stack([seen[index][0, positions] for index in sorted(seen)])

    monkeypatch.setattr("llmcli.kernels.readable_step.ReadableStep.prefill_chunk", chunk)
    told: list[tuple[int, int]] = []
    found = trace(model, IDS, positions, parts=True, progress=lambda done, total: told.append((done, total)))
    assert found.positions == tuple(positions)
    assert close(found.residuals, rows(residuals))
    assert close(found.heads, rows(heads))
    assert close(found.feed_forward_inputs, rows(inputs))
    for part in ("attention", "feed_forward"):
        assert close(found.added[part], rows({block: x for (block, kind), x in added.items() if kind == part}))
    layers = model.config.num_layers
    chunks = [(start, min(start + chunk, 30)) for start in range(0, 30, chunk)]
    done = [start + (stop - start) * block // layers for start, stop in chunks for block in range(layers + 1)]
    assert told == [(tokens, 30) for tokens in done]


def test_residuals_without_parts_are_the_same(model: Transformer) -> None:
    alone, full = trace(model, IDS, [5, 9]), trace(model, IDS, [5, 9], parts=True)
    assert torch.equal(alone.residuals, full.residuals)
    assert not alone.added and not len(alone.heads) and not len(alone.feed_forward_inputs)


def test_the_last_residual_unembeds_to_the_logits(model: Transformer) -> None:
    found = trace(model, IDS, [29])
    with torch.inference_mode():
        assert close(model.unembed(found.residuals[-1]), model(torch.tensor([IDS]))[0, -1:])


@pytest.mark.parametrize("positions", [[], [-1], [30], [3, 400]], ids=str)
def test_positions_outside_the_text_are_refused(model: Transformer, positions: list[int]) -> None:
    with pytest.raises(UsageError, match="30 tokens"):
        trace(model, IDS, positions)


def test_texts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = load("llama 2, grouped", tmp_path)
    with pytest.raises(PromptTooLongError, match="129 tokens"):
        trace(model, random_ids(129), [0])
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
