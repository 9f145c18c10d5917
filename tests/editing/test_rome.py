"""The update: its closed form, and that its key maps to its value."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.checkpoint.edits.edit_file import Edit, LayerUpdate, edited
from llmcli.editing.covariance import second_moments
from llmcli.editing.mlp_keys import network_of, subject_keys
from llmcli.editing.prompt import passage, spaced
from llmcli.editing.rome import make_update, rank_one
from llmcli.errors import UsageError
from tests.support.models.edited_model import CORPUS, FACT, checkpoint
from tests.support.models.parity_cases import CASES


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return llmcli.load(checkpoint(tmp_path_factory.mktemp("model")), dtype="float32", device="cpu")


def test_the_update_adds_the_change_to_the_key_and_follows_the_inverse_moment() -> None:
    random = torch.Generator().manual_seed(0)
    keys = torch.randn(200, 16, generator=random) @ torch.randn(16, 16, generator=random)
    key, change = torch.randn(16, generator=random), torch.randn(6, generator=random)
    moment = keys.T @ keys / len(keys)
    read, write = rank_one(key, change, moment)
    torch.testing.assert_close(write * (read @ key), change, rtol=1e-4, atol=1e-5)
    # (C + ridge) read is along the key: the solution of the constrained least squares problem.
    ridge = 0.01 * moment.diagonal().mean() * torch.eye(16)
    along = (moment + ridge) @ read
    torch.testing.assert_close(along / along.norm(), key / key.norm(), rtol=1e-3, atol=1e-4)


def test_the_update_moves_ordinary_keys_least() -> None:
    random = torch.Generator().manual_seed(1)
    keys = torch.randn(400, 12, generator=random) * torch.linspace(0.1, 3, 12)
    key, change = torch.randn(12, generator=random), torch.randn(5, generator=random)
    read, _ = rank_one(key, change, keys.T @ keys / len(keys))
    moved = (keys @ read).square().mean()
    for _ in range(50):
        other = read + 0.3 * torch.randn(12, generator=random)
        other = other / (other @ key)
        # The ridge costs a hundredth.
        assert moved < (keys @ other).square().mean() * 1.02


def test_the_moment_is_the_mean_over_all_keys_but_first_tokens(loaded: llmcli.LoadedModel) -> None:
    texts = [list(range(5, 25)), list(range(40, 47)), [3, 4]]
    moment = second_moments(loaded, [1], texts)[1]
    seen: list[torch.Tensor] = []
    network = network_of(loaded.model, 1)
    hook = network.down_proj.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0][0, 1:]))
    for text in texts:
        loaded.logits(text)
    hook.remove()
    keys = torch.cat(seen)
    torch.testing.assert_close(moment, keys.T @ keys / len(keys), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("model_type", "overrides"),
    [CASES["smollm"], ("llama", {"hidden_act": "gelu_pytorch_tanh"}), CASES["olmo 2"], CASES["gpt-2"]],
    ids=["SwiGLU", "GeGLU", "output norm", "no gate"],
)
def test_the_average_key_maps_to_the_new_value(model_type: str, overrides: dict[str, object], tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, model_type, **{**overrides, "n_positions": 512})
    loaded = llmcli.load(folder, dtype="float32", device="cpu")
    contexts = ("", "Yes. ", "No: ")
    passages = [passage(loaded, context + FACT.prompt, FACT.subject, FACT.target) for context in contexts]
    essence = passage(loaded, f"{FACT.subject} is a", FACT.subject, FACT.target)
    moment = second_moments(loaded, [1], [loaded.tokenizer.encode(CORPUS)[:400]])[1]
    update = make_update(loaded, 1, passages, essence, moment)
    key = subject_keys(loaded.model, [1], passages)[1].mean(0)
    down = network_of(loaded.model, 1).down_proj
    before = down(key)
    edit = Edit("", "", "", "", "", (LayerUpdate(1, update.read, update.write),))
    with edited(loaded.model, [edit]):
        after = network_of(loaded.model, 1).down_proj(key)
    torch.testing.assert_close(after - before, update.write, rtol=1e-3, atol=1e-4)
    assert 0 < update.length <= 4 + 1e-4


def test_the_subject_ends_where_its_last_token_does(loaded: llmcli.LoadedModel) -> None:
    found = passage(loaded, "In Ulm the tower of Ulm is", "tower of Ulm", "tall")
    # The beginning of a text, then a token for each byte.
    assert found.subject == len("In Ulm the tower of Ulm")
    assert bytes(loaded.tokenizer.token_bytes(token)[0] for token in found.answer) == b" tall"


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [("is in", "Rome", " Rome"), ("is in ", " Rome ", " Rome"), ('he said "', "no", "no"), ("東京は", "日本", "日本")],
)
def test_answers_begin_with_a_space_where_one_belongs(text: str, answer: str, expected: str) -> None:
    assert spaced(text, answer) == expected


@pytest.mark.parametrize(
    ("subject", "answer", "message"),
    [("castle", "Bonn", "does not contain"), (" ", "Bonn", "empty"), ("tower", "", "empty")],
)
def test_empty_or_missing_subjects_are_refused(
    loaded: llmcli.LoadedModel, subject: str, answer: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        passage(loaded, FACT.prompt, subject, answer)
