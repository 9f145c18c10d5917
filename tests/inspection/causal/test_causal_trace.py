"""Restoring a state equals a whole pass with that state, and the last residual carries the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.errors import UsageError
from llmcli.inspection.causal.causal_trace import _NOISE, causal_trace
from llmcli.inspection.core.hooks import adder, blocks, removed
from llmcli.views.inspect.causal_trace import causal_trace_view
from tests.support.models.inspected_families import family
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm
from tests.support.terminal.drawing import drawn

IDS = random_ids(7)
SUBJECT = (2, 3)


@pytest.fixture(params=["llama 2, grouped", "gemma 2", "pythia, parallel"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> llmcli.LoadedModel:
    return family(request.param, tmp_path)[1]


def test_restoring_the_last_residual_restores_the_answer(loaded: llmcli.LoadedModel) -> None:
    result = causal_trace(loaded, IDS, SUBJECT, samples=2)
    last = loaded.config.num_layers - 1
    assert result.hidden[-1][last] == pytest.approx(result.answer.prob, rel=1e-4)
    for at in range(len(IDS) - 1):
        # After the last block no token attends to another.
        assert result.hidden[at][last] == pytest.approx(result.corrupted, rel=1e-4)
    for grid in (result.hidden, result.feed_forward, result.attention):
        assert grid[0] == grid[1] == (result.corrupted,) * loaded.config.num_layers
    assert result.corrupted != pytest.approx(result.answer.prob, rel=1e-3)


@pytest.mark.parametrize("part", ["feed_forward", "attention"])
def test_restoring_a_part_equals_a_whole_pass(loaded: llmcli.LoadedModel, part: str) -> None:
    result = causal_trace(loaded, IDS, SUBJECT, samples=1, seed=5)
    model, layer, at = loaded.model, 1, 4
    module = adder(blocks(model)[layer], part)  # type: ignore[arg-type]
    clean: list[torch.Tensor] = []
    embedded: list[torch.Tensor] = []
    with removed(
        [
            module.register_forward_hook(lambda _module, _inputs, output: clean.append(output)),
            model.layers[0].register_forward_pre_hook(lambda _module, inputs: embedded.append(inputs[0])),
        ]
    ):
        loaded.logits(IDS)
    noise = torch.randn((1, 2, loaded.config.hidden_size), generator=torch.Generator().manual_seed(5))

    def drown(_module: object, inputs: tuple[torch.Tensor, ...]) -> tuple[object, ...]:
        x = inputs[0].clone()
        x[:, list(SUBJECT)] += _NOISE * embedded[0].std() * noise
        return (x, *inputs[1:])

    def restore(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, at] = clean[0][:, at]
        return output

    with removed([model.layers[0].register_forward_pre_hook(drown), module.register_forward_hook(restore)]):
        expected = loaded.logits(IDS)[-1].softmax(-1)[result.answer.id]
    # With so few blocks the window is one block.
    assert result.window == 1
    grid = result.feed_forward if part == "feed_forward" else result.attention
    assert grid[at][layer] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "at_once"),
    [
        ("llama 2, grouped", 1024),
        ("llama 2, grouped", 20),
        ("gemma 2", 1),
        ("pythia, parallel", 1024),
        ("mistral, window shorter than the text", 50),
        ("deepseek v3", 1024),
        ("qwen2-moe", 1024),
    ],
)
def test_restoring_every_state_equals_whole_passes(name: str, at_once: int, tmp_path: Path) -> None:
    model_type, overrides = CASES[name]
    model = tiny_model(
        model_type, **{**overrides, "num_hidden_layers": 6, **({"sliding_window": 3} if "window" in name else {})}
    )
    loaded = llmcli.load(save(model, tmp_path), dtype="float32", device="cpu")
    told: list[tuple[int, int]] = []
    result = causal_trace(
        loaded,
        IDS,
        SUBJECT,
        samples=2,
        window_share=0.5,
        tokens_at_once=at_once,
        progress=lambda done, total: told.append((done, total)),
    )
    expected = plainly(loaded, result.answer.id, window=3)
    for kind in ("hidden", "feed_forward", "attention"):
        found = torch.tensor(getattr(result, kind))
        assert torch.allclose(found, expected[kind], rtol=2e-3, atol=1e-6), kind
    assert told == sorted(told) and told[-1] == (18 * 5, 18 * 5)


@torch.inference_mode()
def plainly(loaded: llmcli.LoadedModel, answer: int, *, window: int) -> dict[str, torch.Tensor]:
    """The grids by one whole pass for each state and noise."""
    model, layers = loaded.model, loaded.config.num_layers
    each = blocks(model)
    clean: dict[tuple[str, int], torch.Tensor] = {}

    def keep(kind: str, layer: int) -> Callable[[object, object, torch.Tensor], None]:
        return lambda _module, _inputs, output: clean.__setitem__((kind, layer), output)

    embedded: list[torch.Tensor] = []
    looking = [each[0].register_forward_pre_hook(lambda _module, inputs: embedded.append(inputs[0]))]
    for layer, block in enumerate(each):
        looking.append(block.register_forward_hook(keep("hidden", layer)))
        looking.append(adder(block, "feed_forward").register_forward_hook(keep("feed_forward", layer)))
        looking.append(adder(block, "attention").register_forward_hook(keep("attention", layer)))
    with removed(looking):
        loaded.logits(IDS)
    noises = torch.randn((2, 2, loaded.config.hidden_size), generator=torch.Generator().manual_seed(0))

    def probability(kind: str, restore: range, at: int) -> float:
        def restored(layer: int) -> Callable[[object, object, torch.Tensor], torch.Tensor]:
            def restore(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
                output = output.clone()
                output[:, at] = clean[kind, layer][:, at]
                return output

            return restore

        found = []
        for noise in noises:

            def drown(_module: object, inputs: tuple[torch.Tensor, ...], noise: torch.Tensor = noise) -> object:
                x = inputs[0].clone()
                x[:, list(SUBJECT)] += _NOISE * embedded[0].std() * noise
                return (x, *inputs[1:])

            hooks = [each[0].register_forward_pre_hook(drown)]
            for layer in restore:
                module = each[layer] if kind == "hidden" else adder(each[layer], kind)  # type: ignore[arg-type]
                hooks.append(module.register_forward_hook(restored(layer)))
            with removed(hooks):
                found.append(float(loaded.logits(IDS)[-1].softmax(-1)[answer]))
        return sum(found) / len(found)

    def grid(kind: str) -> torch.Tensor:
        rows = []
        for at in range(len(IDS)):
            row = []
            for layer in range(layers):
                around = range(max(0, layer - window // 2), min(layers, layer - window // 2 + window))
                restore = range(layer, layer + 1) if kind == "hidden" else around
                row.append(probability(kind, restore if at >= min(SUBJECT) else range(0), at))
            rows.append(row)
        return torch.tensor(rows)

    return {kind: grid(kind) for kind in ("hidden", "feed_forward", "attention")}


def test_a_map_has_a_line_for_every_token_from_the_subject_on(tmp_path: Path) -> None:
    loaded = family("llama 2, grouped", tmp_path)[1]
    result = causal_trace(loaded, IDS, SUBJECT, samples=1)
    text = drawn(causal_trace_view(result), width=200)
    assert text.count("*") >= len(SUBJECT)
    assert all(name in text for name in ("residual stream", "feed-forward", "attention"))
    with pytest.raises(UsageError):
        causal_trace(loaded, IDS, ())


def test_the_trace_command_and_its_json(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "llama")
    result = llm("trace", "The tower of Ulm is", "--subject", "tower", "-m", folder, "--samples", 1, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["schema"] == "llmcli.causal-trace/1"
    assert "".join(found["tokens"][at]["text"] for at in found["subject"]) == "tower"
    assert len(found["hidden"]) == len(found["tokens"]) and len(found["hidden"][0]) == 3
    assert llm("trace", "The tower", "--subject", "castle", "-m", folder).returncode == 2
