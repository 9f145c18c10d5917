"""A state put back does what it does in a whole pass, and what must carry the answer does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.errors import UsageError
from llmcli.inspection.causal_trace import _NOISE, causal_trace
from llmcli.inspection.hooks import adder, blocks, removed
from llmcli.views.causal_trace import causal_trace_view
from tests.commands.running import llm
from tests.inspection.families import family
from tests.tiny import random_ids, save, tiny_model
from tests.views.drawing import drawn

IDS = random_ids(7)
SUBJECT = (2, 3)


@pytest.fixture(params=["llama 2, grouped", "gemma 2", "pythia, parallel"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> llmcli.LoadedModel:
    return family(request.param, tmp_path)[1]


def test_what_is_put_back_at_the_end_is_the_answer_itself(loaded: llmcli.LoadedModel) -> None:
    result = causal_trace(loaded, IDS, SUBJECT, samples=2)
    last = loaded.config.num_layers - 1
    assert result.hidden[-1][last] == pytest.approx(result.answer.prob, rel=1e-4)
    for at in range(len(IDS) - 1):
        # After the last block no token is read by another.
        assert result.hidden[at][last] == pytest.approx(result.corrupted, rel=1e-4)
    for grid in (result.hidden, result.feed_forward, result.attention):
        assert grid[0] == grid[1] == (result.corrupted,) * loaded.config.num_layers
    assert result.corrupted != pytest.approx(result.answer.prob, rel=1e-3)


@pytest.mark.parametrize("part", ["feed_forward", "attention"])
def test_a_part_is_put_back_as_in_a_whole_pass(loaded: llmcli.LoadedModel, part: str) -> None:
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

    def put_back(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, at] = clean[0][:, at]
        return output

    with removed([model.layers[0].register_forward_pre_hook(drown), module.register_forward_hook(put_back)]):
        expected = loaded.logits(IDS)[-1].softmax(-1)[result.answer.id]
    # With so few blocks only one is put back at a time.
    assert result.window == 1
    grid = result.feed_forward if part == "feed_forward" else result.attention
    assert grid[at][layer] == pytest.approx(float(expected), rel=1e-4)


def test_a_map_has_a_line_for_every_token_from_the_subject_on(tmp_path: Path) -> None:
    loaded = family("llama 2, grouped", tmp_path)[1]
    result = causal_trace(loaded, IDS, SUBJECT, samples=1)
    text = drawn(causal_trace_view(result), width=200)
    assert text.count("*") >= len(SUBJECT)
    assert all(name in text for name in ("residual stream", "feed-forward", "attention"))
    with pytest.raises(UsageError):
        causal_trace(loaded, IDS, ())


def test_the_command_and_its_json_twin(tmp_path: Path) -> None:
    folder = save(tiny_model("llama"), tmp_path)
    result = llm("trace", "The tower of Ulm is", "--subject", "tower", "-m", folder, "--samples", 1, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["schema"] == "llmcli.causal-trace/1"
    assert "".join(found["tokens"][at]["text"] for at in found["subject"]) == "tower"
    assert len(found["hidden"]) == len(found["tokens"]) and len(found["hidden"][0]) == 3
    assert llm("trace", "The tower", "--subject", "castle", "-m", folder).returncode == 2
