from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

import llmcli
from llmcli.errors import UsageError
from llmcli.hub.starter import fetch_starter, starter_path
from llmcli.inspection.core.activations import trace
from llmcli.inspection.core.hooks import blocks, on_router
from llmcli.inspection.core.neuron_values import Expert, promotion, written
from llmcli.inspection.feed_forward.neurons import neuron_along, neurons
from llmcli.inspection.residual.logit_attribution import attribution
from llmcli.kernels.readable_step import ReadableStep
from llmcli.model.feed_forward import FeedForward, PlainFeedForward
from tests.support.models.inspected_families import family
from tests.support.models.tiny import random_ids

IDS = random_ids(20)
FAMILIES = ("llama 2, grouped", "gpt-2", "gemma 2", "qwen2-moe", "deepseek v3", "gpt-oss", "llama 4")


@pytest.fixture(params=FAMILIES, scope="module")
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return family(request.param, tmp_path_factory.mktemp("model"))[1]


@pytest.mark.parametrize("position", [0, 7, 19])
def test_the_ranking_is_the_attribution_of_the_most_probable_token(loaded: llmcli.LoadedModel, position: int) -> None:
    found = neurons(loaded, IDS, position, count=6, top=2)
    probs = loaded.logits(IDS)[position, :261].softmax(-1)
    assert (found.token.id, found.target.id) == (IDS[position], int(probs.argmax()))
    assert found.target.prob == pytest.approx(float(probs.max()), rel=1e-3)
    same = attribution(
        loaded, trace(loaded.model, IDS[: position + 1], [position], parts=True), 0, found.target.id, strongest=6, top=2
    )
    assert (found.neurons, found.logit, found.mean_logit) == (same.neurons, same.logit, same.mean_logit)
    other = neurons(loaded, IDS, position, target=(found.target.id + 1) % 261, count=6)
    assert other.target.id != found.target.id
    assert other.neurons != found.neurons


def test_a_dense_neuron_s_activations_are_the_inputs_of_its_output_projection(
    loaded: llmcli.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block, place in enumerate(blocks(loaded.model)):
        if not isinstance(place.mlp, FeedForward | PlainFeedForward):
            continue
        read: list[Tensor] = []
        handle = place.mlp.down_proj.register_forward_pre_hook(lambda _, inputs, read=read: read.append(inputs[0][0]))
        loaded.logits(IDS)
        handle.remove()
        monkeypatch.setattr(ReadableStep, "prefill_chunk", 6)
        found = neuron_along(loaded, IDS, block, 7, top=3)
        assert [at.activation for at in found.activations] == pytest.approx(read[0][:, 7].tolist(), rel=1e-3, abs=1e-5)
        assert [(at.position, at.token.id) for at in found.activations] == list(enumerate(IDS))
        strongest = max((at.activation or 0.0 for at in found.activations), key=abs)
        spoken = promotion(loaded, block, written(place.mlp, 7, None) * (1 if strongest > 0 else -1), 3)
        assert (found.promotes, found.suppresses) == (spoken.promotes, spoken.suppresses)


@pytest.mark.parametrize("loaded", FAMILIES[3:], indirect=True)
def test_an_experts_neuron_fires_where_its_expert_is_chosen_and_as_the_ranking_says(
    loaded: llmcli.LoadedModel,
) -> None:
    chosen: dict[int, Tensor] = {}
    with on_router(loaded.model, lambda block, _, experts, __: chosen.update({block: experts})):
        loaded.logits(IDS)
    for neuron in neurons(loaded, IDS, 19, count=20).neurons:
        along = neuron_along(loaded, IDS, neuron.block, neuron.neuron, expert=neuron.expert)
        assert along.activations[19].activation == pytest.approx(neuron.activation, rel=1e-3, abs=1e-5)
        fires = [at.activation is not None for at in along.activations]
        if isinstance(neuron.expert, int):
            assert fires == (chosen[neuron.block] == neuron.expert).any(1).tolist()
        else:
            assert all(fires)


@pytest.mark.parametrize(
    ("name", "block", "neuron", "expert", "complaint"),
    [
        ("llama 2, grouped", 3, 0, None, "no block 3"),
        ("llama 2, grouped", -1, 0, None, "no block -1"),
        ("llama 2, grouped", 0, 48, None, "no neuron 48"),
        ("llama 2, grouped", 0, -1, None, "no neuron -1"),
        ("llama 2, grouped", 0, 0, 1, "no experts"),
        ("mixtral", 0, 0, None, "one of its 4 experts"),
        ("mixtral", 0, 0, 4, "one of its 4 experts"),
        ("mixtral", 0, 0, "shared", "one of its 4 experts"),
        ("deepseek v3", 1, 24, "shared", "no neuron 24"),
        ("deepseek v3", 1, 0, None, 'or "shared"'),
    ],
)
def test_neurons_that_do_not_exist_are_refused(
    tmp_path: Path, name: str, block: int, neuron: int, expert: Expert, complaint: str
) -> None:
    _, loaded = family(name, tmp_path)
    with pytest.raises(UsageError, match=complaint):
        neuron_along(loaded, IDS, block, neuron, expert=expert)


@pytest.mark.starter
def test_on_the_starter_the_neuron_of_capitals_fires_where_paris_comes_next() -> None:
    loaded = llmcli.load(starter_path() or fetch_starter(), dtype="float32", device="cpu")
    ids = [1, *loaded.tokenizer.encode("The capital of France is Paris")]
    found = neuron_along(loaded, ids, 24, 1005)
    fired = [at.activation or 0.0 for at in found.activations]
    assert fired.index(min(fired)) == 5
    assert fired[5] == pytest.approx(-22.4, abs=0.5)
    assert found.promotes[0].text == " capitals"
