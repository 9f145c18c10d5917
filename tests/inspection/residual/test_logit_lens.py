from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import llmcli
from llmcli.errors import UsageError
from llmcli.hub.starter import fetch_starter, starter_path
from llmcli.inspection.core.activations import trace
from llmcli.inspection.residual.logit_lens import Lens, lens, lens_of
from tests.support.models.inspected_families import FAMILIES, family
from tests.support.models.tiny import random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(20)
TOKENS = 261  # the byte tokenizer's


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return llmcli.load(tiny_checkpoint(tmp_path_factory.mktemp("model"), "llama"), dtype="float32", device="cpu")


def unembedded(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The reference's final norm and output head, with the logit scale and cap of its config."""
    base, config = getattr(model, "model", model.base_model), model.config
    names = ("norm", "ln_f", "final_layernorm", "final_layer_norm")
    norm = next(getattr(base, name) for name in names if hasattr(base, name))
    logits: torch.Tensor = model.get_output_embeddings()(norm(hidden))
    stated = getattr(config, "logits_scaling", 1.0)
    # HyperCLOVAX multiplies by what Granite divides by.
    scale = stated if config.model_type == "hyperclovax" else 1 / stated
    logits = logits * getattr(config, "logit_scale", 1.0) * scale
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_lens_layer_equals_the_reference(name: str, tmp_path: Path) -> None:
    model, loaded = family(name, tmp_path)
    with torch.inference_mode():
        output = model(torch.tensor([IDS]), output_hidden_states=True)
        # The last of these is after the final norm.
        logits = [unembedded(model, hidden[0]) for hidden in output.hidden_states[:-1]] + [output.logits[0]]
    logprobs = torch.stack(logits)[..., :TOKENS].log_softmax(-1)  # (L + 1, T, V)
    final = logprobs[-1]
    for found in lens(loaded, IDS, [0, 7, 19], top=3).lens:
        at, best = found.position, int(final[found.position].argmax())
        assert found.token.id == best
        assert len(found.layers) == len(logprobs)
        for layer, theirs in zip(found.layers, logprobs[:, at], strict=True):
            assert [token.id for token in layer.top] == theirs.topk(3).indices.tolist()
            assert [token.prob for token in layer.top] == pytest.approx(theirs.topk(3).values.exp().tolist(), rel=2e-3)
            assert layer.rank == int((theirs > theirs[best]).sum()) + 1
            assert layer.kl == pytest.approx(float((final[at].exp() * (final[at] - theirs)).sum()), abs=1e-3)
        assert (found.layers[-1].kl, found.layers[-1].rank) == (0.0, 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_last_lens_layer_is_the_model_s_distribution(tmp_path: Path, dtype: str) -> None:
    loaded = llmcli.load(
        tiny_checkpoint(tmp_path, "gemma2", head_dim=8, final_logit_softcapping=2.0), dtype=dtype, device="cpu"
    )
    last = lens(loaded, IDS, [19], top=TOKENS).lens[0].layers[-1]
    probs = loaded.logits(IDS)[-1, :TOKENS].float().softmax(-1)
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    assert [token.prob for token in last.top] == pytest.approx(
        [float(probs[token.id]) for token in last.top], rel=tolerance
    )
    assert sum(token.prob for token in last.top) == pytest.approx(1, abs=1e-5)
    assert (last.kl, last.rank) == (0.0, 1)


def test_lens_positions_are_independent_of_each_other(loaded: llmcli.LoadedModel) -> None:
    together = lens(loaded, IDS, range(20), top=2)
    in_chunks = lens_of(loaded, trace(loaded.model, IDS, range(20)), top=2, logits_at_once=3 * TOKENS)
    assert [token.id for token in together.tokens] == IDS
    for one, other in zip(together.lens, in_chunks, strict=True):
        alone = lens(loaded, IDS, [one.position], top=2).lens[0]
        for layer, same, again in zip(one.layers, other.layers, alone.layers, strict=True):
            assert (layer.layer, layer.rank) == (same.layer, same.rank) == (again.layer, again.rank)
            assert layer.kl == pytest.approx(same.kl, abs=1e-5) == pytest.approx(again.kl, abs=1e-5)


def test_a_token_leads_from_the_layer_after_the_last_in_which_it_does_not(loaded: llmcli.LoadedModel) -> None:
    seen = set()
    for seed in range(8):
        for found in lens(loaded, random_ids(20, seed=seed), range(20), top=1).lens:
            elsewhere = [layer.layer for layer in found.layers if layer.top[0].id != found.token.id]
            assert found.leads_from == max(elsewhere, default=-1) + 1
            seen.add(found.leads_from)
    assert len(seen) > 2


def test_another_token_can_be_followed(loaded: llmcli.LoadedModel) -> None:
    traced = trace(loaded.model, IDS, [5, 9])
    logprobs = loaded.logits(IDS)[:, :TOKENS].log_softmax(-1)
    for found, target in zip(lens_of(loaded, traced, follow=[40, 41]), (40, 41), strict=True):
        expected = int((logprobs[found.position] > logprobs[found.position, target]).sum()) + 1
        assert (found.token.id, found.layers[-1].rank) == (target, expected)
        assert expected > 1
        assert found.leads_from is None


def test_padding_rows_of_the_head_are_ignored(tmp_path: Path) -> None:
    model = tiny_model("llama", vocab_size=320)
    with torch.no_grad():
        model.lm_head.weight[TOKENS:] = 50 * model.lm_head.weight[:59]
    loaded = llmcli.load(save(model, tmp_path), dtype="float32", device="cpu")
    assert int(loaded.logits(IDS)[:, TOKENS:].argmax()) > 0
    found: Lens = lens(loaded, IDS, range(20), top=400)
    for position in found.lens:
        for layer in position.layers:
            assert sorted(token.id for token in layer.top) == list(range(TOKENS))
            assert sum(token.prob for token in layer.top) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("ids", "positions"), [([], [0]), (IDS, [20]), (IDS, [])])
def test_lens_positions_outside_the_text_are_refused(
    loaded: llmcli.LoadedModel, ids: list[int], positions: list[int]
) -> None:
    with pytest.raises(UsageError):
        lens(loaded, ids, positions)


@pytest.mark.starter
def test_on_the_starter_paris_is_found_late() -> None:
    loaded = llmcli.load(starter_path() or fetch_starter(), dtype="float32", device="cpu")
    # With BOS, as in the text from which these numbers were taken.
    ids = [1, *loaded.tokenizer.encode("The capital of France is")]
    found = lens(loaded, ids, [5]).lens[0]
    assert (found.token.text, found.leads_from) == (" Paris", 28)
    assert found.layers[0].top[0].id == ids[-1]
    assert found.layers[0].top[0].prob > 0.99
    assert all(layer.kl > 15 for layer in found.layers[:24])
