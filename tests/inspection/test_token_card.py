from __future__ import annotations

from pathlib import Path

import pytest

import llmcli
from llmcli.errors import UsageError
from llmcli.hub.starter import fetch_starter, starter_path
from llmcli.inspection.attention.pattern import attention_pattern
from llmcli.inspection.attention.summary import read_at
from llmcli.inspection.core.ablation import without_heads, without_neurons
from llmcli.inspection.residual.logit_attribution import single_token
from llmcli.inspection.residual.logit_lens import lens
from llmcli.inspection.token_card import HeadName, NeuronName, TokenCard, inspect_token
from llmcli.kernels.readable_step import ReadableStep
from tests.support.models.inspected_families import family
from tests.support.models.tiny import random_ids

IDS = random_ids(20)
FAMILIES = ("llama 2, grouped", "mistral, window shorter than the text", "gemma 2", "deepseek v3", "gpt-oss")


@pytest.fixture(params=FAMILIES, scope="module")
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return family(request.param, tmp_path_factory.mktemp("model"))[1]


@pytest.mark.parametrize("index", [1, 8, 19, 20, -1, -12])
def test_a_card_predicts_from_the_tokens_before(loaded: llmcli.LoadedModel, index: int) -> None:
    card = inspect_token(loaded, IDS, index, top=3)
    place = index % 20 if index < 0 else index
    logits = loaded.logits(IDS[:place])[-1, :261]
    probs = logits.softmax(-1)
    expected = IDS[place] if place < 20 else int(probs.argmax())
    assert (card.token.index, card.token.id, card.token.stands) == (place, expected, place < 20)
    assert card.token.prob == pytest.approx(float(probs[expected]), rel=1e-3)
    assert card.token.rank == int((probs > probs[expected]).sum()) + 1
    assert card.entropy == pytest.approx(float(-(probs * probs.log()).sum()), rel=1e-4)
    assert [candidate.id for candidate in card.candidates] == probs.topk(3).indices.tolist()
    assert (card.before.id, card.lens.position) == (IDS[place - 1], place - 1)
    assert (card.lens.token.id, card.attribution.token.id) == (expected, expected)
    followed = lens(loaded, IDS[:place], [place - 1], top=1).lens[0].layers
    assert [layer.kl for layer in card.lens.layers] == pytest.approx([layer.kl for layer in followed], abs=1e-4)
    assert card.verify is None


def test_attention_row_and_strongest_tokens_of_heads(loaded: llmcli.LoadedModel) -> None:
    card = inspect_token(loaded, IDS, 15, top=4)
    row = read_at(loaded, IDS[:15], [14], top=4)[0].row
    assert card.read is not None
    assert card.read.sink == pytest.approx(row.sink, abs=1e-5)
    assert [item.position for item in card.read.read] == [item.position for item in row.read]
    for head in card.attribution.heads:
        pattern = attention_pattern(loaded, IDS[:15], head.block, head.head, [14]).pattern[0]
        best = max(range(1, 15), key=pattern.__getitem__)
        assert head.looked_at is not None
        assert (head.looked_at.position, head.looked_at.id) == (best, IDS[best])
        assert head.looked_at.weight == pytest.approx(pattern[best], abs=1e-5)


def test_with_only_the_first_token_heads_attend_to_nothing_else(loaded: llmcli.LoadedModel) -> None:
    assert [head.looked_at for head in inspect_token(loaded, IDS, 1).attribution.heads] == [None] * 5


def test_a_text_read_in_chunks_has_the_same_card(loaded: llmcli.LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def summary(card: TokenCard) -> list[object]:
        heads = [(head.block, head.head, head.looked_at and head.looked_at.position) for head in card.attribution.heads]
        neurons = [(neuron.block, neuron.neuron) for neuron in card.attribution.neurons]
        assert card.read is not None
        return [card.token.rank, heads, neurons, [item.position for item in card.read.read]]

    whole = inspect_token(loaded, IDS, 18)
    monkeypatch.setattr(ReadableStep, "prefill_chunk", 5)
    assert summary(inspect_token(loaded, IDS, 18)) == summary(whole)


@pytest.mark.parametrize("loaded", ["llama 2, grouped", "gemma 2", "deepseek v3"], indirect=True)
def test_verification_equals_the_model_without_those_parts(loaded: llmcli.LoadedModel) -> None:
    heard: list[tuple[str, int, int]] = []
    card = inspect_token(
        loaded, IDS, 20, target=40, verify=True, top=3, seed=5, progress=lambda *report: heard.append(report)
    )
    assert card.verify is not None
    assert card.verify.before == card.token.prob
    for ablation in card.verify.ablations:
        heads = [(name.block, name.head) for name in ablation.heads]
        neurons = [(name.block, name.neuron) for name in ablation.neurons]
        with without_heads(loaded.model, heads), without_neurons(loaded.model, neurons):
            expected = float(loaded.logits(IDS)[-1, :261].softmax(-1)[40])
        assert ablation.after == pytest.approx(expected, rel=1e-3)
        assert ablation.after != card.verify.before
    named_heads = [HeadName(head.block, head.head) for head in card.attribution.heads]
    dense = [neuron for neuron in card.attribution.neurons if neuron.expert is None]
    named_neurons = [NeuronName(neuron.block, neuron.neuron) for neuron in dense]
    own = [ablation for ablation in card.verify.ablations if not ablation.control]
    controls = [ablation for ablation in card.verify.ablations if ablation.control]
    assert own[-1].heads == tuple(named_heads)
    assert own[-1].neurons == tuple(named_neurons)
    assert [ablation.heads for ablation in own[:3]] == [(head,) for head in named_heads]
    assert [ablation.neurons for ablation in own[3:-1]] == [(neuron,) for neuron in named_neurons]
    assert len(controls[-1].heads) == 3
    assert len(controls[-1].neurons) == len(named_neurons)
    assert not {*controls[-1].heads} & {*named_heads}
    assert not {*controls[-1].neurons} & {*named_neurons}
    assert heard[0] == ("Reading", 0, 20) and ("Reading", 20, 20) in heard
    assert heard[-1] == ("Verifying", len(card.verify.ablations), len(card.verify.ablations))
    again = inspect_token(loaded, IDS, 20, target=40, verify=True, top=3, seed=5)
    assert again.verify == card.verify


@pytest.mark.parametrize("loaded", ["gpt-oss"], indirect=True)
def test_neurons_of_experts_are_not_ablated(loaded: llmcli.LoadedModel) -> None:
    card = inspect_token(loaded, IDS, 20, verify=True)
    assert card.verify is not None
    assert len(card.attribution.neurons) == 5
    assert all(not ablation.neurons for ablation in card.verify.ablations)
    # Each of five heads and one at random, all of them, and five at random.
    assert len(card.verify.ablations) == 8


@pytest.mark.parametrize(
    ("ids", "index", "complaint"),
    [
        (IDS, 0, "no token is before it"),
        (IDS, -20, "no token is before it"),
        (IDS, 21, "no token 21"),
        (IDS, -21, "no token -21"),
        ([], 0, "no token is before it"),
        ([], 1, "no token 1"),
    ],
)
def test_positions_without_a_prediction_are_refused(tmp_path: Path, ids: list[int], index: int, complaint: str) -> None:
    _, loaded = family("smollm", tmp_path)
    with pytest.raises(UsageError, match=complaint):
        inspect_token(loaded, ids, index)


@pytest.mark.starter
def test_on_the_starter_the_named_parts_matter_and_others_do_not() -> None:
    loaded = llmcli.load(starter_path() or fetch_starter(), dtype="float32", device="cpu")
    ids = [1, *loaded.tokenizer.encode("The capital of France is")]
    card = inspect_token(loaded, ids, len(ids), verify=True, top=3)
    assert card.token.id == single_token(loaded.tokenizer, " Paris")
    assert card.verify is not None
    assert card.verify.before == pytest.approx(0.75, abs=0.01)
    after = {(*ablation.heads, *ablation.neurons): ablation.after for ablation in card.verify.ablations}
    assert after[(HeadName(23, 4),)] == pytest.approx(0.40, abs=0.02)
    assert after[(NeuronName(24, 1005),)] == pytest.approx(0.48, abs=0.02)
    singly = [a.after for a in card.verify.ablations if a.control and len(a.heads) + len(a.neurons) == 1]
    assert singly == pytest.approx([0.75, 0.75], abs=0.03)
    looked = card.attribution.heads[0].looked_at
    assert looked is not None
    assert looked.text == " France"
    assert looked.weight == pytest.approx(0.88, abs=0.02)
